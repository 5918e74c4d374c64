"""A GGUF file (version 3) for llama.cpp, and the Modelfile that makes it one command in Ollama.

Rows of q and k are interleaved, vectors stay F32. Written tensor by tensor with the `gguf` package, the extra `[gguf]`.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slim.atomic_file import check_writable, replace_file
from slim.errors import SaveError, UsageError
from slim.events import Note, Progress
from slim.formats.hf import chat_template
from slim.formats.narrow import to_bf16, to_f16
from slim.formats.rope_rows import interleaved, rotated_heads
from slim.formats.stored_model import StoredModel
from slim.formats.tokenizer_json import scores_of, whole_names
from slim.imported_tokenizer import BYTE_LEVEL, ImportedTokenizer, Vocabulary
from slim.input_file import reason
from slim.tokenizer import SPECIAL_TOKENS, Tokenizer

OLLAMA_TURNS = (  # the same as hf.CHAT_TEMPLATE, in the language of Go
    "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
)
DTYPES = ("f32", "f16", "bf16", "q8_0")
BLOCK = 32  # numbers of a row that q8_0 scales together
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def export_gguf(
    model: StoredModel, out: str | Path, dtype: str = "f32"
) -> Iterator[Progress | Note]:
    """Write the file `out` and `Modelfile` in its folder. UsageError where the `gguf` package is missing."""
    try:
        import gguf
    except ImportError:
        raise UsageError("GGUF files are written with the gguf package: pip install gguf") from None
    path = Path(os.path.realpath(out))
    check_writable(path)
    kinds = {name: _kind(weight, dtype) for name, weight in model.parameters}
    wide = sum(kind == "f16" for kind in kinds.values()) if dtype == "q8_0" else 0
    if wide:
        yield Note(f"{wide} matrices are stored as f16: q8_0 needs rows that {BLOCK} divides")
    vocabulary = gguf_vocabulary(model.tokenizer)
    imported = model.tokenizer
    if isinstance(imported, ImportedTokenizer) and imported.vocabulary.prefix == "metaspace":
        yield Note(
            "llama.cpp puts a blank before a text that begins with one, which this tokenizer does not"
        )
    temporary = path.parent / f".{path.name[:160]}.{secrets.token_hex(8)}.slim-tmp"
    try:
        writer = gguf.GGUFWriter(str(temporary), "llama")
        _describe(writer, gguf, model, vocabulary)
        for name, weight in model.parameters:
            kind = gguf.GGMLQuantizationType[kinds[name].upper()]
            size = _byte_count(weight, kinds[name])
            writer.add_tensor_info(gguf_name(name), weight.shape, np.dtype(np.float32), size, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, (name, weight) in enumerate(model.parameters):
            yield Progress("exporting", done, len(kinds))
            heads = rotated_heads(name, model.config)
            weight = weight if heads is None else interleaved(weight, heads)
            writer.write_tensor_data(_stored(gguf, weight, kinds[name]))
        for file in writer.fout or []:
            file.flush()
            os.fsync(file.fileno())
        writer.close()
        os.replace(temporary, path)
    except OSError as problem:
        raise SaveError(f"{out}: cannot be saved: {reason(problem)}") from problem
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    replace_file(path.parent / "Modelfile", [modelfile(path.name, model).encode()])
    yield Progress("exporting", len(kinds), len(kinds))


def gguf_name(name: str) -> str:
    """A weight's name in the file, from its Hugging Face name."""
    stem = name.removesuffix(".weight")
    if stem in OUTER_NAMES:
        return f"{OUTER_NAMES[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}.weight"


def modelfile(file_name: str, model: StoredModel) -> str:
    """What `ollama create` reads: turns by role tokens where the model has learnt them, else the prompt as it is.

    Templates are Go's there. One of Jinja, of an imported model, goes into the GGUF file, where Ollama looks whether it
    resembles one that it knows. https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx
    """
    tokenizer = model.tokenizer
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    stops = [names[i] for i in sorted(tokenizer.end_ids) if i in names]
    # Ollama's reader knows no escapes and drops what cannot be printed; such an end is still one to llama.cpp, by its id.
    stops = [name for name in stops if name.isprintable() and '"' not in name]
    lines = [f"FROM ./{file_name}"]
    if isinstance(tokenizer, ImportedTokenizer):
        if tokenizer.vocabulary.chat_template is None:
            lines.append('TEMPLATE "{{ .Prompt }}"')
    else:
        stops.append("<|end|>")
        lines.append(
            f'TEMPLATE """{OLLAMA_TURNS}"""' if model.knows_roles else 'TEMPLATE "{{ .Prompt }}"'
        )
    lines.append(f"PARAMETER num_ctx {model.config.max_seq_len}")
    lines += [f'PARAMETER stop "{name}"' for name in stops]
    return "\n".join(lines) + "\n"


def _describe(writer: Any, gguf: Any, model: StoredModel, vocabulary: GgufVocabulary) -> None:
    config, tokenizer = model.config, model.tokenizer
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    if vocabulary.scores is None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(vocabulary.pre)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(True)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([gguf.TokenType[kind] for kind in vocabulary.kinds])
    if vocabulary.merges:  # an empty list has no type
        writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(tokenizer.start_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    end_of_turn = [i for i in sorted(tokenizer.end_ids) if i != tokenizer.eos_id]
    if not isinstance(tokenizer, ImportedTokenizer):
        end_of_turn = [SPECIAL_TOKENS.index("<|end|>")]
    if end_of_turn:
        writer.add_eot_token_id(end_of_turn[-1])
    if vocabulary.scores is not None and 0 in names:
        writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    template = chat_template(model)
    if template is not None:
        writer.add_chat_template(template)


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """A vocabulary as llama.cpp keeps it: merges and the name of a pattern, or scores."""

    tokens: list[str]
    kinds: list[str]  # of gguf.TokenType
    merges: list[str]
    pre: str
    scores: list[float] | None


def gguf_vocabulary(tokenizer: Tokenizer) -> GgufVocabulary:
    """The vocabulary of a model. UsageError for one that llama.cpp would join otherwise."""
    if not isinstance(tokenizer, ImportedTokenizer):
        record = json.loads(tokenizer.to_json())["model"]
        tokens = sorted(record["vocab"], key=record["vocab"].__getitem__)
        special = len(SPECIAL_TOKENS)
        kinds = ["CONTROL"] * special + ["NORMAL"] * (len(tokens) - special)
        return GgufVocabulary(tokens, kinds, record["merges"], "gpt-2", None)
    known = tokenizer.vocabulary
    scores = None if known.shape == BYTE_LEVEL else scores_of(tokenizer)
    names = whole_names(tokenizer, "a GGUF file")
    kinds = [_token_kind(known, i) for i in range(len(names))]
    if scores is None:
        merges = [f"{names[left]} {names[right]}" for left, right in known.merges]
        pre = {"gpt-2": "gpt-2", "smollm": "smollm", "llama-3": "llama-bpe"}[known.split]
        return GgufVocabulary(names, kinds, merges, pre, None)
    return GgufVocabulary(names, kinds, [], "default", scores)


def _token_kind(known: Vocabulary, i: int) -> str:
    if known.shape != BYTE_LEVEL and i in known.byte_ids:
        return "BYTE"
    if i in known.special:
        return "UNKNOWN" if known.shape != BYTE_LEVEL and i == 0 else "CONTROL"
    return "NORMAL" if known.pieces[i] else "UNUSED"


def _kind(weight: np.ndarray, dtype: str) -> str:
    """The type of a tensor: vectors stay f32, rows that cannot be cut into blocks become f16."""
    if dtype not in DTYPES:
        raise UsageError(f"a GGUF file holds f32, f16, bf16 or q8_0, not {dtype}")
    if weight.ndim == 1:
        return "f32"
    return "f16" if dtype == "q8_0" and weight.shape[1] % BLOCK else dtype


def _byte_count(weight: np.ndarray, kind: str) -> int:
    if kind == "q8_0":
        return weight.size // BLOCK * (BLOCK + 2)
    return weight.size * (4 if kind == "f32" else 2)


def _stored(gguf: Any, weight: np.ndarray, kind: str) -> np.ndarray:
    if kind == "q8_0":
        return gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
    narrow: dict[str, Callable[[np.ndarray], np.ndarray]] = {"f16": to_f16, "bf16": to_bf16}
    return np.ascontiguousarray(weight) if kind == "f32" else narrow[kind](weight)
