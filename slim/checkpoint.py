"""The model file: named float32 arrays and one JSON record, in the safetensors layout, with a checksum over all of it.

    u64 LE header length | JSON header, padded with spaces to 64 bytes | arrays, one after the other

There is exactly one way to write given contents, so the reader rebuilds the header from what it understood of it and
compares bytes: duplicates, holes, overlaps, odd spellings and unknown fields need no rules of their own. `__metadata__`
has one key, "slim": a record in JSON with "format", "sha256" (over the header, with this field zeroed, and the arrays)
and whatever the writer knows of the model. Every array is little-endian F32, as on every machine this runs on.
https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from slim.atomic_file import replace_file
from slim.errors import ModelFileError, SaveError
from slim.input_file import HEAD_BYTES, OpenedFile, kind_of, looks_like_text, reason
from slim.strict_json import parse_json

FORMAT = 1
ALIGNMENT = 64
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 4096
MAX_RANK = 4
# JSON of 16 MB can unfold to 400 MB of small objects. A vocabulary of 65,536 and 4,096 arrays need 300,000 values.
MAX_JSON_VALUES = 330_000

_CHUNK_BYTES = 2**21  # stays in the cache between being read and being hashed
_EXPONENT = np.uint32(0x7F80_0000)
_ZEROED = "0" * 64
_NAME = re.compile(r"[!-~]{1,256}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

Shapes = dict[str, tuple[int, ...]]


def write(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, object],
    *,
    keep_previous: bool = False,
) -> int:
    """Save arrays and metadata atomically; the size of the file in bytes.

    tensors: float32, any shape up to rank 4   metadata: what JSON can hold; "format" and "sha256" are filled in
    keep_previous: the file that is replaced stays reachable as `path`.prev
    SaveError: it could not be written, or an array holds NaN or infinity; whatever `path` was before, it still is.
    """
    data: dict[str, memoryview] = {}
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        if array.dtype != np.dtype("<f4"):
            raise ValueError(f"{name} must be float32, but is {array.dtype}")
        count = count_non_finite(array)
        if count:
            raise SaveError(
                f"{path}: not saved: {count:,} of the {array.size:,} numbers in {name} "
                f"are NaN or infinite"
            )
        data[name] = _bytes_of(array)
    shapes = {name: tuple(tensors[name].shape) for name in data}

    header = _header(shapes, metadata, _ZEROED)
    try:
        _understand(header)
    except _NotOursError as problem:  # what could not be read back is not written
        raise SaveError(f"{path}: not saved: the file {problem}") from problem
    digest = hashlib.sha256(header)
    for view in data.values():
        digest.update(view)
    header = _header(shapes, metadata, digest.hexdigest())
    prefix = len(header).to_bytes(8, "little")
    return replace_file(path, [prefix, header, *data.values()], keep_previous=keep_previous)


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Everything in a model file, verified: arrays by name, all views of one flat array, and the metadata."""
    with ModelFile(path) as file:
        flat = np.empty(sum(map(math.prod, file.shapes.values())), np.float32)
        tensors, end = {}, 0
        for name, shape in file.shapes.items():
            start, end = end, end + math.prod(shape)
            tensors[name] = flat[start:end].reshape(shape)
        file.read_into(tensors)
        return tensors, file.metadata


def read_metadata(
    path: str | Path, *, verify: bool = False
) -> tuple[dict[str, object], dict[str, tuple[int, ...]]]:
    """Metadata and the shape of every array, from the header alone; `verify` checks the arrays' checksum too."""
    with ModelFile(path) as file:
        if verify:
            file.read_into({})
        return file.metadata, file.shapes


class ModelFile(OpenedFile):
    """An open model file with a checked header: look at `metadata` and `shapes`, then `read_into` arrays.

    The file stays open in between, so a training run that saves a new one under the same name does no harm.
    """

    error = ModelFileError

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        try:
            header = self._read_header()
            try:
                self.shapes, self.metadata = _understand(header)
            except _NotOursError as problem:
                raise ModelFileError(f"{path}: {problem}") from problem
            self._data_start = 8 + len(header)
            expected = self._data_start + 4 * sum(map(math.prod, self.shapes.values()))
            if self.size_bytes != expected:
                what = "is cut short" if self.size_bytes < expected else "has something appended"
                raise ModelFileError(
                    f"{path}: {what}: its header speaks of {expected:,} bytes, "
                    f"but the file has {self.size_bytes:,}"
                )
        except OSError as problem:
            self.close()
            raise ModelFileError(f"{path}: cannot be read: {reason(problem)}") from problem
        except BaseException:
            self.close()
            raise

    def read_into(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill arrays (float32, C-contiguous, of the shapes in the file) straight from the disk.

        Names left out are only checked. The checksum is known at the end: after a ModelFileError the contents of
        `arrays` mean nothing.
        """
        for name, array in arrays.items():
            if array.dtype != np.dtype("<f4") or not array.flags.c_contiguous:
                raise ValueError(f"{name} must be C-contiguous float32 to be read into")
            if array.shape != self.shapes.get(name):
                raise ModelFileError(
                    f"{self.path}: {name} has shape {self.shapes.get(name)}, "
                    f"but {array.shape} is expected"
                )
        digest = hashlib.sha256(_header(self.shapes, self.metadata, _ZEROED))
        unused: np.ndarray | None = None
        try:
            self._file.seek(self._data_start)
            for name, shape in self.shapes.items():
                wanted = arrays.get(name)
                if wanted is not None:
                    chunks = _chunks(_bytes_of(wanted))
                else:
                    if unused is None:
                        unused = np.empty(_CHUNK_BYTES, np.uint8)
                    chunks = _repeated(unused.data, 4 * math.prod(shape))
                for chunk in chunks:
                    self._fill(chunk)
                    digest.update(chunk)
        except OSError as problem:
            raise ModelFileError(f"{self.path}: cannot be read: {reason(problem)}") from problem
        if digest.hexdigest() != self.metadata["sha256"]:
            raise ModelFileError(
                f"{self.path}: is damaged: what it holds does not agree with its own checksum"
            )

    def _read_header(self) -> bytes:
        """The header's bytes; a file of another kind is called by its name."""
        head = self._file.read(HEAD_BYTES)
        length = int.from_bytes(head[:8], "little")
        if head[8:9] != b"{" or length > MAX_HEADER_BYTES:
            kind = kind_of(head) or ("text" if looks_like_text(head) else None)
            if kind is None:
                raise ModelFileError(
                    f"{self.path}: is not a model file, or its first bytes are damaged"
                )
            if head[8:9] == b"{":
                kind += f" with a header of {length:,} bytes, where {MAX_HEADER_BYTES:,} are read"
            raise ModelFileError(f"{self.path}: is not a model file of SLiM: it is {kind}")
        if 8 + length > self.size_bytes:
            raise ModelFileError(
                f"{self.path}: is cut short: its header alone has {8 + length:,} bytes, "
                f"but the file has {self.size_bytes:,}"
            )
        header = bytearray(length)
        self._file.seek(8)
        self._fill(memoryview(header))
        return bytes(header)


def check_shapes(
    path: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    ignored_prefix: str | None = None,
) -> None:
    """ModelFileError unless the file holds exactly the arrays `expected`, names that begin with the prefix aside."""
    for name, shape in expected.items():
        if name not in shapes:
            raise ModelFileError(f"{path}: {name} is missing: it does not hold a whole model")
        if shapes[name] != shape:
            raise ModelFileError(
                f"{path}: {name} has shape {shapes[name]}, but its configuration says {shape}"
            )
    for name in shapes:
        if name in expected or (ignored_prefix is not None and name.startswith(ignored_prefix)):
            continue
        raise ModelFileError(f"{path}: holds {name}, which no model of its configuration has")


def count_non_finite(array: np.ndarray) -> int:
    """How many numbers of a float32 array are NaN or infinite, by their exponent bits."""
    bits = array.reshape(-1).view(np.uint32)
    count = 0
    for start in range(0, bits.size, 2**16):  # 256 kB at a time: no second copy of a model
        part = bits[start : start + 2**16]
        count += int(np.count_nonzero((part & _EXPONENT) == _EXPONENT))
    return count


class _NotOursError(Exception):
    """What is wrong with a header, to be said after the path."""


def _header(
    shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, object], sha256: str
) -> bytes:
    """The one way to write a header."""
    record: dict[str, object] = {
        "__metadata__": {"slim": _compact({**metadata, "format": FORMAT, "sha256": sha256})}
    }
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * math.prod(shapes[name])
        record[name] = {"data_offsets": [start, end], "dtype": "F32", "shape": list(shapes[name])}
    text = _compact(record)
    return (text + " " * (-(8 + len(text)) % ALIGNMENT)).encode("ascii")


def _compact(record: object) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _understand(header: bytes) -> tuple[Shapes, dict[str, object]]:
    """Shapes in the order of the file, and metadata. _NotOursError unless `_header` writes the same bytes."""
    if len(header) > MAX_HEADER_BYTES:
        raise _NotOursError(
            f"its header would have {len(header):,} bytes, but at most {MAX_HEADER_BYTES:,} are read"
        )
    record = _strict_json(header)
    if not isinstance(record, dict):
        raise _NotOursError("is damaged: its header is not a record")
    outer = record.pop("__metadata__", None)
    text = outer.get("slim") if isinstance(outer, dict) else None
    if not isinstance(text, str):
        raise _NotOursError("is a safetensors file, but SLiM did not write it")
    metadata = _strict_json(text)
    if not isinstance(metadata, dict):
        raise _NotOursError("is damaged: its metadata is not a record")
    version = metadata.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise _NotOursError(
            f"has format {version}, but this SLiM reads format {FORMAT}: a newer SLiM wrote it"
        )
    sha256 = metadata.get("sha256")
    if not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256):
        raise _NotOursError("is damaged: it has no checksum")
    if len(record) > MAX_TENSORS:
        raise _NotOursError(f"holds {len(record):,} arrays, but at most {MAX_TENSORS:,} are read")
    shapes: Shapes = {name: _shape(name, entry) for name, entry in record.items()}
    try:
        if "\\ud" in text:
            json.dumps(metadata, ensure_ascii=False).encode()  # fails on half a surrogate pair
        same = _header(shapes, metadata, sha256) == header
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise _NotOursError("is damaged: its header is not as SLiM writes it")
    return shapes, metadata


def _shape(name: str, entry: object) -> tuple[int, ...]:
    if not _NAME.fullmatch(name):
        raise _NotOursError(f"is damaged: {name[:40]!r} cannot be the name of an array")
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise _NotOursError(f"is damaged: {name} has no shape of up to {MAX_RANK} sizes")
    if entry.get("dtype") != "F32":
        raise _NotOursError(
            f"is not SLiM's: {name} holds {str(entry.get('dtype'))[:20]!r}, not F32"
        )
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < 2**40:
            raise _NotOursError(f"is damaged: {name} has the size {str(size)[:40]}")
    return tuple(shape)


def _strict_json(text: str | bytes) -> object:
    """JSON as we write it: ASCII, no NaN, no infinity, no duplicate keys, a bounded number of values."""
    if not text.isascii():
        raise _NotOursError("is damaged: its header is not plain ASCII")
    string = text if isinstance(text, str) else text.decode("ascii")
    try:
        return parse_json(string, MAX_JSON_VALUES)
    except ValueError as problem:
        raise _NotOursError(f"is damaged: its header is not valid JSON: {problem}") from problem


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _chunks(view: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(view), _CHUNK_BYTES):
        yield view[start : start + _CHUNK_BYTES]


def _repeated(view: memoryview, size: int) -> Iterator[memoryview]:
    for start in range(0, size, len(view)):
        yield view[: size - start]
