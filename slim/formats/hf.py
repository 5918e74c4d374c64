"""A Hugging Face directory: `LlamaForCausalLM` with its tokenizer, opened by transformers without any code of ours.

    config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json

Names and layout of the weights are those of the native file, so they are copied as they are.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slim.atomic_file import replace_file
from slim.config import ModelConfig
from slim.errors import SaveError, UsageError
from slim.events import Progress
from slim.formats.narrow import to_bf16, to_f16
from slim.formats.stored_model import StoredModel
from slim.formats.tokenizer_json import tokenizer_json
from slim.imported_tokenizer import ImportedTokenizer
from slim.input_file import reason
from slim.tokenizer import SPECIAL_TOKENS, Tokenizer

DTYPES = {
    "f32": ("F32", "float32", 4),
    "f16": ("F16", "float16", 2),
    "bf16": ("BF16", "bfloat16", 2),
}
# What belongs to another model when it is in the folder already, and what transformers reads if it is there.
_OF_OTHERS = (
    *("model.safetensors.index.json", "adapter_config.json", "chat_template.jinja"),
    *("added_tokens.json", "special_tokens_map.json", "tokenizer.model"),
)
_END_OF_REPLY = SPECIAL_TOKENS.index("<|end|>")
CHAT_TEMPLATE = (  # conversation.py lays turns out like this
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def export_hf(model: StoredModel, out: str | Path, dtype: str = "f32") -> Iterator[Progress]:
    """Write the directory `out`, file by file, `config.json` last; UsageError for a dtype that it cannot have."""
    if dtype not in DTYPES:
        raise UsageError(f"a Hugging Face directory holds f32, f16 or bf16, not {dtype}")
    vocabulary = tokenizer_json(model.tokenizer)  # first, because it may be what cannot be said
    folder = Path(out)
    for name in _OF_OTHERS:
        if os.path.lexists(folder / name):
            raise UsageError(
                f"{out}: holds {name}, which would be read with the model: choose another folder"
            )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise SaveError(f"{out}: cannot be made: {reason(problem)}") from problem
    total = len(model.parameters.shapes)
    narrowed: dict[str, np.ndarray] = {}
    for done, (name, weight) in enumerate(model.parameters):
        yield Progress("exporting", done, total)
        narrowed[name] = _narrowed(weight, dtype)
    replace_file(
        folder / "model.safetensors", [_header(model, dtype), *map(_bytes_of, narrowed.values())]
    )
    for name, record in (
        ("tokenizer.json", vocabulary),
        ("tokenizer_config.json", _tokenizer_config(model)),
        ("generation_config.json", _generation_config(model.tokenizer)),
        ("config.json", config_json(model.config, model.tokenizer, dtype)),
    ):
        replace_file(
            folder / name, [(json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()]
        )
    yield Progress("exporting", total, total)


def config_json(config: ModelConfig, tokenizer: Tokenizer, dtype: str = "f32") -> dict[str, object]:
    """`config.json`, for transformers 4 and 5: they look for theta in different places."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": tokenizer.eos_id,
        "torch_dtype": DTYPES[dtype][1],
    }


def _tokenizer_config(model: StoredModel) -> dict[str, object]:
    tokenizer = model.tokenizer
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    start, end = names.get(tokenizer.start_id), names.get(tokenizer.eos_id)
    record: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": end,
        "pad_token": end,
        "additional_special_tokens": [
            name for name in tokenizer.special_tokens if name not in (start, end)
        ],
        "model_max_length": model.config.max_seq_len,
        "clean_up_tokenization_spaces": False,
    }
    template = chat_template(model)
    return record if template is None else {**record, "chat_template": template}


def chat_template(model: StoredModel) -> str | None:
    """How turns become a text: by role tokens where the model has learnt them, as it came where it was imported."""
    if isinstance(model.tokenizer, ImportedTokenizer):
        return model.tokenizer.vocabulary.chat_template
    return CHAT_TEMPLATE if model.knows_roles else None


def _generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    ends = sorted(tokenizer.end_ids, key=lambda i: (i != tokenizer.eos_id, i))
    if not isinstance(tokenizer, ImportedTokenizer):
        ends.append(_END_OF_REPLY)
    return {
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": ends,
        "pad_token_id": tokenizer.eos_id,
    }


def _header(model: StoredModel, dtype: str) -> bytes:
    kind, _, size = DTYPES[dtype]
    record: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in model.parameters.shapes.items():
        start, end = end, end + size * math.prod(shape)
        record[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(record, separators=(",", ":"))
    header = (text + " " * (-(8 + len(text)) % 64)).encode("ascii")
    return len(header).to_bytes(8, "little") + header


def _narrowed(weight: np.ndarray, dtype: str) -> np.ndarray:
    return {"f32": lambda w: w, "f16": to_f16, "bf16": to_bf16}[dtype](weight)


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
