"""A safetensors file of somebody else: a checked header, and arrays read as float32 piece by piece.

    u64 LE header length | JSON header {name: {dtype, shape, data_offsets}} | arrays, without holes or overlap

https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from slim.checkpoint import count_non_finite
from slim.errors import ModelFileError
from slim.input_file import HEAD_BYTES, OpenedFile, kind_of, looks_like_text, reason
from slim.strict_json import parse_json

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 65_536
READ_NUMBERS = 2**20  # converted at a time
SIZES = {"F32": 4, "F16": 2, "BF16": 2}
_OTHER_SIZES = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
_ALL_SIZES = {**SIZES, **_OTHER_SIZES, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_NAME = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Where an array lies: its type, its shape, and its bytes within the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile(OpenedFile):
    """An open file with a checked header: look at `arrays`, then `read_into` them one by one."""

    error = ModelFileError

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        try:
            self._data_start, header = self._read_header()
            self.arrays = self._understand(header)
        except OSError as problem:
            self.close()
            raise ModelFileError(f"{path}: cannot be read: {reason(problem)}") from problem
        except BaseException:
            self.close()
            raise

    def read_into(self, name: str, out: np.ndarray) -> Iterator[int]:
        """Fill `out`, contiguous float32 of the array's shape, from F32, F16 or BF16; yields how many numbers are done."""
        array = self.arrays[name]
        if array.dtype not in SIZES:
            self._refuse(f"{name} is stored as {array.dtype}, but F32, F16 and BF16 are read")
        if out.shape != array.shape:
            self._refuse(f"{name} has shape {array.shape}, but its configuration says {out.shape}")
        flat = out.reshape(-1)
        try:
            self._file.seek(self._data_start + array.start)
            for start in range(0, flat.size, READ_NUMBERS):
                part = flat[start : start + READ_NUMBERS]
                if array.dtype == "F32":
                    self._fill(part.view(np.uint8).data)
                else:
                    narrow = np.empty(part.size, np.uint16)
                    self._fill(narrow.view(np.uint8).data)
                    if array.dtype == "F16":
                        part[:] = narrow.view(np.float16)
                    else:
                        np.left_shift(narrow, 16, out=part.view(np.uint32), dtype=np.uint32)
                if count := count_non_finite(part):
                    self._refuse(
                        f"{name} holds numbers that are NaN or infinite ({count:,} or more)"
                    )
                yield start + part.size
        except OSError as problem:
            raise ModelFileError(f"{self.path}: cannot be read: {reason(problem)}") from problem

    def _read_header(self) -> tuple[int, bytes]:
        head = self._file.read(HEAD_BYTES)
        length = int.from_bytes(head[:8], "little")
        if head[8:9] != b"{":
            kind = kind_of(head) or ("text" if looks_like_text(head) else "something else")
            self._refuse(f"should be a safetensors file, but is {kind}")
        if length > MAX_HEADER_BYTES:
            self._refuse(
                f"has a header of {length:,} bytes, but at most {MAX_HEADER_BYTES:,} are read"
            )
        if 8 + length > self.size_bytes:
            self._refuse(
                f"is cut short: its header alone has {8 + length:,} bytes, but the file has {self.size_bytes:,}"
            )
        header = bytearray(length)
        self._file.seek(8)
        self._fill(memoryview(header))
        return 8 + length, bytes(header)

    def _understand(self, header: bytes) -> dict[str, StoredArray]:
        try:
            record = parse_json(header.decode("utf-8"), 8 * MAX_TENSORS)
        except ValueError as problem:
            self._refuse(f"is damaged: its header is not valid JSON: {problem}")
        if not isinstance(record, dict):
            self._refuse("is damaged: its header is not a record")
        record.pop("__metadata__", None)
        if len(record) > MAX_TENSORS:
            self._refuse(f"holds {len(record):,} arrays, but at most {MAX_TENSORS:,} are read")
        arrays = {name: self._array(name, entry) for name, entry in record.items()}
        end = 0
        for name, array in sorted(arrays.items(), key=lambda item: (item[1].start, item[1].end)):
            if array.start != end:
                self._refuse(
                    f"is damaged: {name} begins at byte {array.start:,} of the data, not at {end:,}"
                )
            end = array.end
        if self._data_start + end != self.size_bytes:
            what = (
                "is cut short"
                if self.size_bytes < self._data_start + end
                else "has something appended"
            )
            self._refuse(
                f"{what}: its header speaks of {self._data_start + end:,} bytes, "
                f"but the file has {self.size_bytes:,}"
            )
        return arrays

    def _array(self, name: str, entry: object) -> StoredArray:
        if not _NAME.fullmatch(name):
            self._refuse(f"is damaged: {name[:40]!r} cannot be the name of an array")
        if not isinstance(entry, dict):
            self._refuse(f"is damaged: {name} has no record")
        dtype, shape, offsets = map(entry.get, ("dtype", "shape", "data_offsets"))
        if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_size, shape)):
            self._refuse(f"is damaged: {name} has the shape {str(shape)[:60]}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
            self._refuse(f"is damaged: {name} lies at {str(offsets)[:60]}")
        if not isinstance(dtype, str) or dtype not in _ALL_SIZES:
            self._refuse(f"{name} is stored as {str(dtype)[:20]}, which is not known")
        if offsets[1] - offsets[0] != _ALL_SIZES[dtype] * math.prod(shape):
            self._refuse(
                f"is damaged: {name} of shape {tuple(shape)} has {offsets[1] - offsets[0]:,} bytes"
            )
        return StoredArray(dtype, tuple(shape), offsets[0], offsets[1])

    def _refuse(self, problem: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {problem}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48
