"""Vocabularies that were made elsewhere, behind the interface of `Tokenizer` and in the native file.

    shape            byte-level (GPT-2, Llama 3, SmolLM) or sentencepiece (Llama 2, llama2.c); see imported_encoder
    pieces           the bytes of every token, b"" for special and unused ones
    merges, scores   what is joined first: pairs by rank, or any two tokens that together are one, by its score

What such a vocabulary cannot tell apart stays so: sentencepiece takes U+2581 for a blank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from slim.config import LIMITS
from slim.errors import ModelFileError
from slim.strict_json import parse_record
from slim.tokenizer import CHARACTERS, DocumentEncoder, Tokenizer, spelled

MARK = "imported"  # what a record of this kind says of itself
BYTE_LEVEL, SENTENCEPIECE = "byte-level", "sentencepiece"
SPLITS = ("gpt-2", "smollm", "llama-3")  # the keys of imported_encoder.PATTERNS
PREFIXES = ("blank", "metaspace")
MAX_MERGES = 1_000_000
MAX_ENDS = 64
MAX_TEMPLATE = 65_536
MAX_PIECE = 1024  # bytes of a token: the ways to cut a longer one in two would take minutes to look at
NO_MERGE = -1e10  # llama2.c joins only what scores more
_MAX_CHARACTERS = 2**25
_MAX_VALUES = 400_000
_BYTES = {character: byte for byte, character in CHARACTERS.items()}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All that is known of a vocabulary from elsewhere; ModelFileError when it contradicts itself.

    byte_ids       the id of each byte, -1 where it has none
    special        ids that no text becomes, with their names
    byte_merges    sentencepiece with scores: whether bytes are joined too, like any other token (llama2.c's files by SLiM)
    chat_template  the text of one, kept for the next export and never run
    """

    shape: str
    split: str  # of byte-level ones: one of SPLITS
    prefix: str  # of sentencepiece ones: one of PREFIXES
    pieces: tuple[bytes, ...]
    byte_ids: tuple[int, ...]
    special: dict[int, str]
    merges: tuple[tuple[int, int], ...]
    scores: tuple[float, ...]
    start_id: int
    end_ids: tuple[int, ...]
    byte_merges: bool = False
    chat_template: str | None = None

    def __post_init__(self) -> None:
        size = len(self.pieces)
        if not 1 <= size <= LIMITS["vocab_size"]:
            _refuse(f"it has {size:,} tokens, but from 1 to {LIMITS['vocab_size']:,} are read")
        ids = (self.start_id, *self.end_ids, *self.special)
        if not all(type(i) is int for i in ids) or type(self.byte_merges) is not bool:
            _refuse("its special tokens are no whole numbers")
        longest = max(map(len, self.pieces))
        if longest > MAX_PIECE:
            _refuse(f"a token has {longest:,} bytes, but at most {MAX_PIECE:,} are read")
        if self.shape not in (BYTE_LEVEL, SENTENCEPIECE):
            _refuse(f"its shape is {self.shape[:40]!r}")
        if self.shape == BYTE_LEVEL and (self.split not in SPLITS or self.prefix or self.scores):
            _refuse(f"a byte-level one cannot be cut by {self.split[:40]!r}")
        if self.shape == SENTENCEPIECE and (self.split or self.prefix not in PREFIXES):
            _refuse(f"its prefix is {self.prefix[:40]!r}")
        lowest = -1 if self.shape == BYTE_LEVEL else 0
        if len(self.byte_ids) != 256 or not all(lowest <= i < size for i in self.byte_ids):
            _refuse("not all of the 256 bytes have a token")
        if len(self.merges) > MAX_MERGES:
            _refuse(f"it has {len(self.merges):,} merges, but at most {MAX_MERGES:,} are read")
        if self.scores and (len(self.scores) != size or not all(map(math.isfinite, self.scores))):
            _refuse("its scores are not one number for each token")
        if not self.end_ids or len(set(self.end_ids)) != len(self.end_ids):
            _refuse("no token, or one twice, ends a text")
        if len(self.end_ids) > MAX_ENDS:
            _refuse(f"{len(self.end_ids):,} tokens end a text, but at most {MAX_ENDS} are read")
        for name, token_id in (("start", self.start_id), *(("end", i) for i in self.end_ids)):
            if not 0 <= token_id < size:
                _refuse(f"the {name} of a text is token {token_id}, but there are {size:,}")
        if not all(0 <= i < size for i in self.special):
            _refuse("a special token is beyond its end")
        if len(set(self.special.values())) != len(self.special):
            _refuse("two special tokens have one name")
        try:
            "".join([*self.special.values(), self.chat_template or ""]).encode()
        except UnicodeEncodeError:
            _refuse("a name holds half a surrogate pair")


class ImportedTokenizer(Tokenizer):
    """A vocabulary from elsewhere."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__([])
        self.vocabulary = vocabulary
        self.start_id = vocabulary.start_id
        self.eos_id = vocabulary.end_ids[0]
        self._tokens = vocabulary.pieces
        # Text becomes none of these; where two tokens are the same bytes, the byte itself comes last, then the first wins.
        hidden = {*vocabulary.special, *vocabulary.byte_ids}
        self._ids = {
            vocabulary.pieces[i]: i for i in reversed(range(self.vocab_size)) if i not in hidden
        }
        for byte, i in enumerate(vocabulary.byte_ids):
            if vocabulary.shape == BYTE_LEVEL or vocabulary.byte_merges:
                self._ids.setdefault(bytes([byte]), i)
        self._ids.pop(b"", None)
        self._made: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(vocabulary.merges):
            self._add_merge(rank, left, right)
        self._document_encoder: DocumentEncoder | None = None

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset(self.vocabulary.end_ids)

    @property
    def special_tokens(self) -> dict[str, int]:
        return {name: i for i, name in self.vocabulary.special.items()}

    def made_by(self, pair: tuple[int, int]) -> int:
        """The token that a merge makes."""
        return self._made[pair][1]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a text that begins with these ids: the blank that was put before it is not part of it."""
        text = super().decode_bytes(ids)
        return text.removeprefix(b" ") if self.vocabulary.prefix else text

    def to_json(self) -> str:
        """A record of few values, however many tokens there are; `from_json` gives the same tokenizer."""
        known = self.vocabulary
        return json.dumps(
            {
                "kind": MARK,
                "shape": known.shape,
                "split": known.split,
                "prefix": known.prefix,
                "tokens": "\n".join(map(spelled, known.pieces)),
                "bytes": " ".join(map(str, known.byte_ids)),
                "special": {name: i for i, name in known.special.items()},
                "merges": " ".join(f"{left} {right}" for left, right in known.merges),
                "scores": " ".join(map(repr, known.scores)),
                "start": known.start_id,
                "ends": list(known.end_ids),
                "byte_merges": known.byte_merges,
                "chat_template": known.chat_template,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> ImportedTokenizer:
        """The tokenizer that `to_json` wrote. ModelFileError on anything else."""
        try:
            record = parse_record(text, _MAX_CHARACTERS, _MAX_VALUES)
        except ValueError as problem:
            _refuse(str(problem))
        if record.get("kind") != MARK:
            _refuse("it is not a record of an imported vocabulary")
        try:
            numbers = list(map(int, record["merges"].split()))
            tokenizer = cls(
                Vocabulary(
                    shape=record["shape"],
                    split=record["split"],
                    prefix=record["prefix"],
                    pieces=tuple(map(unspelled, record["tokens"].split("\n"))),
                    byte_ids=tuple(map(int, record["bytes"].split())),
                    special={i: name for name, i in record["special"].items()},
                    merges=tuple(zip(numbers[::2], numbers[1::2], strict=True)),
                    scores=tuple(map(float, record["scores"].split())),
                    start_id=record["start"],
                    end_ids=tuple(record["ends"]),
                    byte_merges=record["byte_merges"],
                    chat_template=record["chat_template"],
                )
            )
            same = tokenizer.to_json() == text
        except (KeyError, AttributeError, TypeError, ValueError, OverflowError):
            same = False
        if not same:
            _refuse("its record is not as SLiM writes it")
        return tokenizer

    def _add_merge(self, rank: int, left: int, right: int) -> None:
        size, pieces = self.vocab_size, self.vocabulary.pieces
        if not (0 <= left < size and 0 <= right < size):
            _refuse(f"merge {rank + 1} joins tokens {left} and {right}, but there are {size:,}")
        if not (pieces[left] and pieces[right]):
            _refuse(f"merge {rank + 1} joins a token that no text becomes")
        whole = pieces[left] + pieces[right]
        made = self._ids.get(whole)
        if made is None:
            _refuse(f"merge {rank + 1} makes {spelled(whole)[:40]!r}, which is no token")
        if (left, right) in self._made:
            _refuse(f"merge {rank + 1} joins what an earlier one joins")
        self._made[left, right] = rank, made

    def _text_encoder(self) -> DocumentEncoder:
        if self._document_encoder is None:
            from slim.imported_encoder import ByteLevelEncoder, SentencePieceEncoder

            known = self.vocabulary
            if known.shape == BYTE_LEVEL:
                whole = self._ids if known.split == "llama-3" else {}
                self._document_encoder = ByteLevelEncoder(
                    known.split,
                    known.byte_ids,
                    lambda left, right: self._made.get((left, right)),
                    whole,
                )
            elif known.scores:
                join, joined = self._join_by_score()
                self._document_encoder = SentencePieceEncoder(
                    self._ids, known.byte_ids, joined, join, known.prefix
                )
            else:
                joined = [known.pieces[made] for _, made in self._made.values()]
                self._document_encoder = SentencePieceEncoder(
                    self._ids,
                    known.byte_ids,
                    joined,
                    lambda left, right: self._made.get((left, right)),
                    known.prefix,
                )
        return self._document_encoder

    def _join_by_score(self):  # type: ignore[no-untyped-def]
        """How two tokens are joined where only the whole has a score, and the tokens that can come of it."""
        known = self.vocabulary
        _, order = np.unique(-np.array(known.scores, np.float32), return_inverse=True)
        ranks = order.tolist()
        bytes_only = frozenset() if known.byte_merges else frozenset(known.byte_ids)
        pieces = known.pieces

        def join(left: int, right: int) -> tuple[int, int] | None:
            if left in bytes_only or right in bytes_only:
                return None
            made = self._ids.get(pieces[left] + pieces[right])
            if made is None or known.scores[made] <= NO_MERGE:
                return None
            return ranks[made], made

        return join, [piece for piece in self._ids if len(piece) > 1]


def unspelled(text: str) -> bytes:
    """The bytes of a token from how a file writes it; ValueError for a character that stands for no byte."""
    try:
        return bytes(map(_BYTES.__getitem__, text))
    except KeyError as problem:
        raise ValueError(f"{str(problem)[:20]} stands for no byte") from None


def _refuse(problem: str) -> NoReturn:
    raise ModelFileError(f"the imported tokenizer is not one that SLiM reads: {problem}")
