"""What cannot be imported is refused at once, each with its own line; and damage of any kind is an error of ours."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_shapes import SHAPES
from test_export import GROUPED, exhaust, needs, result_of, stored

from slim.cli import main
from slim.errors import SlimError
from slim.formats.hf import export_hf
from slim.formats.llama2c import export_llama2c
from slim.formats.safetensors_file import SafetensorsFile
from slim.formats.tokenizer_json import read_tokenizer_json
from slim.imported_tokenizer import ImportedTokenizer
from slim.model_file import open_source, read_weights
from slim.tokenizer import Tokenizer, train_tokenizer

pytest.importorskip("tokenizers")
EMBED = "model.embed_tokens.weight"
Record = dict[str, Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Hugging Face directory with the tokenizer of each shape, and a llama2.c checkpoint: to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("good")
    places = {}
    for shape in ("llama-2", "gpt-2", "llama-3"):
        text = SHAPES[shape]().to_str()
        size = 420
        tokenizer = read_tokenizer_json(text, size, 1, (2,))
        places[shape] = folder / shape
        exhaust(export_hf(stored(GROUPED, tokenizer), places[shape]))
        (places[shape] / "tokenizer.json").write_text(text)
    places["sharded"] = Path(shutil.copytree(places["llama-2"], folder / "sharded"))
    sharded(lambda record: None)(places["sharded"])
    places["llama2c"] = folder / "llama2c" / "c.bin"
    places["llama2c"].parent.mkdir()
    ours = train_tokenizer([b"low lower lowest"] * 9, 270)
    exhaust(export_llama2c(stored(GROUPED, ours), places["llama2c"]))
    return places


def read_all(path: Path) -> None:
    """Everything that `slim import` reads."""
    with open_source(path) as source:
        exhaust(read_weights(source))


def edit_json(name: str, change: Callable[[Record], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        record = json.loads((folder / name).read_text())
        change(record)
        (folder / name).write_text(json.dumps(record))

    return edit


def config(**values: object) -> Callable[[Path], None]:
    return edit_json("config.json", lambda record: record.update(values))


def tokenizer_of(change: Callable[[Record], object]) -> Callable[[Path], None]:
    return edit_json("tokenizer.json", change)


def model(**values: object) -> Callable[[Path], None]:
    return tokenizer_of(lambda record: record["model"].update(values))


def written(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None  # type: ignore[func-returns-value]


def header(change: Callable[[Record], object]) -> Callable[[Path], None]:
    """The weights' file with another header; the data stay."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        record = json.loads(data[8 : 8 + length])
        change(record)
        text = json.dumps(record).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return edit


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return edit


def sharded(change: Callable[[Record], object]) -> Callable[[Path], None]:
    """The same in shards: one, and an index that is spoilt."""

    def edit(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        with SafetensorsFile(folder / "part.safetensors") as file:
            record: Record = {"weight_map": dict.fromkeys(file.arrays, "part.safetensors")}
        change(record)
        (folder / "model.safetensors.index.json").write_text(json.dumps(record))

    return edit


def renamed(old: str, new: str) -> Callable[[Record], object]:
    return lambda record: record.update({new: record.pop(old)})


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def as_nan(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<f", float("nan"))


def step(kind: str, **more: object) -> Record:
    return {"type": kind, **more}


def metaspace(**more: object) -> Callable[[Path], None]:
    pre_tokenizer = step("Metaspace", replacement="▁", **more)
    return tokenizer_of(lambda r: r.update(normalizer=None, pre_tokenizer=pre_tokenizer))


HF: dict[str, tuple[Callable[[Path], None], str]] = {
    # config.json
    "no configuration": (removed("config.json"), "without a config.json"),
    "empty configuration": (written("config.json", b""), "config.json: is empty"),
    "configuration no JSON": (written("config.json", b"{oops"), "config.json: it is not valid JSON"),
    "configuration a list": (written("config.json", b"[1]"), "config.json: it is not a record"),
    "configuration not UTF-8": (written("config.json", b'{"a": "\xff"}'), "is not UTF-8 text: byte 7"),
    "configuration NaN": (written("config.json", b'{"a": NaN}'), "NaN is not a number"),
    "configuration infinite": (written("config.json", b'{"a": 1e999}'), "1e999 is not a number"),
    "name twice": (written("config.json", b'{"a": 1, "a": 2}'), "a name occurs twice"),
    "nested": (written("config.json", b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}"), "nested too deeply"),
    "long number": (written("config.json", b'{"a": ' + b"9" * 5000 + b"}"), "is not a number that is read"),
    "large configuration": (written("config.json", b" " * (2**20 + 1)), "at most 1,048,576 are read"),
    "many values": (written("config.json", b"[" + b"1," * 400_000 + b"1]"), "more than 400,000 values"),
    "mistral": (config(model_type="mistral"), 'model_type is "mistral"'),
    "no model_type": (config(model_type=None), "model_type is missing"),
    "classifier": (config(architectures=["LlamaForSequenceClassification"]), "architectures are"),
    "quantized": (config(quantization_config={"bits": 4}), "quantization_config: quantised weights"),
    "own code": (config(auto_map={"AutoModel": "x.Y"}), "auto_map: code of its own"),
    "attention bias": (config(attention_bias=True), "attention_bias is true"),
    "mlp bias": (config(mlp_bias=True), "mlp_bias is true"),
    "gelu": (config(hidden_act="gelu"), 'hidden_act is "gelu"'),
    "linear rope": (config(rope_scaling={"type": "linear", "factor": 2}), 'rope_scaling has the type "linear"'),
    "llama3 rope": (config(rope_scaling={"rope_type": "llama3"}), 'rope_scaling has the type "llama3"'),
    "yarn rope": (config(rope_parameters={"rope_type": "yarn"}), 'rope_parameters has the type "yarn"'),
    "rope a word": (config(rope_scaling="linear"), "rope_scaling is"),
    "two thetas": (config(rope_theta=5.0), "rope_theta is 5 in one place and 10000"),
    "theta a word": (config(rope_theta="x"), 'rope_theta is "x"'),
    "theta negative": (config(rope_theta=-1, rope_parameters=None), "rope_theta must be a number"),
    "part of rope": (config(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5"),
    "sliding window": (config(sliding_window=4096), "sliding_window is 4096"),
    "no vocabulary size": (config(vocab_size=None), "vocab_size is missing"),
    "vocabulary size a word": (config(vocab_size="420"), 'vocab_size is "420"'),
    "vocabulary size true": (config(vocab_size=True), "vocab_size is true"),
    "vocabulary of a billion": (config(vocab_size=10**9), "from 1 to 262,144"),
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers is 0"),
    "a million layers": (config(num_hidden_layers=10**6), "n_layers must be"),
    "wide": (config(hidden_size=2**40, head_dim=None), "dim must be"),
    "odd heads": (config(num_attention_heads=7, head_dim=None), "dim must be divisible by n_heads"),
    "odd key heads": (config(num_key_value_heads=3), "n_heads must be divisible by n_kv_heads"),
    "hidden too large": (config(intermediate_size=10**9), "hidden_dim must be"),
    "other head size": (config(head_dim=99), "head_dim is 99"),
    "head size a list": (config(head_dim=[1], num_attention_heads=10**18), "head_dim is [1]"),
    "head size a record": (config(head_dim={}), "head_dim is {}"),
    "rope by layer": (config(rope_parameters={"full_attention": {"rope_theta": 5}}), "from layer to layer"),
    "negative context": (config(max_position_embeddings=-1), "max_position_embeddings is -1"),
    "epsilon zero": (config(rms_norm_eps=0.0), "norm_eps must be"),
    "epsilon a word": (config(rms_norm_eps="x"), "norm_eps must be"),
    "tied a word": (config(tie_word_embeddings="yes"), 'tie_word_embeddings is "yes"'),
    "end beyond": (
        edit_json("generation_config.json", lambda r: r.update(eos_token_id=10**6)), "eos_token_id is 1000000"
    ),
    "many ends": (
        edit_json("generation_config.json", lambda r: r.update(eos_token_id=list(range(99)))), "99 tokens end a text"
    ),
    "start a word": (edit_json("generation_config.json", lambda r: r.update(bos_token_id="x")), "bos_token_id is"),
    # weights
    "no weights": (removed("model.safetensors"), "holds neither model.safetensors"),
    "pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin") and None,  # type: ignore[func-returns-value]
        "a pickle that could run code",
    ),
    "empty weights": (written("model.safetensors", b""), "model.safetensors: is empty"),
    "weights a zip": (written("model.safetensors", b"PK\x03\x04" + b"\0" * 99), "is a zip archive"),
    "weights GGUF": (written("model.safetensors", b"GGUF\x03" + b"\0" * 99), "is a GGUF model"),
    "weights HTML": (written("model.safetensors", b"<!doctype html><p>" * 9), "is an HTML page"),
    "weights LFS": (written("model.safetensors", b"version https://git-lfs.github.com"), "Git LFS pointer"),
    "weights cut": (weights(lambda data: data[:-1]), "is cut short"),
    "weights half": (weights(lambda data: data[: len(data) // 2]), "is cut short"),
    "weights appended": (weights(lambda data: data + b"x"), "has something appended"),
    "header cut": (weights(lambda data: data[:100]), "its header alone has"),
    "header large": (weights(lambda data: b"\xff\xff\xff\x7f\0\0\0\0" + data[8:]), "header of 2,147,483,647"),
    "header no JSON": (weights(lambda data: data[:9] + b"}" + data[10:]), "header is not valid JSON"),
    "not a number": (weights(as_nan), "NaN or infinite"),
    "integers": (header(lambda r: r[EMBED].update(dtype="I32")), "is stored as I32"),
    "unknown type": (header(lambda r: r[EMBED].update(dtype="Q4")), "stored as Q4, which is not known"),
    "other shape": (header(lambda r: r[EMBED].update(shape=[48, 420])), "has shape (48, 420)"),
    "shape too large": (header(lambda r: r[EMBED].update(shape=[2**40, 2**40])), "of shape"),
    "negative shape": (header(lambda r: r[EMBED].update(shape=[-1, 48])), "has the shape [-1, 48]"),
    "shape a word": (header(lambda r: r[EMBED].update(shape="x")), "has the shape x"),
    "no offsets": (header(lambda r: r[EMBED].pop("data_offsets")), "lies at None"),
    "overlap": (
        header(lambda r: r["model.norm.weight"].update(data_offsets=[0, 192])), "is damaged: "
    ),
    "entry a list": (header(lambda r: r.update({EMBED: [1]})), "has no record"),
    "odd name": (header(renamed(EMBED, "model embed")), "cannot be the name"),
    "missing": (header(renamed(EMBED, "model.layers.0.self_attn.rotary_emb.inv_freq")), f"{EMBED} is missing"),
    "of another model": (header(renamed(EMBED, "transformer.wte.weight")), "no part of a Llama"),
    "bias": (header(renamed("model.norm.weight", "model.layers.0.self_attn.q_proj.bias")), "which is a bias"),
    # shards
    "index a list": (sharded(lambda r: r.update(weight_map=[])), "has no weight_map"),
    "shard with a path": (sharded(lambda r: r["weight_map"].update({EMBED: "../x.safetensors"})), "no file name"),
    "shard absolute": (sharded(lambda r: r["weight_map"].update({EMBED: "/etc/passwd"})), "/etc/passwd"),
    "shard of a name": (sharded(lambda r: r["weight_map"].update({"a\n\x1b[2J": ".."})), "puts 'a\\n\\x1b[2J' into"),
    "shard no name": (sharded(lambda r: r["weight_map"].update({EMBED: 5})), "into '5'"),
    "shard missing": (sharded(lambda r: r["weight_map"].update({EMBED: "b.safetensors"})), "b.safetensors: cannot"),
    "many shards": (
        sharded(lambda r: r["weight_map"].update({str(i): f"s{i}.safetensors" for i in range(600)})),
        "at most 512 are read",
    ),
    "weights twice": (
        lambda folder: (
            sharded(lambda r: r["weight_map"].update({"x": "q.safetensors"}))(folder),
            shutil.copy(folder / "part.safetensors", folder / "q.safetensors"),
            None,
        )[-1],
        "but another file does too",
    ),
    # tokenizer.json
    "no tokenizer": (removed("tokenizer.json"), "holds no tokenizer.json"),
    "tokenizer no JSON": (written("tokenizer.json", b"x"), "tokenizer.json: it is not valid JSON"),
    "tokenizer a list": (written("tokenizer.json", b"[]"), "it is not a record"),
    "unigram": (model(type="Unigram"), "its model is Unigram"),
    "no model": (tokenizer_of(lambda r: r.pop("model")), "its model is none"),
    "no vocabulary": (model(vocab={}), "it has no vocabulary"),
    "id beyond": (tokenizer_of(lambda r: r["model"]["vocab"].update({"zzz": 9999})), "has the id 9999"),
    "one name, two ids": (
        tokenizer_of(lambda r: r["model"]["vocab"].popitem() and r["added_tokens"].append({"id": 419, "content": "a"})),
        "the token 'a' has the ids",
    ),
    "id a word": (tokenizer_of(lambda r: r["model"]["vocab"].update({"zzz": "x"})), "has the id x"),
    "id twice": (tokenizer_of(lambda r: r["model"]["vocab"].update({"zzz": 300})), "two tokens have the id 300"),
    "byte missing": (
        tokenizer_of(lambda r: r["model"]["vocab"].update({"<0xZZ>": r["model"]["vocab"].pop("<0x41>")})),
        "256 bytes",
    ),
    "no merges": (model(merges=None), "no list of merges"),
    "merge of one": (model(merges=["a"]), "merge 1 is 'a'"),
    "merge of three": (model(merges=[["a", "b", "c"]]), "merge 1 is"),
    "merge unknown": (model(merges=["a zzz"]), "merge 1 joins 'zzz'"),
    "merge makes nothing": (model(merges=["a q"]), "which is no token"),
    "merge twice": (tokenizer_of(lambda r: r["model"]["merges"].append(r["model"]["merges"][0])), "earlier one joins"),
    "merge of special": (model(merges=["<s> a"]), "no text becomes"),
    "dropout": (model(dropout=0.1), "its dropout is 0.1"),
    "suffix": (model(end_of_word_suffix="</w>"), "its end_of_word_suffix is </w>"),
    "prefix": (model(continuing_subword_prefix="##"), "its continuing_subword_prefix is ##"),
    "ignores merges": (model(ignore_merges=True), "its ignore_merges is True"),
    "normalizer": (tokenizer_of(lambda r: r.update(normalizer=step("NFKC"))), "its normalizer is NFKC"),
    "two normalizers": (
        tokenizer_of(lambda r: r.update(normalizer=step("Sequence", normalizers=[step("NFC"), step("Strip")]))),
        "NFC and Strip",
    ),
    "metaspace that splits": (
        metaspace(prepend_scheme="first", split=True),
        "Metaspace splits",
    ),
    "metaspace without": (
        metaspace(prepend_scheme="never", split=False),
        "prepend_scheme never",
    ),
    "decoder": (tokenizer_of(lambda r: r.update(decoder=step("WordPiece"))), "its decoder is none"),
    "post-processor": (tokenizer_of(lambda r: r.update(post_processor=step("RobertaProcessing"))), "RobertaProcessing"),
    "start unknown": (
        tokenizer_of(lambda r: r.update(post_processor=step("TemplateProcessing", single=[{"SpecialToken": {"id": "<x>"}}]))),
        "no added token",
    ),
    "added no list": (tokenizer_of(lambda r: r.update(added_tokens=3)), "added_tokens are no list"),
    "added beyond": (tokenizer_of(lambda r: r["added_tokens"].append({"id": 420, "content": "<x>"})), "has the id 420"),
    "added twice": (tokenizer_of(lambda r: r["added_tokens"].append({"id": 5, "content": "<s>"})), "token occurs twice"),
    "added nameless": (tokenizer_of(lambda r: r["added_tokens"].append({"id": 5})), "an added token is 'None'"),
    "half a surrogate": (
        tokenizer_of(lambda r: r["model"]["vocab"].update({"\ud800": r["model"]["vocab"].pop("a")})), "half a surrogate"
    ),
}  # fmt: skip
BYTE_LEVEL: dict[str, tuple[Callable[[Path], None], str]] = {
    "bert words": (tokenizer_of(lambda r: r.update(pre_tokenizer=step("BertPreTokenizer"))), "BertPreTokenizer"),
    "none": (tokenizer_of(lambda r: r.update(pre_tokenizer=None)), "its pre_tokenizer is none"),
    "prefix blank": (tokenizer_of(lambda r: r["pre_tokenizer"].update(add_prefix_space=True)), "in a way that is not"),
    "lower case": (tokenizer_of(lambda r: r.update(normalizer=step("Lowercase"))), "its normalizer is Lowercase"),
    "other decoder": (tokenizer_of(lambda r: r.update(decoder=step("BPEDecoder"))), "its decoder is BPEDecoder"),
    "a very long token": (
        tokenizer_of(lambda r: r["model"]["vocab"].update({"a" * 200_000: r["model"]["vocab"].pop("Z")})), "200,000 bytes"
    ),
    "strange characters": (
        tokenizer_of(lambda r: r["model"]["vocab"].update({"漢": r["model"]["vocab"].pop("Z")})), "stand for no byte"
    ),
}  # fmt: skip
LLAMA_3: dict[str, tuple[Callable[[Path], None], str]] = {
    "own pattern": (
        tokenizer_of(lambda r: r["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a+)+$"})),
        "a pattern that is not Llama 3's",
    ),
    "merges count": (model(ignore_merges=False), "ignore_merges is False"),
}  # fmt: skip


def numbers(change: Callable[[list[int]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        data = path.read_bytes()
        values = list(struct.unpack("<7i", data[:28]))
        change(values)
        path.write_bytes(struct.pack("<7i", *values) + data[28:])

    return edit


def pieces(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        beside = path.parent / "tokenizer.bin"
        beside.write_bytes(change(beside.read_bytes()))

    return edit


def bytes_of(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None  # type: ignore[func-returns-value]


LLAMA2C: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer.bin": (lambda path: (path.parent / "tokenizer.bin").unlink(), "no tokenizer.bin beside"),
    "weights infinite": (bytes_of(lambda d: d[:28] + b"\0\0\x80\x7f" + d[32:]), "NaN or infinite"),
    "tokenizer empty": (pieces(lambda d: b""), "tokenizer.bin: is empty"),
    "tokenizer cut": (pieces(lambda d: d[:-1]), "has a length of"),
    "tokenizer two bytes": (pieces(lambda d: d[:2]), "is cut short"),
    "tokenizer few tokens": (pieces(lambda d: d[:200]), "of 267"),
    "tokenizer appended": (pieces(lambda d: d + b"1234567"), "7 bytes more than the 267 tokens"),
    "tokenizer length 0": (pieces(lambda d: d[:8] + b"\0\0\0\0" + d[12:]), "length of 0"),
    "tokenizer length -1": (pieces(lambda d: d[:8] + b"\xff\xff\xff\xff" + d[12:]), "length of -1"),
    "score not a number": (pieces(lambda d: d[:4] + b"\0\0\xc0\x7f" + d[8:]), "has the score nan"),
    "longest too short": (pieces(lambda d: b"\x01\0\0\0" + d[4:]), "longest token has 1 bytes"),
    "tokenizer too large": (pieces(lambda d: d + b"\0" * 2**20), "too many for 267 tokens"),
}  # fmt: skip
LLAMA2C_WITH_TOKENIZER: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (bytes_of(lambda d: d[:-4]), "is cut short"),
    "appended": (bytes_of(lambda d: d + b"1234"), "has something appended"),
    "header cut": (bytes_of(lambda d: d[:20]), "begins with 28"),
    "version 1": (bytes_of(lambda d: b"24ka" + d[4:]), "version 1 or 2"),
    "no heads": (numbers(lambda v: v.__setitem__(3, 0)), "not a llama2.c checkpoint of version 0"),
    "negative layers": (numbers(lambda v: v.__setitem__(2, -1)), "it begins with"),
    "odd heads": (numbers(lambda v: v.__setitem__(3, 7)), "48 % 7 != 0"),
    "many layers": (numbers(lambda v: v.__setitem__(2, 2**30)), "n_layers must be"),
    "other vocabulary": (numbers(lambda v: v.__setitem__(5, 271)), "is cut short"),
    "a huge vocabulary": (numbers(lambda v: v.__setitem__(5, 2**30)), "it begins with"),
    "context of 0": (numbers(lambda v: v.__setitem__(6, 0)), "it begins with"),
}  # fmt: skip
CASES = [
    *(("llama-2", name, *case) for name, case in HF.items()),
    *(("gpt-2", name, *case) for name, case in BYTE_LEVEL.items()),
    *(("llama-3", name, *case) for name, case in LLAMA_3.items()),
    *(("llama2c", name, *case) for name, case in LLAMA2C.items()),
    *(("llama2c with tokenizer", name, *case) for name, case in LLAMA2C_WITH_TOKENIZER.items()),
]


def copied(good: dict[str, Path], kind: str, folder: Path) -> Path:
    source = good[kind.partition(" with")[0]]
    if source.is_dir():
        return Path(shutil.copytree(source, folder / "spoilt"))
    shutil.copytree(source.parent, folder / "spoilt")
    return folder / "spoilt" / source.name


def test_there_are_a_hundred_of_them() -> None:
    assert len(CASES) >= 100


def test_what_is_not_spoilt_is_read(good: dict[str, Path], tmp_path: Path) -> None:
    for kind in good:
        read_all(copied(good, kind, tmp_path / kind))


@pytest.mark.parametrize(
    ("kind", "name", "edit", "words"), CASES, ids=[f"{kind}: {name}" for kind, name, _, _ in CASES]
)
def test_a_bad_file_is_refused_by_name(
    kind: str,
    name: str,
    edit: Callable[[Path], None],
    words: str,
    good: dict[str, Path],
    tmp_path: Path,
) -> None:
    path = copied(good, kind, tmp_path)
    edit(path)
    chosen = path.parent / "tokenizer.bin" if kind == "llama2c with tokenizer" else None
    with pytest.raises(SlimError) as problem, open_source(path, chosen) as source:
        exhaust(read_weights(source))
    said = str(problem.value)
    assert words in said and "\n" not in said and len(said) < 900
    assert str(tmp_path) in said or said.startswith("tokenizer.bin")


SPOILT_VALUES = (
    *(b"null", b"-1", b"1e400", b"[]", b"{}", b'""', b"99999999999", b"true", b'"\\ud800"', b"1.5"),
    *(b'[[["a"]]]', b'{"type":"Sequence"}', b"18446744073709551616", b"false", b'"\\u0000"'),
)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Bytes changed, cut, doubled, moved; numbers and words of JSON replaced."""
    buffer = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        at, end = sorted((dice.randrange(len(buffer) + 1), dice.randrange(len(buffer) + 1)))
        kind = dice.randrange(7)
        if kind == 0 and at < len(buffer):
            buffer[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del buffer[at : at + dice.randrange(1, 20)]
        elif kind == 2:
            buffer[at:at] = buffer[at : min(end, at + 300)]
        elif kind == 3:
            buffer[at : at + 8] = dice.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" * 4, b"9" * 8))
        elif kind == 4:
            del buffer[at:]
        else:
            start = dice.choice((0, 0, at))
            found = [i for i in range(start, min(start + 4000, len(buffer))) if buffer[i] in b":,"]
            if found:
                place = dice.choice(found) + 1
                stops = (buffer.find(mark, place) for mark in (b",", b"}", b"]"))
                stop = min((i for i in stops if i > 0), default=place)
                buffer[place:stop] = dice.choice(SPOILT_VALUES)
    return bytes(buffer)


# What is spoilt, with the good directory that it lies in: 2,000 of a format, and under soak 50,000 of every file.
MUTATED = {
    "config.json": ("llama-2", 670),
    "model.safetensors": ("llama-2", 670),
    "tokenizer.json": ("llama-2", 670),
    "generation_config.json": ("llama-2", 50),
    "tokenizer_config.json": ("llama-2", 50),
    "model.safetensors.index.json": ("sharded", 50),
    "llama2c": ("llama2c", 1000),
    "tokenizer.bin": ("llama2c", 1000),
    "native": ("llama-2", 2000),
}
CHUNK = 10_000
COUNTS = [
    *((what, count, 0) for what, (_, count) in MUTATED.items()),
    *(
        pytest.param(what, CHUNK, chunk, marks=pytest.mark.soak)
        for what in MUTATED
        for chunk in range(1, 6)
    ),
]
LONGEST_SECONDS = 60  # a hang, not a measure of speed: each takes milliseconds


@pytest.fixture
def watch() -> Iterator[Callable[[], object]]:
    """Call it before each piece of work: one that does not end in time ends the test."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"still busy after {LONGEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield lambda: signal.alarm(LONGEST_SECONDS)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("what", "count", "chunk"), COUNTS)
def test_damage_is_an_error_of_ours(
    what: str,
    count: int,
    chunk: int,
    good: dict[str, Path],
    tmp_path: Path,
    watch: Callable[[], object],
) -> None:
    """No other exception, no hang, no memory out of proportion; what is read in spite of it is a whole model that writes."""
    dice = random.Random(f"{what} {count} {chunk}")
    path = copied(good, MUTATED[what][0], tmp_path)
    if what == "native":
        target = tmp_path / "record"
        target.write_text(read_tokenizer_json(SHAPES["llama-2"]().to_str(), 420, 1, (2,)).to_json())
    elif path.is_dir():
        target = path / what
    else:
        target = path if what == "llama2c" else path.parent / what
    original = target.read_bytes()
    folder = path if path.is_dir() else path.parent
    others = sum(file.stat().st_size for file in folder.iterdir() if file != target)
    said, read = [], 0
    for number in range(count):
        spoilt = mutated(original, dice) or b"x"
        target.write_bytes(spoilt)
        watch()
        with room(
            PER_BYTE * (len(spoilt) + others) + FIXED_BYTES,
            counted=number % (25 if chunk else 5) == 0,
        ):
            try:
                if what == "native":
                    text = spoilt.decode("utf-8", "surrogateescape")
                    tokenizer: Tokenizer = ImportedTokenizer.from_json(text)
                else:
                    tokenizer = read_whole(path)
            except SlimError as problem:
                said.append(str(problem))
                continue
        read += 1
        if read % 10 == 1:
            use(tokenizer)
    assert len(said) > count // 8 and read > 0
    assert not [line for line in said if "\n" in line or len(line) > 900]


# 16-bit numbers double, and `{"a":[]},` becomes two objects of 300 bytes; buffers of a megabyte.
PER_BYTE, FIXED_BYTES = 40, 2_000_000


@contextlib.contextmanager
def room(most: int, counted: bool) -> Iterator[None]:
    """Fails when more memory than this was taken at a time. Counting makes everything several times slower."""
    if not counted:
        yield
        return
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < most, f"{taken:,} bytes"


def read_whole(path: Path) -> Tokenizer:
    """Everything that `slim import` reads; the numbers are finite."""
    chosen = None if path.is_dir() else path.parent / "tokenizer.bin"
    with open_source(path, chosen) as source:
        parameters = result_of(read_weights(source))
        assert np.isfinite(parameters.flat).all()
        return source.tokenizer


def use(tokenizer: Tokenizer) -> None:
    """Whatever was read makes tokens of any text, and survives being saved."""
    for text in (b"", b"a", b"Hello  world\r\n", "▁ é 漢 😀 <s>".encode(), b"\xff\xe2\x96"):
        ids = tokenizer.encode(text)
        assert ids.size == 0 or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
        tokenizer.decode_bytes(ids)
    assert type(tokenizer).from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()


@needs("tokenizers")
def test_a_vocabulary_without_merges_makes_tokens(tmp_path: Path, good: dict[str, Path]) -> None:
    path = copied(good, "llama-2", tmp_path)
    model(merges=[])(path)
    tokenizer = read_whole(path)
    assert tokenizer.decode_bytes(tokenizer.encode("low lower")) == b"low lower"


def test_added_tokens_that_text_becomes_elsewhere_are_told(
    tmp_path: Path, good: dict[str, Path]
) -> None:
    path = copied(good, "gpt-2", tmp_path)
    added = {"id": 419, "content": "  ", "special": False}
    tokenizer_of(lambda r: (r["model"]["merges"].pop(), r["added_tokens"].append(added)))(path)
    tokenizer_of(lambda r: r["model"]["vocab"].popitem())(path)
    with open_source(path) as source:
        (note,) = source.notes
        assert note.text.endswith("but elsewhere does (1): '  '")
        assert 419 not in source.tokenizer.encode("a  b")


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path, good: dict[str, Path]) -> None:
    path = copied(good, "llama-2", tmp_path)
    with open_source(path) as source:
        header(renamed("model.norm.weight", "another"))(path)
        with pytest.raises(SlimError, match="was replaced while it was being read"):
            exhaust(read_weights(source))


@pytest.mark.parametrize("name", ["a" * 300, "a" * 5000, "a\0b", "/dev/zero", ""])
def test_paths_that_lead_nowhere(name: str) -> None:
    with pytest.raises(SlimError), open_source(name):
        pass


def test_what_is_imported_is_not_overwritten(tmp_path: Path, good: dict[str, Path]) -> None:
    for kind, name in (("llama-2", "model.safetensors"), ("llama2c", "tokenizer.bin")):
        path = copied(good, kind, tmp_path / kind)
        target = (path if path.is_dir() else path.parent) / name
        before = target.read_bytes()
        assert main(["import", str(path), str(target), "--force"]) == 2
        assert target.read_bytes() == before


# Files that are made to need much memory or time


def many(value: str, size: int) -> str:
    """A list of JSON of about so many bytes."""
    return "[" + ",".join([value] * (size // (len(value) + 1))) + "]"


def as_file(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def arrays(count: int) -> Callable[[Path], None]:
    """A header that names very many empty arrays."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return header(lambda r: r.update({f"a{i}": entry for i in range(count)}))


GREEDY: dict[str, Callable[[Path], object]] = {
    "lists in tokenizer.json": as_file("tokenizer.json", many("[]", 4_400_000)),
    "records in tokenizer.json": as_file("tokenizer.json", many('{"a":[]}', 8_900_000)),
    "wide characters": as_file("tokenizer.json", '{"a":"' + "😀" * 2_000_000 + '"}'),
    "merges": as_file("tokenizer.json", '{"model":{"vocab":{"a":0},"merges":' + many('"a a"', 17_900_000) + "}}"),
    "words in config.json": as_file("config.json", many('"a"', 2**20 - 99)),
    "places in the index": sharded(lambda r: r["weight_map"].update({str(i): "a.safetensors" for i in range(300_000)})),
    "arrays in a header": arrays(65_000),
    "templates": as_file("tokenizer_config.json", '{"chat_template":' + many('""', 1_000_000) + "}"),
}  # fmt: skip
READER = r"""
import pathlib, re, sys
from slim.errors import SlimError
import slim.formats.hf_source, slim.formats.llama2c_source, slim.parameters
from slim.model_file import open_source, read_weights

def most() -> int:  # not ru_maxrss, which begins with what the parent had
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

before = most()
try:
    with open_source(sys.argv[1]) as source:
        for _ in read_weights(source):
            pass
except SlimError as problem:
    print(problem, file=sys.stderr)
print(most() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it there")
@pytest.mark.parametrize("name", GREEDY)
def test_memory_is_bounded_by_the_file(name: str, good: dict[str, Path], tmp_path: Path) -> None:
    path = copied(good, "llama-2", tmp_path)
    GREEDY[name](path)
    size = sum(file.stat().st_size for file in path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path)],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert int(done.stdout) < PER_BYTE * size + 10 * FIXED_BYTES
