"""A model of another program is the same model here, and what cannot be run is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_shapes import (
    SHAPES,
    START_AND_END,
    TEXT,
    hostile_strings,
    llama_2,
)
from test_export import (
    CONFIGS,
    GROUPED,
    N_GREEDY,
    exhaust,
    greedy,
    greedy_of_transformers,
    ids_of,
    llama_cpp,
    log_softmax,
    name_of,
    needs,
    ours,
    result_of,
    run_llama2c,
    stored,
)

from slim.cli import main
from slim.config import ModelConfig
from slim.errors import UsageError
from slim.events import Note, Progress
from slim.formats.gguf import export_gguf
from slim.formats.hf import CHAT_TEMPLATE, export_hf
from slim.formats.import_model import Imported, import_model
from slim.formats.llama2c import export_llama2c, tokenizer_bin
from slim.formats.llama2c_source import _tokenizer, read_tokenizer_bin
from slim.formats.stored_model import read_stored_model
from slim.formats.tokenizer_json import read_tokenizer_json, tokenizer_json
from slim.imported_encoder import WordCutter
from slim.imported_tokenizer import ImportedTokenizer
from slim.kernels.bpe_classes import NUMBER, character_classes
from slim.model_file import load_model
from slim.tokenizer import BYTE_ORDER, FIRST_BYTE_ID, Tokenizer, train_tokenizer

every_config = pytest.mark.parametrize("config", CONFIGS, ids=name_of)
every_shape = pytest.mark.parametrize("shape", SHAPES)
N_STRINGS = 10_000
# The 4,382 letters and numbers that came with Unicode 16: llama.cpp's tables are older, and to it they are neither.
NEW_LETTERS = re.compile(
    "[\u1c89\u1c8a\ua7cb-\ua7cd\ua7da-\ua7dc\U000105c0-\U000105f3\U00010d40-\U00010d65\U00010d6f-\U00010d85"
    "\U00010ec2-\U00010ec4\U00011380-\U00011389\U0001138b\U0001138e\U00011390-\U000113b5\U000113b7\U000113d1"
    "\U000113d3\U000116d0-\U000116e3\U00011bc0-\U00011be0\U00011bf0-\U00011bf9\U00013460-\U000143fa"
    "\U00016100-\U0001611d\U00016130-\U00016139\U00016d40-\U00016d6c\U00016d70-\U00016d79\U00018cff"
    "\U0001ccf0-\U0001ccf9\U0001e5d0-\U0001e5ed\U0001e5f0-\U0001e5fa]"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT.encode()], 320)


@pytest.fixture(scope="module")
def strings() -> list[str]:
    return hostile_strings(N_STRINGS)


def imported(shape: str, extra_rows: int = 0) -> tuple[Any, ImportedTokenizer]:
    """A tokenizer of the library, and what we read of its file."""
    theirs = SHAPES[shape]()
    theirs.encode_special_tokens = True
    start, end = START_AND_END.get(shape, (0, 1))
    size = theirs.get_vocab_size() + extra_rows
    mine = read_tokenizer_json(theirs.to_str(), size, start, (end,))
    assert isinstance(mine, ImportedTokenizer)
    return theirs, mine


# Tokenizers


@needs("tokenizers")
@every_shape
def test_texts_become_the_tokens_of_the_library(shape: str, strings: list[str]) -> None:
    theirs, mine = imported(shape, extra_rows=3)
    assert mine.vocab_size == theirs.get_vocab_size() + 3
    found = theirs.encode_batch(strings, add_special_tokens=False)
    ids, starts = mine.encode_documents([text.encode() for text in strings])
    for i, (text, encoding) in enumerate(zip(strings, found, strict=True)):
        assert ids[starts[i] : starts[i + 1]].tolist() == encoding.ids, repr(text)


@needs("tokenizers")
@pytest.mark.parametrize("shape", ["gpt-2", "smollm", "llama-3"])
@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.soak)])
def test_every_character_is_cut_as_the_library_cuts_it(step: int, shape: str) -> None:
    """All numbers, the digits of Unicode 17, and every 61st of the others."""
    rules, cutter = SHAPES[shape]().pre_tokenizer, WordCutter(shape)
    numbers = np.flatnonzero(character_classes() == NUMBER)
    points = {*range(1, 0x110000, step), *numbers.tolist(), *range(0x11DE0, 0x11DEA), 0x16FF4}
    characters = [chr(i) for i in sorted(points) if not 0xD800 <= i < 0xE000]
    for i in range(0, len(characters), 200):
        text = "".join(f"!{c}\na{c}b\n1{c} {c}'s {c}\n" for c in characters[i : i + 200])
        theirs = [text[start:end] for _, (start, end) in rules.pre_tokenize_str(text)]
        assert list(cutter.cut(text)) == theirs, f"from {characters[i]!r}"


@needs("tokenizers")
def test_the_exported_tokenizer_gives_the_same_tokens(
    tokenizer: Tokenizer, strings: list[str]
) -> None:
    import tokenizers

    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))
    theirs.encode_special_tokens = True
    found = theirs.encode_batch(strings, add_special_tokens=False)
    for text, encoding in zip(strings, found, strict=True):
        assert tokenizer.encode(text).tolist() == encoding.ids, repr(text)


@needs("tokenizers", "transformers")
@pytest.mark.parametrize("shape", ["ours", *SHAPES])
def test_transformers_makes_the_same_of_an_export(
    shape: str, strings: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    mine = tokenizer if shape == "ours" else imported(shape)[1]
    exhaust(export_hf(stored(GROUPED, mine), tmp_path / "hf"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.bos_token_id == mine.start_id and theirs.eos_token_id == mine.eos_id
    found = theirs(strings, split_special_tokens=True)["input_ids"]
    for text, ids in zip(strings, found, strict=True):
        assert ids == [mine.start_id, *mine.encode(text).tolist()], repr(text)


@needs("tokenizers", "gguf", "xllamacpp")
@pytest.mark.parametrize("shape", ["ours", *SHAPES])
def test_llama_cpp_makes_the_same_of_an_export(
    shape: str, strings: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    mine = tokenizer if shape == "ours" else imported(shape, extra_rows=2)[1]
    said = exhaust(export_gguf(stored(GROUPED, mine), tmp_path / "m.gguf"))
    notes = [event for event in said if isinstance(event, Note)]
    texts = [text for text in strings if shape != "llama-2 metaspace" or text[0] not in " ▁"]
    texts = [text for text in texts if not NEW_LETTERS.search(text)]
    assert len(texts) > (0.8 if notes else 0.99) * len(strings)
    assert bool(notes) == (shape == "llama-2 metaspace")
    _, found, _ = llama_cpp(tmp_path / "m.gguf", np.array([mine.start_id], np.int32), texts)
    different = [
        text
        for text, ids in zip(texts, found, strict=True)
        if ids != [mine.start_id, *mine.encode(text).tolist()]
    ]
    assert different == []


@needs("gguf", "xllamacpp")
@pytest.mark.parametrize("end", [0x20000, pytest.param(0x110000, marks=pytest.mark.soak)])
def test_what_llama_cpp_takes_for_another_kind_of_character(end: int, tmp_path: Path) -> None:
    """Every character after "!", a letter and a digit: a vocabulary that would join it with each shows how it is cut."""
    byte_ids = {byte: FIRST_BYTE_ID + i for i, byte in enumerate(BYTE_ORDER)}
    mine = Tokenizer(
        [(byte_ids[first], byte_ids[lead]) for first in b"!a1" for lead in range(0xC2, 0xF5)]
    )
    exhaust(export_gguf(stored(GROUPED, mine), tmp_path / "m.gguf"))
    characters = [chr(i) for i in range(0x80, end) if not 0xD800 <= i < 0xE000]
    parts = [characters[i : i + 500] for i in range(0, len(characters), 500)]
    texts = ["".join(f"!{c}\na{c}\n1{c}\n" for c in part) for part in parts]
    _, found, _ = llama_cpp(tmp_path / "m.gguf", np.array([0], np.int32), texts)
    different: set[str] = set()
    for part, text, ids in zip(parts, texts, found, strict=True):
        ours = mine.encode(text).tolist()
        if ids != [0, *ours]:
            theirs, ours = lines_of(ids[1:], byte_ids[10]), lines_of(ours, byte_ids[10])
            assert len(theirs) == len(ours)
            different |= {part[i // 3] for i, line in enumerate(theirs) if line != ours[i]}
    assert len(different) <= 4382 and all(map(NEW_LETTERS.fullmatch, different))


def lines_of(ids: list[int], line_end: int) -> list[list[int]]:
    lines: list[list[int]] = [[]]
    for i in ids:
        if i == line_end:
            lines.append([])
        else:
            lines[-1].append(i)
    return lines


@needs("tokenizers")
@every_shape
def test_what_was_read_is_kept_in_the_native_file(shape: str) -> None:
    _, mine = imported(shape, extra_rows=2)
    again = ImportedTokenizer.from_json(mine.to_json())
    assert again.to_json() == mine.to_json()
    assert again.encode(TEXT).tolist() == mine.encode(TEXT).tolist()
    size = mine.vocab_size
    back = read_tokenizer_json(json.dumps(tokenizer_json(mine)), size, None, (mine.eos_id,))
    assert back.to_json() == mine.to_json()


@needs("tokenizers")
@every_shape
def test_bytes_come_back(shape: str, strings: list[str]) -> None:
    _, mine = imported(shape)
    texts = [text.encode() for text in strings[:500]]
    texts += [b"\xff\xfe", b"a\xe2\x82", b"\xed\xa0\x80 b", b"", bytes(range(256))]
    for text in texts:
        # What a shape cannot tell apart: U+2581 is a blank; Metaspace lets the first blank of a text be its own.
        expected = text.replace("▁".encode(), b" ") if mine.vocabulary.prefix else text
        if mine.vocabulary.prefix == "metaspace":
            expected = expected.removeprefix(b" ")
        assert mine.decode_bytes(mine.encode(text)) == expected
        stream = mine.stream()
        pieces = [stream.push(i) for i in mine.encode(text).tolist()] + [stream.flush()]
        assert "".join(pieces).removeprefix(" " if mine.vocabulary.prefix else "") == (
            expected.decode(errors="replace")
        )


@needs("tokenizers")
@every_shape
def test_long_words_take_no_longer_than_their_length(shape: str) -> None:
    _, mine = imported(shape)
    for text in ("x" * 200_000, " " * 200_000, "▁" * 100_000, "\n" * 100_000, "1" * 100_000):
        assert mine.encode(text).size > 0


def sentencepiece_encode(pieces: list[bytes], scores: list[float], text: bytes) -> list[int]:
    """What run.c's `encode` does, word for word: characters, else bytes, then the best pair until there is none."""
    ids = {piece: i for i, piece in reversed(list(enumerate(pieces)))}
    tokens = [ids[b" "]] if text else []
    at = 0
    while at < len(text):
        end = at + 1
        while end < len(text) and text[end] & 0xC0 == 0x80 and end - at < 4:
            end += 1
        character, at = text[at:end], end
        if character in ids:
            tokens.append(ids[character])
        else:
            tokens += [byte + 3 for byte in character]
    while True:
        best_score, best = -1e10, None
        for i in range(len(tokens) - 1):
            made = ids.get(pieces[tokens[i]] + pieces[tokens[i + 1]])
            if made is not None and scores[made] > best_score:
                best_score, best = scores[made], (i, made)
        if best is None:
            return tokens
        tokens[best[0] : best[0] + 2] = [best[1]]


def llama2c_vocabulary(raw_bytes: bool) -> tuple[list[bytes], list[float]]:
    learnt = json.loads(llama_2().to_str())["model"]["vocab"]
    names = sorted(learnt, key=learnt.__getitem__)
    pieces = [
        b"<unk>",
        b"\n<s>\n",
        b"\n</s>\n",
        *(name.replace("▁", " ").encode() for name in names[3:]),
    ]
    if raw_bytes:
        kept = [piece for piece in pieces[259:] if len(piece) > 1]
        pieces = (
            pieces[:3]
            + [bytes([i]) for i in range(256)]
            + kept
            + [b"\xc3\xbc", b"\x84\x9f", b"l\xc3"]
        )
    scores = [0.0] * 259 + [-float(i // 2) for i in range(len(pieces) - 259)]
    return pieces, scores


def write_llama2c_tokenizer(path: Path, pieces: list[bytes], scores: list[float]) -> None:
    parts = [
        struct.pack("<fi", score, len(piece)) + piece
        for piece, score in zip(pieces, scores, strict=True)
    ]
    path.write_bytes(struct.pack("<I", max(map(len, pieces))) + b"".join(parts))


@needs("tokenizers")
@pytest.mark.parametrize("raw_bytes", [False, True], ids=["<0xXX>", "raw bytes"])
def test_llama2c_joins_by_score(raw_bytes: bool, strings: list[str], tmp_path: Path) -> None:
    pieces, scores = llama2c_vocabulary(raw_bytes)
    write_llama2c_tokenizer(tmp_path / "tokenizer.bin", pieces, scores)
    mine, order = _tokenizer(*read_tokenizer_bin(tmp_path / "tokenizer.bin", len(pieces)))
    assert isinstance(mine, ImportedTokenizer) and order is None
    assert (mine.start_id, mine.eos_id, mine.end_ids) == (1, 1, {1, 2})
    for text in [*strings[:2000], TEXT[:300]]:
        data = text.encode().replace("▁".encode(), b" ")
        assert mine.encode(text).tolist() == sentencepiece_encode(pieces, scores, data), repr(text)
    assert tokenizer_bin(mine)[4:] == (tmp_path / "tokenizer.bin").read_bytes()[4:].replace(
        b"\n<s>\n", b"<s>"
    ).replace(b"\n</s>\n", b"</s>").replace(
        struct.pack("<fi", 0.0, 5) + b"<s>", struct.pack("<fi", 0.0, 3) + b"<s>"
    ).replace(struct.pack("<fi", 0.0, 6) + b"</s>", struct.pack("<fi", 0.0, 4) + b"</s>")
    again = ImportedTokenizer.from_json(mine.to_json())
    assert again.to_json() == mine.to_json()
    with pytest.raises(UsageError, match="joins bytes by score" if raw_bytes else "have the score"):
        tokenizer_json(mine)


@needs("tokenizers")
def test_text_never_becomes_a_special_token() -> None:
    for shape in SHAPES:
        _, mine = imported(shape)
        for name, token_id in mine.special_tokens.items():
            assert token_id not in mine.encode(f"a {name} b {name}").tolist()
            assert mine.token_bytes(token_id) == b""


# Hugging Face


def their_config(config: ModelConfig, size: int, **more: object) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=size,
        hidden_size=config.dim,
        intermediate_size=config.hidden_dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        max_position_embeddings=config.max_seq_len,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_embeddings,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.15,
        **more,
    )


@needs("torch", "transformers", "tokenizers")
@every_config
def test_a_model_of_transformers_computes_the_same(config: ModelConfig, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(3)
    tokenizer = llama_2()
    size = tokenizer.get_vocab_size() + 5
    kind = (torch.float32, torch.float16, torch.bfloat16)[CONFIGS.index(config) % 3]
    model = LlamaForCausalLM(their_config(config, size)).to(kind)
    sharded = CONFIGS.index(config) % 2 == 0
    model.save_pretrained(tmp_path / "hf", max_shard_size="60KB" if sharded else "5GB")
    assert (tmp_path / "hf" / "model.safetensors").exists() != sharded
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path / "hf")
    # Not model.to(float32): the angles of its RoPE would stay rounded.
    model = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    mine, vocabulary, _ = load_model(tmp_path / "hf", "fp32")
    assert (vocabulary.start_id, vocabulary.eos_id, vocabulary.vocab_size) == (1, 2, size)
    ids = np.random.default_rng(5).integers(0, size, 256)
    with torch.no_grad():
        theirs = model(torch.tensor(ids[None])).logits[0].numpy()
    workspace = mine.workspace(1, 256, train=False)
    logits = mine.logits(workspace, ids[None].astype(np.int32))[0]
    assert np.abs(log_softmax(logits) - log_softmax(theirs)).max() < 1e-4
    weights = model.state_dict()
    for name, weight in mine.parameters:
        assert weights[name].numpy().tobytes() == weight.tobytes(), name
    assert greedy(result_of(read_stored_model(tmp_path / "hf"))) == greedy_of_transformers(model)
    exhaust(import_model(tmp_path / "hf", tmp_path / "m.bin"))
    exhaust(export_hf(result_of(read_stored_model(tmp_path / "m.bin")), tmp_path / "again"))
    again, _, _ = load_model(tmp_path / "again", "fp32")
    assert again.parameters.flat.tobytes() == mine.parameters.flat.tobytes()


@needs("gguf", "xllamacpp", "tokenizers")
@every_config
def test_an_imported_model_goes_on_to_llama_cpp_and_llama2c(
    config: ModelConfig, tmp_path: Path
) -> None:
    shapes = ["llama-2", *SHAPES]  # more often that of which llama2c knows the rules
    _, mine = imported(shapes[CONFIGS.index(config) % len(shapes)], extra_rows=4)
    exhaust(export_hf(stored(config, mine), tmp_path / "hf", "bf16"))
    exhaust(import_model(tmp_path / "hf", tmp_path / "m.bin"))
    model = result_of(read_stored_model(tmp_path / "m.bin"))
    exhaust(export_gguf(model, tmp_path / "m.gguf"))
    ids = ids_of(model)
    theirs, _, drawn = llama_cpp(tmp_path / "m.gguf", ids, greedy=N_GREEDY)
    assert np.abs(theirs - ours(model, ids)).max() < 1e-4
    assert drawn == greedy(model)
    if mine.vocabulary.prefix and config.rope_theta == 10_000.0:
        exhaust(export_llama2c(model, tmp_path / "c.bin"))
        assert np.abs(run_llama2c(tmp_path / "c.bin", ids) - ours(model, ids)).max() < 1e-4


@every_config
def test_an_export_comes_back_byte_for_byte(
    config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = stored(config, tokenizer)
    exhaust(export_hf(model, tmp_path / "hf"))
    sources = [tmp_path / "hf"]
    if config.rope_theta == 10_000.0:
        exhaust(export_llama2c(model, tmp_path / "c.bin"))
        sources.append(tmp_path / "c.bin")
    for source in sources:
        exhaust(import_model(source, tmp_path / "m.bin"))
        back = result_of(read_stored_model(tmp_path / "m.bin"))
        assert back.config == model.config
        assert back.tokenizer.to_json() == tokenizer.to_json()
        assert back.parameters.flat.tobytes() == model.parameters.flat.tobytes()


@needs("tokenizers")
@pytest.mark.parametrize("raw_bytes", [False, True], ids=["<0xXX>", "raw bytes"])
def test_a_llama2c_model_computes_the_same(raw_bytes: bool, tmp_path: Path) -> None:
    pieces, scores = llama2c_vocabulary(raw_bytes)
    write_llama2c_tokenizer(tmp_path / "other.bin", pieces, scores)
    vocabulary = tmp_path / "other.bin"
    mine, _ = _tokenizer(pieces, scores)
    model = stored(dataclasses.replace(GROUPED, tie_embeddings=raw_bytes), mine)
    exhaust(export_llama2c(model, tmp_path / "c.bin"))
    exhaust(import_model(tmp_path / "c.bin", tmp_path / "m.bin", vocabulary))
    back = result_of(read_stored_model(tmp_path / "m.bin"))
    assert back.parameters.flat.tobytes() == model.parameters.flat.tobytes()
    ids = ids_of(back)
    assert np.abs(run_llama2c(tmp_path / "c.bin", ids) - ours(back, ids)).max() < 1e-4
    exhaust(export_llama2c(back, tmp_path / "d.bin"))
    assert (tmp_path / "d.bin").read_bytes() == (tmp_path / "c.bin").read_bytes()


@needs("tokenizers")
def test_narrow_weights_become_what_they_stand_for(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = stored(GROUPED, tokenizer)
    for dtype in ("f16", "bf16"):
        exhaust(export_hf(model, tmp_path / dtype, dtype))
        back = result_of(read_stored_model(tmp_path / dtype))
        bits = back.parameters.flat.view(np.uint32)
        assert not (bits & (0xFFFF if dtype == "bf16" else 0x1FFF)).any()
        assert np.abs(back.parameters.flat - model.parameters.flat).max() < 0.01


# Conversations


@needs("transformers", "tokenizers")
def test_a_model_of_conversations_takes_its_roles_along(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from slim.conversation import Message, knows_roles, message_ids

    model = dataclasses.replace(stored(GROUPED, tokenizer), knows_roles=True)
    exhaust(export_hf(model, tmp_path / "hf"))
    record = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert record["eos_token_id"] == [0, 3]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    turns = [Message("user", "hello fox"), Message("assistant", "hello"), Message("user", "a fox")]
    text = theirs.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in turns],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ids == [0, *np.concatenate([message_ids(tokenizer, turn) for turn in turns]), 2]
    exhaust(import_model(tmp_path / "hf", tmp_path / "m.bin"))
    _, _, metadata = load_model(tmp_path / "m.bin")
    assert knows_roles(metadata)
    back = result_of(read_stored_model(tmp_path / "m.bin"))
    assert back.knows_roles
    exhaust(export_hf(stored(GROUPED, tokenizer), tmp_path / "plain"))
    assert "chat_template" not in json.loads((tmp_path / "plain/tokenizer_config.json").read_text())


@needs("gguf")
def test_roles_in_gguf_and_ollama(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import gguf

    model = dataclasses.replace(stored(GROUPED, tokenizer), knows_roles=True)
    exhaust(export_gguf(model, tmp_path / "m.gguf"))
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == CHAT_TEMPLATE
    assert fields["tokenizer.ggml.eot_token_id"].contents() == 3
    lines = (tmp_path / "Modelfile").read_text()
    assert (
        "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>" in lines
    )
    assert 'PARAMETER stop "<|end|>"' in lines and "PARAMETER num_ctx 320" in lines


@needs("tokenizers")
def test_the_template_of_an_imported_model_is_kept(tmp_path: Path) -> None:
    _, mine = imported("llama-3")
    exhaust(export_hf(stored(GROUPED, mine), tmp_path / "hf"))
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages[0]['content'] }} ü")
    exhaust(import_model(tmp_path / "hf", tmp_path / "m.bin"))
    exhaust(export_hf(result_of(read_stored_model(tmp_path / "m.bin")), tmp_path / "again"))
    record = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert record["chat_template"] == "{{ messages[0]['content'] }} ü"


# Commands


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    pytest.importorskip("tokenizers")
    _, mine = imported("llama-2", extra_rows=2)
    exhaust(export_hf(stored(GROUPED, mine), tmp_path / "hf"))
    return tmp_path / "hf"


def test_every_command_takes_a_directory(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.bin"
    assert main(["import", str(directory), str(out)]) == 0
    assert "m.bin is ready: " in capsys.readouterr().err
    texts = []
    for source in (directory, out):
        arguments = ["generate", str(source), "hello fox", "20", "--seed", "5", "--json"]
        assert main(arguments) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        texts.append([line["token_id"] for line in lines if "token_id" in line])
    assert texts[0] == texts[1] and len(texts[0]) > 0
    for source in (directory, out):
        assert main(["info", str(source), "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["model"]["vocab_size"] == 422 and record["parameters"] > 30_000
        assert record["history"] == [{"command": "import", "source": "hf"}]
        assert main(["tokenize", str(source), "hello <s>", "--ids"]) == 0
        assert capsys.readouterr().out.split()
    (tmp_path / "text.txt").write_text(TEXT)
    assert main(["eval", str(directory), str(tmp_path / "text.txt"), "--json"]) == 0
    before = json.loads(capsys.readouterr().out)["bits_per_byte"]
    tuned = tmp_path / "tuned.bin"
    arguments = ["finetune", str(directory), str(tmp_path / "text.txt"), "3", str(tuned)]
    assert main([*arguments, "-q", "--set", "seq_len=32", "--set", "batch_tokens=128"]) == 0
    capsys.readouterr()
    assert main(["eval", str(tuned), str(tmp_path / "text.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] < before
    _, vocabulary, metadata = load_model(tuned)
    assert isinstance(vocabulary, ImportedTokenizer) and vocabulary.start_id == 1
    assert [run["command"] for run in metadata["history"]] == ["import", "finetune"]


def test_nothing_is_overwritten(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.bin"
    out.write_bytes(b"mine")
    assert main(["import", str(directory), str(out)]) == 2
    assert "exists: add --force" in capsys.readouterr().err and out.read_bytes() == b"mine"
    assert main(["import", str(directory), str(directory), "--force"]) == 2
    assert main(["import", str(directory), str(out), "--force"]) == 0
    assert main(["import", str(out), str(tmp_path / "n.bin")]) == 3
    assert "is a model file of SLiM already" in capsys.readouterr().err
    assert main(["import", str(directory), str(tmp_path / "n"), "--tokenizer", "t.bin"]) == 2
    assert main(["import", str(tmp_path), str(tmp_path / "n.bin")]) == 3
    assert "without a config.json" in capsys.readouterr().err


def test_progress_is_in_numbers_of_weights(directory: Path, tmp_path: Path) -> None:
    events = exhaust(import_model(directory, tmp_path / "m.bin"))
    parts = [e for e in events if isinstance(e, Progress) and e.stage == "importing"]
    assert parts[-1].done == parts[-1].total and len(parts) > 10
    assert [e.done for e in parts] == sorted(e.done for e in parts)
    (result,) = [e for e in events if isinstance(e, Imported)]
    assert result.size_bytes == (tmp_path / "m.bin").stat().st_size


def test_several_tokens_may_end_a_text(directory: Path) -> None:
    path = directory / "generation_config.json"
    record = json.loads(path.read_text()) | {"eos_token_id": [2, 300, 301]}
    path.write_text(json.dumps(record))
    _, vocabulary, _ = load_model(directory)
    assert vocabulary.eos_id == 2 and vocabulary.end_ids == {2, 300, 301}


MEMORY = """
import resource, sys
from slim.formats.import_model import import_model
shown = sum(getattr(event, "stage", "") == "importing" for event in import_model(sys.argv[1], sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, shown)
"""


@pytest.mark.soak
@needs("tokenizers")
def test_memory_of_a_large_import(tmp_path: Path) -> None:
    """1.1 B parameters, TinyLlama's sizes, in two files of bf16 that are mostly holes."""
    from slim.formats.hf import config_json
    from slim.parameters import parameter_shapes

    theirs, _ = imported("llama-2")
    config = ModelConfig(
        vocab_size=32_000, dim=2048, n_layers=22, n_heads=32, n_kv_heads=4, hidden_dim=5632,
        max_seq_len=2048, tie_embeddings=False,
    )  # fmt: skip
    assert 1.09e9 < config.n_parameters < 1.11e9
    folder = tmp_path / "hf"
    folder.mkdir()
    theirs.save(str(folder / "tokenizer.json"))
    record = config_json(config, Tokenizer([])) | {"bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(record))
    names = list(parameter_shapes(config).items())
    places = {}
    for number, part in enumerate((names[:100], names[100:])):
        header, end = {}, 0
        for name, shape in part:
            start, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
            places[name] = f"model-{number}.safetensors"
        text = json.dumps(header).encode()
        with open(folder / f"model-{number}.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    index = json.dumps({"weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index)
    out = tmp_path / "m.bin"
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder), str(out)],
        capture_output=True, text=True, check=True, timeout=900,
    )  # fmt: skip
    peak, shown = map(int, done.stdout.split())
    assert out.stat().st_size > 4 * config.n_parameters
    out.unlink()
    assert peak < 1.1 * 4 * config.n_parameters, f"{peak:,} bytes"
    assert shown > 1000
