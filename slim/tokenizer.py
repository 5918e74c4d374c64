"""Text and ids: a byte-level BPE vocabulary, its file format, and the way back from ids to text.

    ids 0 to 3                   <|endoftext|>  <|user|>  <|assistant|>  <|end|>
    ids 4 to 259                 the 256 bytes in GPT-2's order: first those with a visible character (33-126, 161-172,
                                 174-255), then the others, each group ascending
    from id 260                  merges in the order in which they were learnt

Any bytes become ids and the same bytes again. Text never becomes a special token: "<|end|>" written by somebody is
encoded like any other seven characters. Only encoding and training need the kernels, so only they load Numba.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

import numpy as np

from slim.errors import ConfigError, ModelFileError
from slim.events import Progress
from slim.strict_json import parse_record

if TYPE_CHECKING:
    from slim.text_encoder import TextEncoder

SPECIAL_TOKENS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
_VISIBLE = (*range(33, 127), *range(161, 173), *range(174, 256))
BYTE_ORDER = (*_VISIBLE, *sorted(set(range(256)) - set(_VISIBLE)))
FIRST_BYTE_ID = len(SPECIAL_TOKENS)
FIRST_MERGE_ID = FIRST_BYTE_ID + 256
# In the file a byte is a character: itself where it is visible, else one from U+0100 on.
CHARACTERS = {byte: chr(byte) for byte in _VISIBLE}
CHARACTERS |= {byte: chr(256 + i) for i, byte in enumerate(BYTE_ORDER[len(_VISIBLE) :])}

# How the file says that words are cut by GPT-2's pattern and spelled byte by byte.
BYTE_LEVEL_RULE: Mapping[str, object] = {
    "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
}  # fmt: skip

LARGEST_VOCAB_SIZE = 4096  # that is chosen
MOST_TOKENS = 65_536  # that are built or read; imported vocabularies may have more
_VOCAB_STEP = 64
_BYTES_PER_SQUARE = 0.44  # see choose_vocab_size

_MAX_JSON_CHARACTERS = 2**24
_MAX_JSON_VALUES = 4 * MOST_TOKENS
_LAST_KERNEL = "learn_merges"  # of those of a vocabulary, the last to be compiled
_STEPS = 1000  # of the progress of building a vocabulary

Value = TypeVar("Value")


class DocumentEncoder(Protocol):
    """What turns documents into ids: yields bytes done, returns all ids and where each document begins."""

    def encode(
        self, documents: Sequence[bytes], /
    ) -> Generator[int, None, tuple[np.ndarray, np.ndarray]]: ...


class Tokenizer:
    """A vocabulary: the merges, and what follows from them.

    start_id   the token that every text begins with, which training and generation put there
    eos_id     the token that ends a text; ours is both
    """

    start_id = 0
    eos_id = 0

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        """merges: for each token from FIRST_MERGE_ID on, the two earlier tokens that it joins."""
        self._merges = tuple((int(left), int(right)) for left, right in merges)
        tokens = [b""] * FIRST_BYTE_ID + [bytes([byte]) for byte in BYTE_ORDER]
        for left, right in self._merges:
            tokens.append(tokens[left] + tokens[right])
        self._tokens = tuple(tokens)
        self._encoder: TextEncoder | None = None

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def end_ids(self) -> frozenset[int]:
        """All tokens that end a text: `eos_id`, and others that a vocabulary from elsewhere may have."""
        return frozenset({self.eos_id})

    @property
    def special_tokens(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(SPECIAL_TOKENS)}

    def encode(self, text: str | bytes) -> np.ndarray:
        """The ids of a text, (n,) int32. Bytes that are not UTF-8 are kept, also those that Python hides in a str."""
        return self.encode_documents([text if isinstance(text, bytes) else _bytes_of(text)])[0]

    def encode_documents(self, documents: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """All ids one after the other, (n,) int32, and where each document begins, (n_docs + 1,) int64."""
        return _result_of(self._text_encoder().encode(documents))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids stand for; special tokens stand for none."""
        return b"".join(map(self.token_bytes, np.asarray(ids, np.int64).tolist()))

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the ids stand for; what is not UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, b"" for a special one."""
        if not 0 <= token_id < len(self._tokens):
            raise IndexError(f"ids are below {len(self._tokens)}, but one is {token_id}")
        return self._tokens[token_id]

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        return StreamDecoder(self)

    def to_json(self) -> str:
        """The vocabulary as a `tokenizer.json`; `from_json` gives the same tokenizer.

        The `tokenizers` library loads it and encodes equally, once it is told to take special tokens in a text for text
        (`encode_special_tokens = True`): that cannot be said in the file.
        """
        return json.dumps(_record(self._tokens, self._merges), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote. ModelFileError on anything else."""
        try:
            record = parse_record(text, _MAX_JSON_CHARACTERS, _MAX_JSON_VALUES)
        except ValueError as problem:
            _refuse(str(problem))
        model = record.get("model")
        lines = model.get("merges") if isinstance(model, dict) else None
        if not isinstance(lines, list):
            _refuse("it has no list of merges")
        tokenizer = cls(_read_merges(lines))
        # Whatever else the file says, the merges decide: the rest must be what they lead to, word for word.
        expected = _record(tokenizer._tokens, tokenizer._merges)
        for name in sorted({*expected, *record}):
            said = name in record and _canonical(record[name])
            if said != (name in expected and _canonical(expected[name])):
                _refuse(f"its {name[:40]!r} is not what its merges lead to")
        return tokenizer

    def _text_encoder(self) -> DocumentEncoder:
        if self._encoder is None:
            from slim.text_encoder import TextEncoder

            merges = np.array(self._merges, np.int32).reshape(-1, 2)
            self._encoder = TextEncoder(_byte_ids(), merges, self.vocab_size)
        return self._encoder


class StreamDecoder:
    """Ids to text one at a time: a character appears when its last byte has come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was cut off, else nothing."""
        return self._decoder.decode(b"", final=True)


def train_tokenizer(documents: Sequence[bytes], vocab_size: int) -> Tokenizer:
    """Build a vocabulary of at most `vocab_size` tokens from documents: a function of both alone."""
    return _result_of(build_tokenizer(documents, vocab_size, sum(map(len, documents))))


def build_tokenizer(
    documents: Iterable[bytes], vocab_size: int, n_bytes: int
) -> Generator[Progress, None, Tokenizer]:
    """`train_tokenizer` as a generator: progress as it goes, the tokenizer as its return value.

    documents: read once, and need not be in memory   n_bytes: of all of them

    A text with too little that repeats gives fewer tokens. Of more than 32 MB an even sample is read.
    """
    largest = MOST_TOKENS
    if isinstance(vocab_size, bool) or not FIRST_MERGE_ID <= vocab_size <= largest:
        raise ConfigError(
            f"vocab_size must be from {FIRST_MERGE_ID} ({FIRST_BYTE_ID} special tokens and 256 bytes) "
            f"to {largest:,}, but is {vocab_size:,}"
        )
    from slim.vocabulary import learn_vocabulary

    steps = learn_vocabulary(documents, n_bytes, vocab_size - FIRST_MERGE_ID, _byte_ids())
    reported = -1
    while True:
        try:
            done = int(next(steps) * _STEPS)
        except StopIteration as stop:
            if reported < _STEPS:
                yield Progress("building vocabulary", _STEPS, _STEPS)
            return Tokenizer(stop.value.tolist())
        if done > reported:
            yield Progress("building vocabulary", done, _STEPS)
            reported = done


def compile_tokenizer() -> Iterator[Progress]:
    """Compile what building a vocabulary and encoding need, or load it; progress only where it is compiled."""
    from slim.kernels import CACHE_FOLDER

    stage = "compiling the tokenizer's kernels"
    cached = CACHE_FOLDER is not None and any(CACHE_FOLDER.rglob(f"*{_LAST_KERNEL}-*.nbi"))
    if not cached:
        yield Progress(stage, 0, 1)
    train_tokenizer([b"low lower lowest"] * 9, FIRST_MERGE_ID + 8).encode("slow")
    if not cached:
        yield Progress(stage, 1, 1)


def choose_vocab_size(n_bytes: int) -> int:
    """A vocabulary for a corpus of so many bytes: proportional to its square root, a multiple of 64, 320 to 4096.

    A token should occur often enough to be learnt, and the number of different words grows about like the root of the
    text (Heaps' law): 100 kB give 704 tokens, 1 MB 2,240, and 4 MB or more 4,096.
    """
    size = math.isqrt(int(n_bytes * 5)) // _VOCAB_STEP * _VOCAB_STEP
    return min(max(size, 5 * _VOCAB_STEP), LARGEST_VOCAB_SIZE)


def _byte_ids() -> np.ndarray:
    """The id of each byte, (256,) int32."""
    ids = np.empty(256, np.int32)
    ids[list(BYTE_ORDER)] = np.arange(FIRST_BYTE_ID, FIRST_MERGE_ID)
    return ids


def _bytes_of(text: str) -> bytes:
    """UTF-8, and for half a surrogate pair the byte it stands for in arguments and file names, or its three bytes."""
    try:
        return text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="surrogatepass")


def _result_of(steps: Generator[object, None, Value]) -> Value:
    """The return value of a generator whose progress nobody wants."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def spelled(token: bytes) -> str:
    """A token as the file writes it."""
    return "".join(map(CHARACTERS.__getitem__, token))


def bpe_record(
    special: Mapping[int, str],
    vocab: Mapping[str, int],
    merges: Sequence[str],
    rules: Mapping[str, object],
    **differences: object,
) -> dict[str, object]:
    """A `tokenizer.json`: the tokens, the pairs that are joined as "left right", and how text is cut and put together.

    rules         any of normalizer, pre_tokenizer and decoder
    differences   fields of the model that are not as in our own vocabularies
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i, "content": name, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True,
            }
            for i, name in sorted(special.items())
        ],
        "normalizer": rules.get("normalizer"),
        "pre_tokenizer": rules.get("pre_tokenizer"),
        "post_processor": None,
        "decoder": rules.get("decoder"),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            **differences,
            "vocab": dict(vocab),
            "merges": list(merges),
        },
    }


def _record(
    tokens: Sequence[bytes], merges: Sequence[tuple[int, int]]
) -> dict[str, object]:
    """The `tokenizer.json` of a vocabulary of ours."""
    names = [*SPECIAL_TOKENS, *map(spelled, tokens[FIRST_BYTE_ID:])]
    return bpe_record(
        dict(enumerate(SPECIAL_TOKENS)),
        {token: i for i, token in enumerate(names)},
        [f"{names[left]} {names[right]}" for left, right in merges],
        {"pre_tokenizer": BYTE_LEVEL_RULE, "decoder": BYTE_LEVEL_RULE},
    )


def _read_merges(lines: list[object]) -> list[tuple[int, int]]:
    """The ids that each line joins, in order."""
    most = MOST_TOKENS - FIRST_MERGE_ID
    if len(lines) > most:
        _refuse(f"it has {len(lines):,} merges, but at most {most:,} are read")
    known = {name: i for i, name in enumerate(SPECIAL_TOKENS)}
    known |= {CHARACTERS[byte]: FIRST_BYTE_ID + i for i, byte in enumerate(BYTE_ORDER)}
    merges = []
    for number, line in enumerate(lines, start=1):
        left, blank, right = line.partition(" ") if isinstance(line, str) else ("", "", "")
        if not blank:
            _refuse(f"merge {number} is {line!r:.60}, but should be two tokens and a blank between")
        for side in (left, right):
            if known.get(side, 0) < FIRST_BYTE_ID:
                _refuse(f"merge {number} joins {side[:40]!r}, which is no earlier token")
        if left + right in known:
            _refuse(f"merge {number} makes {left + right:.40}, which is a token already")
        known[left + right] = len(known)
        merges.append((known[left], known[right]))
    return merges


def _canonical(value: object) -> str:
    """JSON by which 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)


def _refuse(problem: str) -> NoReturn:
    raise ModelFileError(f"the tokenizer is damaged or was not made by SLiM: {problem}")
