"""The model file: what is written is read, the library agrees, and nothing damaged gets in."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from slim import checkpoint
from slim.checkpoint import ModelFile, check_shapes, count_non_finite, read, read_metadata, write
from slim.errors import ModelFileError, SaveError

METADATA: dict[str, object] = {
    "model": {"dim": 8, "rope_theta": 10_000.0, "norm_eps": 1e-05, "tie_embeddings": True},
    "tokenizer": '{"model":{"vocab":{"Ġa":1,"é\\n":2,"😀":3,"\\\\\\"":4}}}',
    "history": [{"losses": [3.25, 0.1 + 0.2, 5e-324], "seed": 2**63 - 1, "digest": "ab" * 32}],
    "calibration": None,
}


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(5)
    return {
        "model.norm.weight": draw.standard_normal(5, np.float32),
        "model.embed_tokens.weight": draw.standard_normal((3, 4), np.float32),
        "lm_head.weight": draw.standard_normal((7, 1, 2, 3), np.float32),
        "slim.opt.m.scalar": np.array(2.5, np.float32),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write(tmp_path / "model.bin", tensors(), METADATA)
    return tmp_path / "model.bin"


def sealed(shapes_and_offsets: dict[str, object], slim: object, data: bytes) -> bytes:
    """A file whose checksum is right, whatever else is wrong with it."""

    def header(sha256: str) -> bytes:
        inner = {**slim, "sha256": sha256} if isinstance(slim, dict) else slim
        text = inner if isinstance(inner, str) else compact(inner)
        return padded(compact({"__metadata__": {"slim": text}, **shapes_and_offsets}).encode())

    digest = hashlib.sha256(header("0" * 64) + data).hexdigest()
    return len(header(digest)).to_bytes(8, "little") + header(digest) + data


def compact(record: object) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def padded(header: bytes) -> bytes:
    return header + b" " * (-(8 + len(header)) % 64)


def f32(shape: list[object], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"data_offsets": [start, end], "dtype": dtype, "shape": shape}


def put(path: Path, contents: bytes | bytearray) -> None:
    """A new file with these contents. To empty the old one would make ext4 write it out: ten times as long."""
    path.unlink(missing_ok=True)
    path.write_bytes(contents)


def refusal(path: Path, contents: bytes | None = None) -> str:
    """The one line with which both readers refuse these contents; neither may accept them."""
    if contents is not None:
        put(path, contents)
    with pytest.raises(ModelFileError) as caught:
        read(path)
    with pytest.raises(ModelFileError):
        read_metadata(path, verify=True)
    words = str(caught.value)
    assert words.startswith(str(path)) and "\n" not in words and len(words) < len(str(path)) + 300
    return words


# What is written is read


def test_everything_comes_back(model: Path) -> None:
    arrays, metadata = read(model)
    assert metadata.pop("format") == 1
    assert len(str(metadata.pop("sha256"))) == 64
    assert metadata == METADATA
    assert set(arrays) == set(tensors())
    for name, array in tensors().items():
        assert arrays[name].shape == array.shape and arrays[name].dtype == np.float32
        assert arrays[name].tobytes() == array.tobytes()


def test_arrays_are_views_of_one_flat_array(model: Path) -> None:
    arrays, _ = read(model)
    bases = {id(array.base) for array in arrays.values()}
    assert len(bases) == 1


def test_library_reads_equal_arrays(model: Path) -> None:
    theirs = safetensors.numpy.load_file(model)
    ours, metadata = read(model)
    assert set(theirs) == set(ours)
    for name, array in ours.items():
        np.testing.assert_array_equal(theirs[name], array, strict=True)
    with safetensors.safe_open(model, "numpy") as file:
        assert json.loads(file.metadata()["slim"]) == metadata


def test_layout(model: Path) -> None:
    contents = model.read_bytes()
    (length,) = struct.unpack_from("<Q", contents)
    header, data = contents[8 : 8 + length], contents[8 + length :]
    assert (8 + length) % 64 == 0 and header.isascii()
    record = json.loads(header)
    assert list(record) == sorted(record) and list(record["__metadata__"]) == ["slim"]
    digest = json.loads(record["__metadata__"]["slim"])["sha256"]
    zeroed = header.replace(digest.encode(), b"0" * 64)
    assert zeroed != header and hashlib.sha256(zeroed + data).hexdigest() == digest
    assert data == b"".join(tensors()[name].tobytes() for name in sorted(tensors()))


def test_same_contents_same_bytes(model: Path, tmp_path: Path) -> None:
    backwards = dict(reversed(tensors().items()))
    size = write(tmp_path / "again", backwards, dict(reversed(METADATA.items())))
    assert (tmp_path / "again").read_bytes() == model.read_bytes()
    assert size == model.stat().st_size


def test_arrays_that_are_not_contiguous_are_written_right(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write(tmp_path / "m", {"t": array.T, "s": array[:, ::2]}, {})
    arrays, _ = read(tmp_path / "m")
    np.testing.assert_array_equal(arrays["t"], array.T, strict=True)
    np.testing.assert_array_equal(arrays["s"], array[:, ::2], strict=True)


def test_metadata_alone(model: Path) -> None:
    metadata, shapes = read_metadata(model)
    assert metadata["model"] == METADATA["model"]
    assert shapes == {name: array.shape for name, array in sorted(tensors().items())}


def test_metadata_needs_no_numba(model: Path) -> None:
    code = (
        "import sys; from slim.checkpoint import read_metadata; read_metadata(sys.argv[1]);"
        "assert not {'numba', 'textual', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(model)], check=True)


def test_read_into_chosen_arrays(model: Path) -> None:
    flat = np.full(20, np.nan, np.float32)
    views = {
        "model.norm.weight": flat[1:6],
        "model.embed_tokens.weight": flat[6:18].reshape(3, 4),
    }
    with ModelFile(model) as file:
        file.read_into(views)
    for name, view in views.items():
        np.testing.assert_array_equal(view, tensors()[name])
    assert np.isnan(flat[[0, 18, 19]]).all()


def test_read_into_arrays_of_another_shape(model: Path) -> None:
    with ModelFile(model) as file:
        with pytest.raises(ModelFileError, match=r"norm.weight has shape \(5,\), but \(6,\)"):
            file.read_into({"model.norm.weight": np.zeros(6, np.float32)})
        with pytest.raises(ModelFileError, match="nothing"):
            file.read_into({"nothing": np.zeros(6, np.float32)})
        with pytest.raises(ValueError, match="float32"):
            file.read_into({"model.norm.weight": np.zeros(5, np.float64)})
        with pytest.raises(ValueError, match="contiguous"):
            file.read_into({"model.norm.weight": np.zeros(10, np.float32)[::2]})


def test_an_open_file_outlives_its_replacement(model: Path) -> None:
    with ModelFile(model) as file:
        write(model, {"other": np.zeros(1000, np.float32)}, {})
        weight = np.empty(5, np.float32)
        file.read_into({"model.norm.weight": weight})
    np.testing.assert_array_equal(weight, tensors()["model.norm.weight"])


def test_no_second_copy_in_memory(tmp_path: Path) -> None:
    array = np.zeros(5_000_000, np.float32)
    tracemalloc.start()
    try:
        write(tmp_path / "m", {"a": array, "b": array}, METADATA)
        _, written = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        arrays, _ = read(tmp_path / "m")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert written < 4e6
    assert peak < 40e6 + 4e6 and arrays["a"].nbytes == 20_000_000


def test_check_shapes() -> None:
    shapes = {"a": (2, 3), "slim.opt.m.a": (2, 3)}
    check_shapes("f", shapes, {"a": (2, 3)}, ignored_prefix="slim.opt.")
    for expected, words in (
        ({"a": (3, 2)}, r"f: a has shape \(2, 3\), but its configuration says \(3, 2\)"),
        ({"a": (2, 3), "b": (1,)}, "f: b is missing"),
        ({}, "f: holds a, which"),
    ):
        with pytest.raises(ModelFileError, match=words):
            check_shapes("f", shapes, expected, ignored_prefix="slim.opt.")
    with pytest.raises(ModelFileError, match=r"holds slim.opt.m.a"):
        check_shapes("f", shapes, {"a": (2, 3)})


def test_count_non_finite() -> None:
    array = np.ones((300, 701), np.float32)
    array[0, 0] = np.finfo(np.float32).max
    array[1, 1] = 1e-45
    assert count_non_finite(array) == 0
    array[0, 1], array[150, 7], array[299, 700] = np.nan, np.inf, -np.inf
    assert count_non_finite(array) == 3
    assert count_non_finite(array.T) == 3
    assert count_non_finite(np.empty(0, np.float32)) == 0


# What must not be written


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_model_does_not_replace_a_good_one(model: Path, bad: float) -> None:
    before = model.read_bytes()
    broken = tensors()
    broken["model.norm.weight"][3] = bad
    with pytest.raises(SaveError, match=r"1 of the 5 numbers in model\.norm\.weight"):
        write(model, broken, METADATA)
    assert model.read_bytes() == before and os.listdir(model.parent) == ["model.bin"]


def test_a_loaded_nan_is_only_counted(tmp_path: Path) -> None:
    data = np.array([1, np.nan, np.inf], np.float32).tobytes()
    (tmp_path / "m").write_bytes(sealed({"a": f32([3], 0, 12)}, {"format": 1}, data))
    arrays, _ = read(tmp_path / "m")
    assert count_non_finite(arrays["a"]) == 2


@pytest.mark.parametrize(
    ("arrays", "metadata", "error"),
    [
        ({"a": np.zeros(3)}, {}, ValueError),
        ({"a": np.zeros(3, np.float32)}, {"loss": float("nan")}, ValueError),
        ({"a": np.zeros(3, np.float32)}, {"text": "\ud800"}, SaveError),
        ({"a": np.zeros(3, np.float32)}, {"n": 10**64}, SaveError),
        ({"a b": np.zeros(3, np.float32)}, {}, SaveError),
        ({"": np.zeros(3, np.float32)}, {}, SaveError),
        ({"__metadata__": np.zeros(3, np.float32)}, {}, SaveError),
        ({"a": np.zeros((1,) * 5, np.float32)}, {}, SaveError),
        ({"a": np.zeros((0, 3), np.float32)}, {}, SaveError),
        ({"a": np.zeros(3, np.float32)}, {"text": "x" * 2**24}, SaveError),
        ({f"a{i}": np.zeros(1, np.float32) for i in range(4097)}, {}, SaveError),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, arrays: dict, metadata: dict, error: type[Exception]
) -> None:
    with pytest.raises(error):
        write(tmp_path / "m", arrays, metadata)
    assert os.listdir(tmp_path) == []


def test_the_largest_that_is_allowed(tmp_path: Path) -> None:
    vocabulary = {f"Ġ{i:x}": i for i in range(65_536)}
    merges = [[f"Ġ{i:x}", f"{i:x}"] for i in range(65_536)]
    text = json.dumps({"model": {"vocab": vocabulary, "merges": merges}})
    arrays = {f"slim.opt.m.model.layers.{i}.x": np.zeros(1, np.float32) for i in range(4096)}
    write(tmp_path / "m", arrays, {"tokenizer": text})
    assert read(tmp_path / "m")[1]["tokenizer"] == text


# What must not be read


def test_other_kinds_are_called_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(tmp_path / "torch.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    kinds: dict[str, bytes] = {
        "zip archive": (tmp_path / "torch.pt").read_bytes(),
        "pickle": pickle.dumps({"a": 1}, protocol=2),
        "GGUF": b"GGUF\x03\0\0\0" + bytes(40),
        "gzip": gzip.compress(b"x" * 100),
        "HTML": b"\n<!DOCTYPE html><html><head>",
        "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "it is text": b"Once upon a time there was a model.",
        "first bytes are damaged": bytes(range(256)),
        "UTF-16": "Once".encode("utf-16"),
        "SLiM did not write it": safetensors.numpy.save({"a": np.zeros(3, np.float32)}),
        "is empty": b"",
    }
    for words, contents in kinds.items():
        assert words in refusal(path, contents)
    assert "is a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in refusal(tmp_path / "pipe")
    assert "null" in refusal(tmp_path / "x\0y")


def test_sealed_helper_makes_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(sealed({"a": f32([1], 0, 4)}, {"format": 1}, bytes(4)))
    assert read(tmp_path / "m")[0]["a"].tolist() == [0.0]


GOOD = {"format": 1}
BAD_CONTENTS: list[tuple[str, bytes, str]] = [
    ("hole", sealed({"a": f32([1], 4, 8)}, GOOD, bytes(8)), "cut short|appended|as SLiM writes"),
    ("overlap", sealed({"a": f32([2], 0, 8), "b": f32([1], 4, 8)}, GOOD, bytes(12)), "as SLiM"),
    ("order", sealed({"a": f32([1], 4, 8), "b": f32([1], 0, 4)}, GOOD, bytes(8)), "as SLiM"),
    ("size", sealed({"a": f32([3], 0, 4)}, GOOD, bytes(4)), "as SLiM"),
    ("trailing", sealed({"a": f32([1], 0, 4)}, GOOD, bytes(5)), "something appended"),
    ("short", sealed({"a": f32([2], 0, 8)}, GOOD, bytes(7)), "cut short"),
    ("huge", sealed({"a": f32([2**30, 2**20], 0, 2**52)}, GOOD, bytes(4)), "cut short"),
    ("huge size", sealed({"a": f32([2**60], 0, 2**62)}, GOOD, bytes(4)), "has the size"),
    ("negative", sealed({"a": f32([-1, -1], 0, 4)}, GOOD, bytes(4)), "has the size -1"),
    ("zero", sealed({"a": f32([0], 0, 0)}, GOOD, b""), "has the size 0"),
    ("float", sealed({"a": f32([1.0], 0, 4)}, GOOD, bytes(4)), "has the size"),
    ("bool", sealed({"a": f32([True], 0, 4)}, GOOD, bytes(4)), "has the size True"),
    ("rank", sealed({"a": f32([1] * 5, 0, 4)}, GOOD, bytes(4)), "up to 4 sizes"),
    ("dtype", sealed({"a": f32([2], 0, 4, "F16")}, GOOD, bytes(4)), "F16.*not F32"),
    ("extra", sealed({"a": {**f32([1], 0, 4), "x": 1}}, GOOD, bytes(4)), "as SLiM"),
    ("name", sealed({"a\n": f32([1], 0, 4)}, GOOD, bytes(4)), "cannot be the name"),
    ("long name", sealed({"a" * 257: f32([1], 0, 4)}, GOOD, bytes(4)), "cannot be the name"),
    ("list", sealed({"a": [1]}, GOOD, bytes(4)), "no shape"),
    ("newer", sealed({}, {"format": 2}, b""), "a newer SLiM wrote it"),
    ("format", sealed({}, {"format": "1"}, b""), "as SLiM"),
    ("no format", sealed({}, {}, b""), "as SLiM"),
    ("metadata list", sealed({}, "[1]", b""), "not a record"),
    ("no checksum", sealed({}, '{"format":1}', b""), "no checksum"),
    ("metadata text", sealed({}, "{", b""), "not valid JSON"),
    ("nesting", sealed({}, "[" * 200_000, b""), "not valid JSON"),
    ("many values", sealed({}, "[" + "0," * 330_001, b""), "more than 330,000 values"),
    ("tensors", sealed({f"a{i}": f32([1], 0, 4) for i in range(4097)}, GOOD, b""), "4,097 arrays"),
    ("surrogate", sealed({}, {"format": 1, "x": "\udc80"}, b""), "as SLiM"),
    ("nan", sealed({}, {"format": 1, "x": float("nan")}, b""), "not valid JSON"),
    ("infinity", sealed({}, '{"x":1e999}', b""), "not valid JSON"),
    ("digits", sealed({}, '{"x":' + "9" * 4000 + "}", b""), "not valid JSON"),
    ("keys", sealed({}, '{"x":1,"x":1}', b""), "not valid JSON"),
]


@pytest.mark.parametrize(("contents", "words"), [case[1:] for case in BAD_CONTENTS],
                         ids=[case[0] for case in BAD_CONTENTS])  # fmt: skip
def test_bad_contents_under_a_right_checksum(tmp_path: Path, contents: bytes, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        raise ModelFileError(refusal(tmp_path / "m", contents))


def respelled(contents: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The same file with its header spelled otherwise and sealed again."""
    length = int.from_bytes(contents[:8], "little")
    header, data = contents[8 : 8 + length], contents[8 + length :]
    digest = json.loads(json.loads(header)["__metadata__"]["slim"])["sha256"].encode()
    zeroed = change(header.replace(digest, b"0" * 64))
    seal = hashlib.sha256(zeroed + data).hexdigest().encode()
    header = zeroed.replace(b"0" * 64, seal)
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h + b" " * 64,
        lambda h: h.rstrip(b" ") + b"\n" * (len(h) - len(h.rstrip(b" "))),
        lambda h: padded(h.rstrip(b" ").replace(b'"dtype":', b'"dtype": ')),
        lambda h: padded(h.rstrip(b" ").replace(b'"shape":[5]', b'"shape":[5],"shape":[5]')),
        lambda h: padded(h.rstrip(b" ").replace(b"10000.0", b"1e4")),
        lambda h: padded(h.rstrip(b" ").replace(b"0.30000000000000004", b"0.300000000000000040")),
        lambda h: padded(h.rstrip(b" ").replace(b"lm_head", b"\\u006cm_head")),
        lambda h: padded(h.rstrip(b" ").replace(b'{"slim"', b'{"also":"x","slim"')),
        lambda h: padded(h.rstrip(b" ")[:-1] + b',"zz":{}}'),
        lambda h: padded(h.rstrip(b" ").replace(b"\\\\u00e9", "é".encode())),
    ],
)
def test_one_spelling_only(model: Path, change: Callable[[bytes], bytes]) -> None:
    contents = model.read_bytes()
    assert respelled(contents, lambda header: header) == contents
    other = respelled(contents, change)
    assert other != contents
    refusal(model, other)


def test_every_truncation(model: Path) -> None:
    contents = model.read_bytes()
    length = int.from_bytes(contents[:8], "little")
    for size in [*range(0, length + 8, 7), *range(length, len(contents))]:
        refusal(model, contents[:size])


@pytest.mark.soak
def test_a_model_of_32_kb_cut_or_changed_anywhere(model: Path) -> None:
    """Every length, every bit of the header, 10,000 bits of the data: nothing is accepted."""
    draw = np.random.default_rng(1)
    arrays = {name: draw.standard_normal((33, 20), np.float32) for name in "abcdefghijkl"}
    write(model, arrays, METADATA)
    contents = model.read_bytes()
    assert len(contents) > 32_000
    for size in range(len(contents)):
        put(model, contents[:size])
        with pytest.raises(ModelFileError):
            read(model)
    header = 8 + int.from_bytes(contents[:8], "little")
    places = [*range(8 * header), *draw.integers(8 * header, 8 * len(contents), 10_000).tolist()]
    changed = bytearray(contents)
    for place in places:
        changed[place // 8] ^= 1 << place % 8
        put(model, changed)
        with pytest.raises(ModelFileError):
            read(model)
        changed[place // 8] ^= 1 << place % 8
    put(model, changed)
    read(model)


def test_every_bit_of_header_and_data(model: Path) -> None:
    write(model, {"a": np.ones((2, 3), np.float32)}, {"n": 1})
    contents = bytearray(model.read_bytes())
    for place in range(len(contents)):
        for bit in range(8):
            contents[place] ^= 1 << bit
            put(model, contents)
            with pytest.raises(ModelFileError):
                read(model)
            contents[place] ^= 1 << bit
    put(model, contents)
    read(model)


def mutated(contents: bytes, draw: random.Random) -> bytes:
    """Something that still looks like a model file: changed in its header's fields, in its lengths or in its bytes."""
    length = int.from_bytes(contents[:8], "little")
    header, data = contents[8 : 8 + length].rstrip(b" "), contents[8 + length :]
    kind = draw.randrange(8)
    if kind == 0:
        at = draw.randrange(len(contents))
        return contents[:at] + draw.randbytes(draw.randrange(1, 9)) + contents[at + 1 :]
    if kind == 1:
        start, end = sorted(draw.choices(range(len(contents)), k=2))
        return contents[:start] + contents[end:]
    if kind == 2:
        lengths = [0, 1, length - 1, length + 1, length + 64, 2**24, 2**31, 2**63, 2**64 - 1]
        return draw.choice(lengths).to_bytes(8, "little") + contents[8:]
    if kind == 3:
        token = draw.choice([b"[", b"{", b",", b'"', b"0", b"]", b"}", b":", b"F32", b"\\"])
        other = draw.choice([b"", b"[[", b"{", b"NaN", b"1e999", b"-1", b"9" * 30, b'"', b"\xff",
                             b"null", b'"\\ud800"', b"[" * 5000, token * 2])  # fmt: skip
        pieces = header.split(token)
        at = draw.randrange(1, len(pieces)) if len(pieces) > 1 else 0
        header = token.join(pieces[:at]) + other + token.join(pieces[at:])
    elif kind == 4:
        header, data = header, data + draw.randbytes(draw.randrange(1, 100))
    else:
        record = json.loads(header)
        values = [None, True, -1, 0, 1, 2**31, 2**62, 2**64, 1.5, "", "x", [], {}, [1, 2], [[]]]
        name = draw.choice(list(record))
        if kind == 5:
            record[name] = draw.choice(values)
        elif kind == 6 and name != "__metadata__":
            field = draw.choice(list(record[name]))
            record[name][field] = draw.choice(values)
            if draw.random() < 0.5:
                record[draw.choice("abc")] = record.pop(name)
        else:
            slim = json.loads(record["__metadata__"]["slim"])
            slim[draw.choice([*slim, "new"])] = draw.choice(values)
            record["__metadata__"]["slim"] = compact(slim)
        header = compact(record).encode()
    header = padded(header)
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize("count", [3000, pytest.param(200_000, marks=pytest.mark.soak)])
def test_mutations_are_refused(model: Path, count: int) -> None:
    contents, draw = model.read_bytes(), random.Random(11)
    before = peak_memory()
    for _ in range(count):
        other = mutated(contents, draw)
        if other == contents:
            continue
        put(model, other)
        with pytest.raises(ModelFileError) as caught:
            read(model)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert peak_memory() - before < len(contents) + 64 * 2**20


def peak_memory() -> int:
    """The most that this process has ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def resealed(contents: bytes) -> bytes | None:
    """The file with a right checksum; None where there is no header to put one in."""
    try:
        length = int.from_bytes(contents[:8], "little")
        record = json.loads(contents[8 : 8 + length])
        slim = json.loads(record.pop("__metadata__")["slim"])
        return sealed(record, slim, contents[8 + length :]) if isinstance(slim, dict) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_what_is_accepted_the_library_reads_too(model: Path, count: int) -> None:
    contents, draw = model.read_bytes(), random.Random(12)
    accepted = 0
    for _ in range(count):
        other = resealed(mutated(contents, draw))
        if other is None:
            continue
        put(model, other)
        try:
            ours, _ = read(model)
        except ModelFileError:
            continue
        theirs = safetensors.numpy.load(other)
        assert set(ours) == set(theirs)
        for name, array in ours.items():
            assert array.shape == theirs[name].shape and array.tobytes() == theirs[name].tobytes()
        accepted += 1
    assert accepted > count // 50  # metadata may say anything


def test_a_file_that_shrinks_while_it_is_read(model: Path) -> None:
    with ModelFile(model) as file:
        os.truncate(model, model.stat().st_size - 4)
        with pytest.raises(ModelFileError, match="became shorter"):
            file.read_into({})


def test_a_hostile_header_costs_little_memory(tmp_path: Path) -> None:
    small = '{"":[]},'
    for text in (
        "[" + small * 109_000 + "0]",
        '{"tokenizer":"' + "\\ud83d\\ude00" * 600_000 + '"}',
    ):
        contents = sealed({}, text, b"")
        (tmp_path / "m").write_bytes(contents)
        tracemalloc.start()
        try:
            refusal(tmp_path / "m")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < len(contents) + 64 * 2**20
    assert len(contents) < checkpoint.MAX_HEADER_BYTES
