"""A llama2.c checkpoint (version 0) with its tokenizer.bin as a source of weights; llama2c.py has the layout.

The file says nothing of what it is, so its size must be exactly what its seven numbers lead to. Its tokenizer keeps its
rules: a blank before the text, then the best-scored pair anywhere. A text begins with token 1, and `run.c` ends at it.
What `slim export` wrote becomes again what it was: there the scores are ranks of pairs.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Generator, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import NoReturn

import numpy as np

from slim.checkpoint import count_non_finite
from slim.config import LIMITS, ModelConfig
from slim.errors import ConfigError, ModelFileError
from slim.events import Note, Progress
from slim.formats.llama2c_layout import KINDS, TOKENIZER, ids_in_order
from slim.formats.rope_rows import half_split, rotated_heads
from slim.imported_tokenizer import MAX_PIECE, SENTENCEPIECE, ImportedTokenizer, Vocabulary
from slim.input_file import open_input, reason
from slim.pair_merging import merged
from slim.tokenizer import (
    BYTE_ORDER,
    FIRST_BYTE_ID,
    FIRST_MERGE_ID,
    MOST_TOKENS,
    SPECIAL_TOKENS,
    Tokenizer,
)

HEADER = struct.Struct("<7i")
START, END, FIRST_BYTE, FIRST_PIECE = 1, 2, 3, 259
LONGEST_TOKEN_BYTES = 64  # that SLiM builds
_BYTE_NAME = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


def looks_like_llama2c(path: str | Path) -> bool:
    """Whether a file begins with seven numbers that lead to its own size."""
    try:
        file, size = open_input(path, ModelFileError)
    except ModelFileError:
        return False
    with file:
        head = file.read(HEADER.size) or b""
    return len(head) == HEADER.size and expected_bytes(HEADER.unpack(head)) == size


def expected_bytes(header: tuple[int, ...]) -> int | None:
    """How large a checkpoint with this header is; None for one that cannot be."""
    dim, hidden, layers, heads, kv_heads, vocab, seq = header
    if (
        min(dim, hidden, layers, heads, kv_heads, abs(vocab), seq) < 1
        or dim % heads
        or dim // heads % 2
    ):
        return None
    half = dim // heads // 2
    layer = 2 * dim * dim + 2 * dim * kv_heads * 2 * half + 3 * dim * hidden + 2 * dim
    heads_of_vocab = 2 if vocab < 0 else 1
    numbers = heads_of_vocab * abs(vocab) * dim + layers * layer + dim + 2 * seq * half
    return HEADER.size + 4 * numbers


class Llama2cSource:
    """A checkpoint whose header and tokenizer are checked; `fill` reads the weights."""

    def __init__(self, path: str | Path, tokenizer: str | Path | None = None) -> None:
        self.path = Path(path)
        self.notes: list[Note] = []
        file, size = open_input(path, ModelFileError)
        with file:
            head = file.read(HEADER.size) or b""
        if len(head) < HEADER.size:
            self._refuse(f"has {size:,} bytes, but a llama2.c checkpoint begins with {HEADER.size}")
        header = HEADER.unpack(head)
        if header[0] == int.from_bytes(b"ak42", "big"):
            self._refuse(
                "is a llama2.c checkpoint of version 1 or 2, but version 0 is read (export.py --version 0)"
            )
        self.config = self._config(header)
        expected = expected_bytes(header)
        if expected != size:
            what = (
                "is cut short" if expected is None or size < expected else "has something appended"
            )
            self._refuse(
                f"{what}: its header speaks of {expected or 0:,} bytes, but the file has {size:,}"
            )
        beside = self.path.parent / TOKENIZER
        if tokenizer is None and not os.path.exists(beside):
            self._refuse(f"there is no {TOKENIZER} beside it: slim import SRC OUT --tokenizer FILE")
        pieces, scores = read_tokenizer_bin(tokenizer or beside, self.config.vocab_size)
        self.tokenizer, self._order = _tokenizer(pieces, scores)
        entry = {"command": "import", "source": self.path.resolve().name}
        self.metadata: dict[str, object] = {"history": [entry], "calibration": None}

    def fill(self, views: Mapping[str, np.ndarray]) -> Generator[Progress, None, None]:
        """Read every weight into its view, in the order of the file."""
        total = sum(view.size for view in views.values())
        done = 0
        file, _ = open_input(self.path, ModelFileError)
        try:
            with file:
                file.seek(HEADER.size)
                for name in self._names():
                    if name is None:
                        file.seek(4 * self.config.max_seq_len * self.config.head_dim, 1)
                        continue
                    view = views[name]
                    _read_exactly(file, view, self.path)
                    if count := count_non_finite(view):
                        self._refuse(f"{name} holds numbers that are NaN or infinite ({count:,})")
                    self._reorder(name, view)
                    done += view.size
                    yield Progress("importing", done, total)
        except OSError as problem:
            raise ModelFileError(f"{self.path}: cannot be read: {reason(problem)}") from problem

    def _names(self) -> Iterator[str | None]:
        """The weights in the order of the file, None where the angles of RoPE lie."""
        yield "model.embed_tokens.weight"
        for kind in KINDS:
            for layer in range(self.config.n_layers):
                yield f"model.layers.{layer}.{kind}.weight"
        yield "model.norm.weight"
        yield None
        if not self.config.tie_embeddings:
            yield "lm_head.weight"

    def _reorder(self, name: str, view: np.ndarray) -> None:
        """Rows of heads in the order of the native file, rows of the vocabulary in that of the tokenizer."""
        heads = rotated_heads(name, self.config)
        if heads is not None:
            view[:] = half_split(view, heads)
        elif name in ("model.embed_tokens.weight", "lm_head.weight") and self._order is not None:
            view[self._order] = view.copy()

    def _config(self, header: tuple[int, ...]) -> ModelConfig:
        dim, hidden, layers, heads, kv_heads, vocab, seq = header
        if abs(vocab) > LIMITS["vocab_size"] or min(header[:5]) < 1 or seq < 1 or vocab == 0:
            self._refuse(f"is not a llama2.c checkpoint of version 0: it begins with {header}")
        try:
            return ModelConfig(
                vocab_size=abs(vocab),
                dim=dim,
                n_layers=layers,
                n_heads=heads,
                n_kv_heads=kv_heads,
                hidden_dim=hidden,
                max_seq_len=seq,
                tie_embeddings=vocab > 0,
            )
        except ConfigError as problem:
            self._refuse(f"is not a llama2.c checkpoint that can be run: {problem}")

    def _refuse(self, problem: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {problem}")


def read_tokenizer_bin(path: str | Path, vocab_size: int) -> tuple[list[bytes], list[float]]:
    """The bytes and the score of every token."""

    def refuse(problem: str) -> NoReturn:
        raise ModelFileError(f"{path}: {problem}")

    file, size = open_input(path, ModelFileError)
    with file:
        if size > 4 + vocab_size * (8 + MAX_PIECE):
            refuse(f"has {size:,} bytes, too many for {vocab_size:,} tokens")
        data = file.read(size) or b""
    if len(data) < 4:
        refuse("is cut short")
    if vocab_size < FIRST_PIECE:
        refuse(
            f"a llama2.c vocabulary has at least {FIRST_PIECE} tokens, but the model has {vocab_size}"
        )
    pieces, scores, at = [], [], 4
    for i in range(vocab_size):
        if at + 8 > len(data):
            refuse(f"is cut short: it ends at token {i:,} of {vocab_size:,}")
        score, length = struct.unpack_from("<fi", data, at)
        if not 1 <= length <= MAX_PIECE or at + 8 + length > len(data):
            refuse(f"token {i:,} has a length of {length:,} bytes")
        if not math.isfinite(score):
            refuse(f"token {i:,} has the score {score}")
        pieces.append(data[at + 8 : at + 8 + length])
        scores.append(score)
        at += 8 + length
    if at != len(data):
        refuse(f"has {len(data) - at:,} bytes more than the {vocab_size:,} tokens of the model")
    longest = struct.unpack_from("<I", data)[0]
    if longest < max(map(len, pieces)):
        refuse(
            f"says that its longest token has {longest:,} bytes, but one has {max(map(len, pieces)):,}"
        )
    return pieces, scores


def _tokenizer(pieces: list[bytes], scores: list[float]) -> tuple[Tokenizer, np.ndarray | None]:
    """The tokenizer, and where each row of the vocabulary belongs, None for where it is."""
    raw = [bytes([byte]) for byte in range(256)] == pieces[FIRST_BYTE:FIRST_PIECE]
    if not raw:
        for byte, piece in enumerate(pieces[FIRST_BYTE:FIRST_PIECE]):
            match = _BYTE_NAME.fullmatch(piece)
            if match is None or int(match[1], 16) != byte:
                raise ModelFileError(
                    f"tokenizer.bin: token {FIRST_BYTE + byte} should be the byte {byte:#04x}, but is {piece[:20]!r}"
                )
    if raw and (own := _ours(pieces, scores)) is not None:
        return own, ids_in_order(own)
    special = {
        i: pieces[i].decode("utf-8", "replace").strip() or f"<{i}>" for i in range(FIRST_BYTE)
    }
    if len(set(special.values())) < FIRST_BYTE:
        special = {i: f"<{name}>" for i, name in enumerate(("unk", "s", "/s"))}
    all_pieces = [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)] + pieces[FIRST_PIECE:]
    vocabulary = Vocabulary(
        shape=SENTENCEPIECE,
        split="",
        prefix="blank",
        pieces=tuple(all_pieces),
        byte_ids=tuple(range(FIRST_BYTE, FIRST_PIECE)),
        special=special,
        merges=(),
        scores=tuple(scores),
        start_id=START,
        end_ids=(START, END),
        byte_merges=raw,
    )
    return ImportedTokenizer(vocabulary), None


def _ours(pieces: list[bytes], scores: list[float]) -> Tokenizer | None:
    """The tokenizer that `slim export` wrote this from: each token's pair is what the earlier merges leave of its bytes."""
    start, user, assistant, end = (name.encode() for name in SPECIAL_TOKENS)
    names = [pieces[0], pieces[1], pieces[2], pieces[-1]]
    merged_pieces = pieces[FIRST_PIECE:-1]
    if len(pieces) > MOST_TOKENS or len(set(pieces)) != len(pieces):
        return None
    if names != [user, start, end, assistant]:
        return None
    if scores[FIRST_PIECE:-1] != [-float(rank) for rank in range(1, len(merged_pieces) + 1)]:
        return None
    byte_ids = {byte: FIRST_BYTE_ID + i for i, byte in enumerate(BYTE_ORDER)}
    made: dict[tuple[int, int], tuple[int, int]] = {}
    merges = []
    for rank, piece in enumerate(merged_pieces):
        if len(piece) > LONGEST_TOKEN_BYTES:
            return None
        left_over = merged(
            [byte_ids[byte] for byte in piece], lambda left, right: made.get((left, right))
        )
        if len(left_over) != 2:
            return None
        left, right = left_over
        made[left, right] = rank, FIRST_MERGE_ID + rank
        merges.append((left, right))
    return Tokenizer(merges)


def _read_exactly(file: FileIO, view: np.ndarray, path: Path) -> None:
    rest = view.reshape(-1).view(np.uint8).data
    while rest:
        count = file.readinto(rest)
        if not count:
            raise ModelFileError(f"{path}: became shorter while it was being read")
        rest = rest[count:]
