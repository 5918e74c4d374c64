"""OUT.run/tokens/: a corpus as ids on disk, mapped into memory, so that it may be larger than that.

train               ids of all documents that are learnt from, each begun by eos: uint16, or int32 for a large vocabulary
held-out            the same of those that are measured on
*.counted           a byte for each id: whether it is learnt; only where something is not
held-out.documents  two int64 for each document: where it begins, and how many bytes of its text are measured on
manifest.json       what they were made from (digests of corpus and tokenizer, share held out), their sizes and digests

The manifest is written last. Files that do not fit it, or it the corpus and the tokenizer, are as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

import numpy as np

from slim.atomic_file import replace_file
from slim.corpus import Corpus
from slim.data import COUNTED, DOCUMENTS, HELD_OUT, TRAIN, TokenData, prepare, token_data
from slim.errors import SaveError
from slim.events import Note, Progress
from slim.input_file import reason
from slim.tokenizer import Tokenizer

FORMAT = 1
MANIFEST = "manifest.json"
NAMES = (TRAIN, TRAIN + COUNTED, HELD_OUT, HELD_OUT + COUNTED, DOCUMENTS)
LARGEST_MANIFEST = 100_000  # bytes
_CHUNK_BYTES = 2**22


def load_tokens(
    folder: Path, corpus: Corpus, tokenizer: Tokenizer, validation_share: float
) -> Generator[Progress | Note, None, TokenData]:
    """The corpus as ids from the files in `folder`, which are made when they are missing, stale or damaged. SaveError."""
    made_from = {
        "format": FORMAT,
        "corpus": corpus.digest,
        "tokenizer": tokenizer_digest(tokenizer),
        "validation_share": validation_share,
        "dtype": _dtype(tokenizer.vocab_size).str,
    }
    manifest = _read_manifest(folder / MANIFEST)
    if manifest is not None and {name: manifest.get(name) for name in made_from} == made_from:
        problem = yield from _check(folder, manifest, tokenizer.vocab_size)
        if problem is None:
            return _opened(folder, manifest, corpus)
        yield Note(f"{folder}: {problem}: the text is encoded again", "warning")
    store = TokenFiles(folder, _dtype(tokenizer.vocab_size))
    try:
        data = yield from prepare(corpus, tokenizer, validation_share, store)
    finally:
        store.close()
    record = {**made_from, "n_train_bytes": data.n_train_bytes, "files": store.files()}
    replace_file(folder / MANIFEST, [json.dumps(record, indent=2).encode() + b"\n"])
    return _opened(folder, record, corpus)


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """sha256 of a vocabulary in hex."""
    return hashlib.sha256(tokenizer.to_json().encode("utf-8", "surrogatepass")).hexdigest()


class TokenFiles:
    """A store (see data.Store) on disk. What was there before is gone once it is made."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        """SaveError when nothing can be written there."""
        self._folder, self._dtype = folder, dtype
        self._files: dict[str, BinaryIO] = {}
        self._digests: dict[str, hashlib._Hash] = {}
        self._sizes: dict[str, int] = {}
        try:
            folder.mkdir(exist_ok=True)
            for name in (MANIFEST, *NAMES):
                (folder / name).unlink(missing_ok=True)
        except OSError as problem:
            raise self._error(problem) from problem

    def append(self, name: str, piece: np.ndarray) -> None:
        """Write the next part of an array. SaveError."""
        data = np.ascontiguousarray(piece, _dtype_of(name, self._dtype))
        try:
            if name not in self._files:
                self._files[name] = (self._folder / name).open("wb", buffering=0)
                self._digests[name], self._sizes[name] = hashlib.sha256(), 0
            rest = memoryview(data.data).cast("B")
            self._digests[name].update(rest)
            self._sizes[name] += len(rest)
            while rest:
                rest = rest[self._files[name].write(rest) :]
        except OSError as problem:
            raise self._error(problem) from problem

    def arrays(self) -> dict[str, np.ndarray]:
        """What has been written, as it is read later."""
        self.close()
        return _map(self._folder, self._sizes, self._dtype)[0]

    def files(self) -> dict[str, dict[str, object]]:
        """Size and digest of every file."""
        return {
            name: {"bytes": size, "sha256": self._digests[name].hexdigest()}
            for name, size in self._sizes.items()
        }

    def close(self) -> None:
        """Nothing more is written."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()

    def _error(self, problem: OSError) -> SaveError:
        return SaveError(f"{self._folder}: cannot be written: {reason(problem)}")


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<i4")


def _dtype_of(name: str, ids: np.dtype) -> np.dtype:
    if name == DOCUMENTS:
        return np.dtype("<i8")
    return np.dtype(np.bool_) if name.endswith(COUNTED) else ids


def _read_manifest(path: Path) -> dict[str, object] | None:
    """The manifest, None when there is none that can be read."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_MANIFEST + 1)
        record = json.loads(data) if len(data) <= LARGEST_MANIFEST else None
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _sizes_of(manifest: Mapping[str, object]) -> dict[str, int] | None:
    """How long each file is; None when the manifest makes no sense."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not set(files) <= set(NAMES) or TRAIN not in files:
        return None
    sizes: dict[str, int] = {}
    for name, one in files.items():
        size = one.get("bytes") if isinstance(one, dict) else None
        if not isinstance(size, int) or size < 0:
            return None
        sizes[name] = size
    n_bytes = manifest.get("n_train_bytes")
    return sizes if isinstance(n_bytes, int) and n_bytes >= 0 else None


def _check(
    folder: Path, manifest: Mapping[str, object], vocab_size: int
) -> Generator[Progress, None, str | None]:
    """What is wrong with the files, in words; None when they are what they were."""
    sizes = _sizes_of(manifest)
    if sizes is None:
        return "its manifest is damaged"
    ids_dtype = _dtype(vocab_size)
    total, done = sum(sizes.values()), 0
    for name, size in sizes.items():
        digest, dtype, left = hashlib.sha256(), _dtype_of(name, ids_dtype), size
        try:
            with (folder / name).open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    left -= len(chunk)
                    done += len(chunk)
                    if dtype == ids_dtype and len(chunk) % dtype.itemsize == 0:
                        ids = np.frombuffer(chunk, dtype)
                        if ids.max() >= vocab_size or ids.min() < 0:
                            return f"{name} has an id that is not in the vocabulary"
                    yield Progress("checking tokens", min(done, total), total)
        except OSError as problem:
            return f"{name} cannot be read: {reason(problem)}"
        if left != 0 or size % dtype.itemsize != 0:
            return f"{name} has another length than it had"
        if digest.hexdigest() != manifest["files"][name].get("sha256"):  # type: ignore[index]
            return f"{name} is damaged"
    return None


def _opened(folder: Path, manifest: Mapping[str, object], corpus: Corpus) -> TokenData:
    """The data in files that have been checked."""
    sizes = _sizes_of(manifest)
    assert sizes is not None
    arrays, mapped = _map(folder, sizes, np.dtype(str(manifest["dtype"])))
    return token_data(arrays, corpus, int(str(manifest["n_train_bytes"])), mapped)


def _map(
    folder: Path, sizes: Mapping[str, int], ids_dtype: np.dtype
) -> tuple[dict[str, np.ndarray], tuple[mmap, ...]]:
    """The files as arrays that are read from disk when they are used, and the mapped files themselves."""
    arrays, mapped = {}, []
    for name, size in sizes.items():
        dtype = _dtype_of(name, ids_dtype)
        if size == 0:
            arrays[name] = np.empty(0, dtype)
            continue
        with (folder / name).open("rb") as file:
            mapped.append(mmap(file.fileno(), size, access=ACCESS_READ))
        arrays[name] = np.frombuffer(mapped[-1], dtype)
    return arrays, tuple(mapped)
