"""A Hugging Face directory as a source of weights: `LlamaForCausalLM`, its safetensors files and its tokenizer.json.

Names and layout of the weights are those of the native file; F16 and BF16 become float32, array by array. What this engine
would compute otherwise is refused by name: other positions (rope_scaling), biases, activations, quantised or own code.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from slim.config import LIMITS, ModelConfig
from slim.errors import ConfigError, ModelFileError
from slim.events import Note, Progress
from slim.formats.safetensors_file import SafetensorsFile
from slim.formats.tokenizer_json import MAX_BYTES, read_tokenizer_json
from slim.imported_tokenizer import MAX_TEMPLATE
from slim.input_file import open_input
from slim.parameters import parameter_shapes
from slim.strict_json import parse_record
from slim.tokenizer import SPECIAL_TOKENS

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_SHARDS = 512
_MAX_CONFIG_BYTES = 2**20
_MAX_INDEX_BYTES = 2**24
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "intermediate_size": "hidden_dim",
    "max_position_embeddings": "max_seq_len",
}
_HEAD = "lm_head.weight"
# What old versions of transformers saved besides: it follows from the configuration.
_IGNORED = re.compile(r"model\.(layers\.\d{1,3}\.self_attn\.)?rotary_emb\.inv_freq")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}\.safetensors")


class HuggingFaceSource:
    """A directory whose configuration, tokenizer and headers are checked; `fill` reads the weights."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        self.notes: list[Note] = []
        record = _read_record(self.path / CONFIG, _MAX_CONFIG_BYTES)
        self.config = self._config(record)
        template = self._chat_template()
        self.tokenizer = self._tokenizer(record, template)
        self.files = self._files()
        own = self.tokenizer.special_tokens.keys() == set(SPECIAL_TOKENS)
        entry: dict[str, object] = {"command": "import", "source": self.path.resolve().name}
        if own and template is not None:
            entry["chat"] = True
        self.metadata: dict[str, object] = {"history": [entry], "calibration": None}

    def fill(self, views: Mapping[str, np.ndarray]) -> Generator[Progress, None, None]:
        """Read every weight into its view, file by file."""
        total = sum(view.size for view in views.values())
        done = 0
        for file_name, names in self.files.items():
            with SafetensorsFile(self.path / file_name) as file:
                if not file.arrays.keys() >= set(names):
                    raise ModelFileError(f"{file.path}: was replaced while it was being read")
                for name in sorted(names, key=lambda name: file.arrays[name].start):
                    for part in file.read_into(name, views[name]):
                        yield Progress("importing", done + part, total)
                    done += views[name].size

    def _files(self) -> dict[str, list[str]]:
        """Which weights are in which file, after a look at all headers."""
        expected = parameter_shapes(self.config)
        files: dict[str, list[str]] = {}
        found: set[str] = set()
        for file_name in self._shards():
            with SafetensorsFile(self.path / file_name) as file:
                names = [name for name in file.arrays if not self._is_spare(name)]
                for name in names:
                    self._check(file, name, expected)
                    if name in found:
                        raise ModelFileError(f"{file.path}: holds {name}, but another file does too")
                files[file_name] = names
                found.update(names)
        for name in expected:
            if name not in found:
                self._refuse(f"{name} is missing: it does not hold a whole model")
        return files

    def _check(
        self,
        file: SafetensorsFile,
        name: str,
        expected: Mapping[str, tuple[int, ...]],
    ) -> None:
        array = file.arrays[name]
        if name not in expected:
            what = "a bias" if name.endswith(".bias") else "no part of a Llama that runs here"
            raise ModelFileError(f"{file.path}: holds {name}, which is {what}")
        if array.shape != expected[name]:
            raise ModelFileError(
                f"{file.path}: {name} has shape {array.shape}, but {CONFIG} says {expected[name]}"
            )
        if array.dtype not in ("F32", "F16", "BF16"):
            raise ModelFileError(
                f"{file.path}: {name} is stored as {array.dtype}, but F32, F16 and BF16 are read"
            )

    def _is_spare(self, name: str) -> bool:
        return bool(_IGNORED.fullmatch(name)) or (name == _HEAD and self.config.tie_embeddings)

    def _shards(self) -> list[str]:
        if os.path.lexists(self.path / WEIGHTS):
            return [WEIGHTS]
        if not os.path.lexists(self.path / INDEX):
            other = [
                name
                for name in ("pytorch_model.bin", "consolidated.00.pth")
                if os.path.lexists(self.path / name)
            ]
            if other:
                self._refuse(
                    f"its weights are in {other[0]}, a pickle that could run code: convert it to safetensors"
                )
            self._refuse(f"holds neither {WEIGHTS} nor {INDEX}")
        record = _read_record(self.path / INDEX, _MAX_INDEX_BYTES)
        places = record.get("weight_map")
        if not isinstance(places, dict) or not places:
            self._refuse(f"{INDEX} has no weight_map")
        names = set()
        for weight, name in places.items():
            if not isinstance(name, str) or not _SHARD.fullmatch(name):
                self._refuse(
                    f"{INDEX} puts {weight[:60]!r} into {str(name)[:80]!r}, which is no file name that is read"
                )
            names.add(name)
        if len(names) > MAX_SHARDS:
            self._refuse(f"{INDEX} names {len(names):,} files, but at most {MAX_SHARDS} are read")
        return sorted(names)

    def _config(self, record: dict[str, Any]) -> ModelConfig:
        architectures = record.get("architectures")
        kind = record.get("model_type")
        if kind != "llama":
            self._refuse(f"its model_type is {_shown(kind)}, but only llama is read")
        if architectures is not None and "LlamaForCausalLM" not in (
            architectures if isinstance(architectures, list) else []
        ):
            self._refuse(
                f"its architectures are {_shown(architectures)}, but LlamaForCausalLM is read"
            )
        for name in ("quantization_config", "auto_map"):
            if record.get(name) is not None:
                what = (
                    "quantised weights are"
                    if name == "quantization_config"
                    else "code of its own is"
                )
                self._refuse(f"it has a {name}: {what} not read")
        for name in ("attention_bias", "mlp_bias"):
            if record.get(name, False) is not False:
                self._refuse(f"its {name} is {_shown(record[name])}: biases are not computed")
        if record.get("hidden_act", "silu") not in ("silu", "swish"):
            self._refuse(
                f"its hidden_act is {_shown(record['hidden_act'])}, but only silu is computed"
            )
        if record.get("partial_rotary_factor", 1.0) != 1.0:
            self._refuse(
                f"its partial_rotary_factor is {_shown(record['partial_rotary_factor'])}, but only 1 is computed"
            )
        if record.get("sliding_window") is not None:
            self._refuse(
                f"its sliding_window is {_shown(record['sliding_window'])}, but attention sees everything here"
            )
        theta = self._theta(record)
        sizes = {}
        for theirs, name in _SIZES.items():
            value = record.get(theirs)
            if value is None and theirs == "num_key_value_heads":
                value = record.get("num_attention_heads")
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                self._refuse(
                    f"its {theirs} is {_shown(value)}, but should be a whole number from 1"
                )
            sizes[name] = value
        if sizes["max_seq_len"] > LIMITS["max_seq_len"]:
            self.notes.append(
                Note(
                    f"the context of {sizes['max_seq_len']:,} tokens is cut to {LIMITS['max_seq_len']:,}"
                )
            )
            sizes["max_seq_len"] = LIMITS["max_seq_len"]
        head_dim = record.get("head_dim")
        if head_dim is not None and (
            not isinstance(head_dim, int) or head_dim * sizes["n_heads"] != sizes["dim"]
        ):
            self._refuse(
                f"its head_dim is {_shown(head_dim)}, but hidden_size / num_attention_heads is "
                f"{sizes['dim']} / {sizes['n_heads']}"
            )
        tied = record.get("tie_word_embeddings", False)
        if not isinstance(tied, bool):
            self._refuse(f"its tie_word_embeddings is {_shown(tied)}, but should be true or false")
        try:
            return ModelConfig(
                **sizes,
                rope_theta=theta,
                norm_eps=record.get("rms_norm_eps", 1e-6),
                tie_embeddings=tied,
            )
        except (ConfigError, TypeError) as problem:
            self._refuse(f"its sizes cannot be run: {problem}")

    def _theta(self, record: dict[str, Any]) -> float:
        found = [record["rope_theta"]] if record.get("rope_theta") is not None else []
        for name in ("rope_scaling", "rope_parameters"):
            rope = record.get(name)
            if rope is None:
                continue
            if not isinstance(rope, dict):
                self._refuse(f"{CONFIG}: {name} is {_shown(rope)}, but should be a record")
            if any(isinstance(value, dict) for value in rope.values()):
                self._refuse(f"its {name} differ from layer to layer, which is not computed")
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind != "default":
                self._refuse(
                    f"its {name} has the type {_shown(kind)}, but only default is computed"
                )
            factor = rope.get("partial_rotary_factor", 1.0)
            if factor != 1.0:
                self._refuse(
                    f"its {name} has the partial_rotary_factor {_shown(factor)}, but only 1 is computed"
                )
            if rope.get("rope_theta") is not None:
                found.append(rope["rope_theta"])
        for theta in found:
            if isinstance(theta, bool) or not isinstance(theta, (int, float)):
                self._refuse(f"its rope_theta is {_shown(theta)}, but should be a number")
            if theta != found[0]:
                self._refuse(
                    f"its rope_theta is {found[0]:g} in one place and {theta:g} in another"
                )
        return float(found[0]) if found else 10_000.0

    def _tokenizer(self, record: dict[str, Any], template: str | None):  # type: ignore[no-untyped-def]
        path = self.path / "tokenizer.json"
        if not os.path.lexists(path):
            self._refuse(
                "holds no tokenizer.json; transformers writes one: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        generation: dict[str, Any] = {}
        if os.path.lexists(self.path / "generation_config.json"):
            generation = _read_record(self.path / "generation_config.json", _MAX_CONFIG_BYTES)
        starts, ends = (
            self._ids(
                name, generation.get(name) if generation.get(name) is not None else record.get(name)
            )
            for name in ("bos_token_id", "eos_token_id")
        )
        text = _read_text(path, MAX_BYTES)
        try:
            return read_tokenizer_json(
                *(text, self.config.vocab_size, starts[0] if starts else None, ends),
                *(template, self.notes),
            )
        except ModelFileError as problem:
            raise ModelFileError(f"{self.path}: {problem}") from problem

    def _ids(self, name: str, value: object) -> tuple[int, ...]:
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < self.config.vocab_size:
                self._refuse(
                    f"its {name} is {_shown(value)}, but the vocabulary has {self.config.vocab_size:,} tokens"
                )
        return tuple(dict.fromkeys(ids))

    def _chat_template(self) -> str | None:
        """The template's text, kept for the next export and never run."""
        path = self.path / "chat_template.jinja"
        if os.path.lexists(path):
            text: object = _read_text(path, MAX_TEMPLATE)
        elif os.path.lexists(self.path / "tokenizer_config.json"):
            text = _read_record(self.path / "tokenizer_config.json", 2**23).get("chat_template")
        else:
            return None
        return text if isinstance(text, str) and text and len(text) <= MAX_TEMPLATE else None

    def _refuse(self, problem: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {problem}")


def _read_text(path: Path, most: int) -> str:
    file, size = open_input(path, ModelFileError)
    with file:
        if size > most:
            raise ModelFileError(f"{path}: has {size:,} bytes, but at most {most:,} are read")
        data = file.read(size) or b""  # not `most`: room for all of that would be made first
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ModelFileError(
            f"{path}: is not UTF-8 text: byte {problem.start:,} is wrong"
        ) from problem


def _read_record(path: Path, most: int) -> dict[str, Any]:
    try:
        return parse_record(_read_text(path, most), most, 400_000)
    except ValueError as problem:
        raise ModelFileError(f"{path}: {problem}") from problem


def _shown(value: object) -> str:
    return "missing" if value is None else json.dumps(value)[:60]
