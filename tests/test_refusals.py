"""More than a hundred bad files and settings by name: each is refused with words of its own, and at once."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_checkpoint import BAD_CONTENTS

from conftest import TINY
from slim import checkpoint
from slim.config import LIMITS, ModelConfig, as_dict
from slim.errors import ModelFileError, SlimError
from slim.model_file import load_model, model_metadata
from slim.parameters import Parameters
from slim.tokenizer import Tokenizer

Array = np.ndarray
Case = tuple[str, Callable[[Path], object]]
REFUSED_SECONDS = 0.1
WHOLE = ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "max_seq_len")


def tokenizer_record() -> dict[str, object]:
    return json.loads(Tokenizer([]).to_json())


def written(
    path: Path,
    sizes: dict[str, object] | None = None,
    tokenizer: object = None,
    arrays: Callable[[dict[str, Array]], dict[str, Array]] = lambda arrays: arrays,
) -> None:
    """A model file that is whole as a file, but says other things than a model would."""
    metadata = model_metadata(TINY, Tokenizer([]), [])
    if sizes is not None:
        metadata["model"] = sizes
    if tokenizer is not None:
        metadata["tokenizer"] = tokenizer
    views = dict(Parameters(TINY).initialise(0).views)
    checkpoint.write(path, arrays(views), metadata)


def cases() -> Iterator[Case]:
    """Names, and how to make the file and open it."""

    def model(**changes: object) -> Callable[[Path], object]:
        def open_it(path: Path) -> object:
            written(path, **changes)  # type: ignore[arg-type]
            return timed(path)

        return open_it

    for name, contents, _ in BAD_CONTENTS:

        def open_bytes(path: Path, contents: bytes = contents) -> object:
            path.write_bytes(contents)
            return timed(path)

        yield f"file: {name}", open_bytes
    sizes = as_dict(TINY)
    for field in dataclasses.fields(ModelConfig):
        rest = {key: value for key, value in sizes.items() if key != field.name}
        kinds: dict[str, object] = {"text": "x", "list": [1]}
        if field.name in WHOLE:
            kinds |= {"zero": 0, "negative": -7, "float": 2.5, "true": True, "huge": 2**62}
            kinds["more than the most"] = LIMITS.get(field.name, 2**20) + 1
            if field.name == "n_kv_heads":
                del kinds["zero"]  # which means: as many as there are heads
        elif field.name in ("rope_theta", "norm_eps"):
            kinds |= {"zero": 0, "negative": -1.5, "huge": 1e300, "false": False}
        else:
            kinds |= {"one": 1, "float": 0.5}
        for kind, value in kinds.items():
            yield f"{field.name}: {kind}", model(sizes={**rest, field.name: value})
    for name, changes in {
        "heads that do not divide": {"n_heads": 5, "n_kv_heads": 5},
        "shared heads that do not divide": {"dim": 96, "n_heads": 8, "n_kv_heads": 3},
        "odd heads": {"dim": 6, "n_heads": 2, "n_kv_heads": 2},
        "more words than its tokenizer": {"vocab_size": 300},
        "wider than its weights": {"dim": 64},
        "deeper than its weights": {"n_layers": 2},
        "a head of its own that is not there": {"tie_embeddings": False},
        "the largest of all": {"dim": 16_384, "n_layers": 256, "n_heads": 64, "n_kv_heads": 64},
    }.items():
        yield name, model(sizes={**sizes, **changes})
    record = tokenizer_record()
    for name, text in {
        "no JSON": "{",
        "a number": "7",
        "no merges": json.dumps({**record, "model": {"type": "BPE"}}),
        "a merge of nothing": json.dumps(
            {**record, "model": {**record["model"], "merges": [["zz", "yy"]]}}  # type: ignore[dict-item]
        ),
        "a merge of one": json.dumps(
            {**record, "model": {**record["model"], "merges": [["a"]]}}  # type: ignore[dict-item]
        ),
        "another normalizer": json.dumps({**record, "normalizer": {"type": "NFC"}}),
        "other special tokens": json.dumps({**record, "added_tokens": []}),
        "a pattern": json.dumps({**record, "pre_tokenizer": {"type": "Split"}}),
        "something more": json.dumps({**record, "more": 1}),
    }.items():
        yield f"tokenizer: {name}", model(tokenizer=text)
    norm = "model.norm.weight"
    for name, change in {
        "one is missing": lambda a: {k: v for k, v in a.items() if k != norm},
        "one too many": lambda a: {**a, "model.extra.weight": np.zeros(3, np.float32)},
        "one too short": lambda a: {**a, norm: np.zeros(31, np.float32)},
        "one turned": lambda a: {**a, "model.embed_tokens.weight": a["model.embed_tokens.weight"].T},
        "none": lambda a: {},
    }.items():  # fmt: skip
        yield f"weights: {name}", model(arrays=change)


seconds: dict[str, float] = {}


def timed(path: Path) -> object:
    """Open a model file; how long it took to refuse it is remembered."""
    began = time.perf_counter()
    try:
        return load_model(path)
    finally:
        seconds[str(path)] = time.perf_counter() - began


CASES = list(cases())


def refusal(path: Path, open_it: Callable[[Path], object]) -> str:
    with pytest.raises(SlimError) as caught:
        open_it(path)
    words = str(caught.value)
    assert isinstance(caught.value, ModelFileError) and caught.value.exit_code == 3
    assert words.startswith(f"{path}: ") and "\n" not in words and len(words) < len(str(path)) + 400
    return words.removeprefix(str(path))


def test_more_than_a_hundred_are_refused_each_with_its_own_words(tmp_path: Path) -> None:
    assert len(CASES) > 100 and len({name for name, _ in CASES}) == len(CASES)
    said: dict[str, list[str]] = {}
    for name, open_it in CASES:
        said.setdefault(refusal(tmp_path / "m.bin", open_it), []).append(name)
    # Damage below what SLiM writes has few words for many kinds.
    alike = [names for names in said.values() if len(names) > 1]
    assert all(name.startswith("file: ") for names in alike for name in names)
    assert len(said) > 90


def test_what_is_right_is_not_refused(tmp_path: Path) -> None:
    """The control: the file that all of them are made of."""
    written(tmp_path / "m.bin")
    load_model(tmp_path / "m.bin")


@pytest.mark.soak
def test_each_is_refused_in_a_tenth_of_a_second(tmp_path: Path) -> None:
    """The least of three: clocks inform, and this machine may have other things to do."""
    path = tmp_path / "m.bin"
    for name, open_it in CASES:
        least = min(seconds[str(path)] for _ in range(3) if refusal(path, open_it))
        assert least < REFUSED_SECONDS, f"{name}: {least:.3f} s"
