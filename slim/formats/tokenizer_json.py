"""tokenizer.json, the file of Hugging Face's `tokenizers`: an allow-list of shapes, read and written.

    ours, GPT-2        ByteLevel with its own pattern
    SmolLM             Digits one by one, then that
    Llama 3            Split by its pattern, then ByteLevel without one; a word that is a token needs no merges
    Llama 2, TinyLlama no pre-tokenizer, or Metaspace; blanks are U+2581, one is put before; bytes for what is no token

Whatever else a file asks for is refused by name: another normalizer or pattern would cut a text elsewhere than the model
has learnt, and a pattern from a stranger can hang whoever runs it.
https://github.com/huggingface/tokenizers
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from slim.config import LIMITS
from slim.errors import ModelFileError, UsageError
from slim.events import Note
from slim.imported_tokenizer import (
    BYTE_LEVEL,
    MAX_MERGES,
    NO_MERGE,
    SENTENCEPIECE,
    ImportedTokenizer,
    Vocabulary,
    unspelled,
)
from slim.strict_json import parse_record
from slim.tokenizer import (
    BYTE_LEVEL_RULE,
    BYTE_ORDER,
    FIRST_MERGE_ID,
    SPECIAL_TOKENS,
    Tokenizer,
    bpe_record,
    spelled,
)

MAX_BYTES = 2**26
_MAX_VALUES = 3_000_000
LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLANK = "▁"
_BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")

_WORDS: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": LLAMA_3_PATTERN},
    "behavior": "Isolated",
    "invert": False,
}
_NO_WORDS: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_WORDS],
    "smollm": [_DIGITS, _WORDS],
    "llama-3": [_SPLIT, _NO_WORDS],
}
_PREPEND: dict[str, Any] = {"type": "Prepend", "prepend": _BLANK}
_REPLACE: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}
_METASPACE: dict[str, Any] = {
    "type": "Metaspace",
    "replacement": _BLANK,
    "prepend_scheme": "first",
    "split": False,
}
_BACK: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]


def read_tokenizer_json(
    text: str,
    size: int,
    start: int | None,
    ends: tuple[int, ...],
    chat_template: str | None = None,
    notes: list[Note] | None = None,
) -> Tokenizer:
    """The tokenizer of a file's text, with as many tokens as the model has rows; ModelFileError names what is not known.

    start, ends   what the model's configuration says begins and ends a text; a rule in the file wins over `start`
    notes         takes what a person should know
    """
    try:
        record = parse_record(text, MAX_BYTES, _MAX_VALUES)
    except ValueError as problem:
        _refuse(str(problem))
    model = record.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        _refuse(f"its model is {_named(kind)}, but only BPE is read")
    special, plain = _added(record.get("added_tokens"), size)
    if plain and notes is not None:
        shown = ", ".join(f"{name[:40]!r}" for name in plain[:4])
        notes.append(
            Note(f"added tokens that no text becomes here, but elsewhere does ({len(plain):,}): {shown}")
        )
    vocab = _vocab(model.get("vocab"), special, size)
    by_rule = _start_of(record.get("post_processor"))
    if by_rule is not None:
        known = {name: i for i, name in special.items()}
        if by_rule not in known:
            _refuse(
                f"its post_processor begins a text with {by_rule[:40]!r}, which is no added token"
            )
        start = known[by_rule]
    if not ends and start is None:
        _refuse(
            "neither the configuration nor the tokenizer says which token begins or ends a text"
        )
    ends = ends or (start,)  # type: ignore[assignment]
    split, prefix = _shape(record, model)
    if (model.get("ignore_merges") or False) is not (split == "llama-3"):
        _refuse(
            f"its ignore_merges is {_named(model.get('ignore_merges'))} with the words of {split or 'Llama 2'}"
        )
    pieces = [b""] * size
    byte_ids = [-1] * 256
    for token, i in vocab.items():
        if i in special:
            continue
        if split:
            pieces[i] = _byte_level_piece(token)
            if len(pieces[i]) == 1:
                byte_ids[pieces[i][0]] = i
        elif match := _BYTE_NAME.fullmatch(token):
            pieces[i] = bytes([int(match[1], 16)])
            byte_ids[pieces[i][0]] = i
        else:
            pieces[i] = _characters(token)
    tokenizer = ImportedTokenizer(
        Vocabulary(
            shape=BYTE_LEVEL if split else SENTENCEPIECE,
            split=split,
            prefix=prefix,
            pieces=tuple(pieces),
            byte_ids=tuple(byte_ids),
            special=special,
            merges=_merges(model.get("merges"), vocab),
            scores=(),
            start_id=ends[0] if start is None else start,
            end_ids=ends,
            chat_template=chat_template,
        )
    )
    return ours(tokenizer) or tokenizer


def ours(imported: ImportedTokenizer) -> Tokenizer | None:
    """The tokenizer of SLiM that this one is, None when it is none."""
    known = imported.vocabulary
    n_special = len(SPECIAL_TOKENS)
    if known.split != "gpt-2" or known.special != dict(enumerate(SPECIAL_TOKENS)):
        return None
    same = known.pieces[n_special:FIRST_MERGE_ID] == tuple(bytes([byte]) for byte in BYTE_ORDER)
    made = [imported.made_by(pair) for pair in known.merges]
    if not same or made != list(range(FIRST_MERGE_ID, imported.vocab_size)):
        return None
    if known.start_id != 0 or known.end_ids[0] != 0:
        return None
    return Tokenizer(known.merges)


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The file's record, with the rule that a text begins with the start token, as it did in training."""
    record = (
        _record_for(tokenizer)
        if isinstance(tokenizer, ImportedTokenizer)
        else json.loads(tokenizer.to_json())
    )
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    name = names.get(tokenizer.start_id)
    if name is not None:
        start: dict[str, object] = {"SpecialToken": {"id": name, "type_id": 0}}
        first: dict[str, object] = {"Sequence": {"id": "A", "type_id": 0}}
        second: dict[str, object] = {"Sequence": {"id": "B", "type_id": 1}}
        record["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [start, first],
            "pair": [start, first, second],
            "special_tokens": {name: {"id": name, "ids": [tokenizer.start_id], "tokens": [name]}},
        }
    return record


# ---- reading ---------------------------------------------------------------------------------------------------------


def _added(entries: object, size: int) -> tuple[dict[int, str], list[str]]:
    """The special tokens, and which of them the file does not call so. Whatever is added is one: text never becomes it."""
    if not isinstance(entries, list) or len(entries) > 65_536:
        _refuse("its added_tokens are no list")
    special: dict[int, str] = {}
    plain = []
    for entry in entries:
        content = entry.get("content") if isinstance(entry, dict) else None
        i = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not content or len(content) > 1000:
            _refuse(f"an added token is {str(content)[:40]!r}")
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < size or i in special:
            _refuse(
                f"the added token {content[:40]!r} has the id {str(i)[:20]}, but the model has {size:,} rows"
            )
        special[i] = content
        if entry.get("special") is not True:
            plain.append(content)
    if len(set(special.values())) != len(special):
        _refuse("an added token occurs twice")
    return special, plain


def _vocab(vocab: object, special: dict[int, str], size: int) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        _refuse("it has no vocabulary")
    if len(vocab) > LIMITS["vocab_size"]:
        _refuse(f"it has {len(vocab):,} tokens, but at most {LIMITS['vocab_size']:,} are read")
    seen = set()
    ids = {name: i for i, name in special.items()}
    for token, i in vocab.items():
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < size:
            _refuse(
                f"the token {token[:40]!r} has the id {str(i)[:20]}, but the model has {size:,} rows"
            )
        if i in seen:
            _refuse(f"two tokens have the id {i}")
        if special.get(i, token) != token:
            _refuse(f"the tokens {token[:40]!r} and {special[i][:40]!r} have the id {i}")
        if ids.get(token, i) != i:
            _refuse(f"the token {token[:40]!r} has the ids {i} and {ids[token]}")
        seen.add(i)
    return vocab


def _merges(lines: object, vocab: dict[str, int]) -> tuple[tuple[int, int], ...]:
    """The ids that each line joins, `l r` or [l, r]."""
    if not isinstance(lines, list):
        _refuse("it has no list of merges")
    if len(lines) > MAX_MERGES:
        _refuse(f"it has {len(lines):,} merges, but at most {MAX_MERGES:,} are read")
    merges = []
    for number, line in enumerate(lines, start=1):
        pair = line.split(" ") if isinstance(line, str) else line
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(s, str) for s in pair)
        ):
            _refuse(f"merge {number} is {str(line)[:60]!r}, but should be two tokens")
        left, right = map(vocab.get, pair)
        if left is None or right is None:
            _refuse(f"merge {number} joins {pair[left is not None][:40]!r}, which is no token")
        merges.append((left, right))
    return tuple(merges)


def _shape(record: dict[str, Any], model: dict[str, Any]) -> tuple[str, str]:
    """How text is cut, and what is put before it: one of both is empty."""
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name) not in (None, "", 0.0):
            _refuse(f"its {name} is {_named(model[name])}")
    normalizer, pre, decoder = map(record.get, ("normalizer", "pre_tokenizer", "decoder"))
    if model.get("byte_fallback"):
        prefix = _prefix(normalizer, pre)
        if not _is_like(_listed(decoder, "decoders"), _BACK) and not _is_metaspace(decoder):
            _refuse("its decoder is none that undoes a blank put before the text")
        return "", prefix
    if normalizer is not None:
        _refuse(
            f"its normalizer is {_kinds(normalizer, 'normalizers')}, but with ByteLevel none is read"
        )
    steps = _listed(pre, "pretokenizers")
    for split, wanted in PRE_TOKENIZERS.items():
        if _is_like(steps, wanted):
            if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
                _refuse(
                    f"its decoder is {_kinds(decoder, 'decoders')}, but with ByteLevel that is read"
                )
            return split, ""
    if any(isinstance(step, dict) and step.get("type") == "Split" for step in steps):
        _refuse("its pre_tokenizer cuts by a pattern that is not Llama 3's")
    _refuse(f"its pre_tokenizer is {_kinds(pre, 'pretokenizers')} in a way that is not known")


def _prefix(normalizer: object, pre: object) -> str:
    if pre is None and _is_like(_listed(normalizer, "normalizers"), [_PREPEND, _REPLACE]):
        return "blank"
    if normalizer is None and isinstance(pre, dict) and _is_metaspace(pre):
        if pre.get("split") is not False:
            _refuse("its Metaspace splits a text, which is not known")
        if pre.get("prepend_scheme") not in ("first", "always"):
            _refuse(f"its Metaspace has the prepend_scheme {_named(pre.get('prepend_scheme'))}")
        return "metaspace"
    _refuse(
        f"its normalizer is {_kinds(normalizer, 'normalizers')} and its pre_tokenizer "
        f"{_kinds(pre, 'pretokenizers')}, which with byte_fallback is not known"
    )


def _is_metaspace(step: object) -> bool:
    return (
        isinstance(step, dict)
        and step.get("type") == "Metaspace"
        and step.get("replacement") == _BLANK
    )


def _start_of(processor: object) -> str | None:
    """The token that a file puts before every text."""
    name = None
    for step in _listed(processor, "processors"):
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "ByteLevel":
            continue
        if kind != "TemplateProcessing":
            _refuse(f"its post_processor is {_named(kind)}, which is not known")
        single = step.get("single")
        first = single[0] if isinstance(single, list) and single else None
        token = first.get("SpecialToken") if isinstance(first, dict) else None
        name = token.get("id") if isinstance(token, dict) else name
        if name is not None and not isinstance(name, str):
            _refuse("its post_processor begins a text with something that is no name")
    return name


def _listed(step: object, name: str) -> list[Any]:
    """One step, or those of a Sequence, as a list."""
    if step is None:
        return []
    inner = step.get(name) if isinstance(step, dict) and step.get("type") == "Sequence" else [step]
    return inner if isinstance(inner, list) else [inner]


def _is_like(steps: list[Any], wanted: list[dict[str, Any]]) -> bool:
    """Whether the steps are these, in what matters."""
    return len(steps) == len(wanted) and all(
        isinstance(step, dict) and all(step.get(key) == value for key, value in want.items())
        for step, want in zip(steps, wanted, strict=True)
    )


def _kinds(step: object, name: str) -> str:
    kinds = [_named(s.get("type") if isinstance(s, dict) else s) for s in _listed(step, name)]
    return " and ".join(kinds[:6]) or "none"


def _named(value: object) -> str:
    return "none" if value is None else str(value)[:40]


def _byte_level_piece(token: str) -> bytes:
    try:
        return unspelled(token)
    except ValueError:
        _refuse(f"the token {token[:40]!r} has characters that stand for no byte")


def _characters(token: str) -> bytes:
    if " " in token:
        _refuse(f"the token {token[:40]!r} holds a blank, where {_BLANK} stands for one")
    try:
        return token.replace(_BLANK, " ").encode()
    except UnicodeEncodeError:
        _refuse("a token holds half a surrogate pair")


def _refuse(problem: str) -> NoReturn:
    raise ModelFileError(f"tokenizer.json: {problem}")


# ---- writing ---------------------------------------------------------------------------------------------------------


def piece_names(tokenizer: ImportedTokenizer) -> list[str]:
    """Every token as the file writes it, special ones by their names, unused ones as <unused_i>."""
    known = tokenizer.vocabulary
    names = []
    byte_ids = {i: byte for byte, i in enumerate(known.byte_ids)}
    for i, piece in enumerate(known.pieces):
        if i in known.special:
            names.append(known.special[i])
        elif not piece:
            names.append(f"<unused_{i}>")
        elif known.shape == BYTE_LEVEL:
            names.append(spelled(piece))
        elif i in byte_ids:
            names.append(f"<0x{byte_ids[i]:02X}>")
        else:
            names.append(piece.decode("utf-8", errors="replace").replace(" ", _BLANK))
    return names


def whole_names(tokenizer: ImportedTokenizer, where: str) -> list[str]:
    """`piece_names` for a format that knows tokens by their names. UsageError where they do not tell them apart."""
    known = tokenizer.vocabulary
    names = piece_names(tokenizer)
    for i, name in enumerate(names):
        if i not in known.special and "\ufffd" in name and "\ufffd".encode() not in known.pieces[i]:
            raise UsageError(f"token {i:,} is part of a character, which {where} cannot hold")
    if len(set(names)) != len(names):
        raise UsageError(f"two tokens have one name, which {where} cannot hold")
    return names


def merges_of_scores(tokenizer: ImportedTokenizer) -> list[tuple[int, int]]:
    """Pairs by rank that join what scores join; UsageError where they cannot."""
    known = tokenizer.vocabulary
    if known.byte_merges:
        raise UsageError(
            "this vocabulary joins bytes by score, which only llama2.c knows: export it there"
        )
    ids = {piece: i for i, piece in reversed(list(enumerate(known.pieces))) if piece}
    for i in (*known.special, *known.byte_ids):
        if ids.get(known.pieces[i]) == i:
            del ids[known.pieces[i]]
    pairs: list[tuple[float, int, tuple[int, int]]] = []
    seen: dict[float, bytes] = {}
    for piece, i in ids.items():
        score = known.scores[i]
        splits = []
        text = piece.decode("utf-8", errors="surrogateescape")
        for at in range(1, len(text)):
            left, right = (s.encode("utf-8", "surrogateescape") for s in (text[:at], text[at:]))
            if left in ids and right in ids and score > NO_MERGE:
                splits.append((-score, i, (ids[left], ids[right])))
        if splits and seen.setdefault(score, piece) != piece:
            raise UsageError(
                f"two tokens have the score {score:g}: a file that orders merges cannot say that"
            )
        pairs += splits
    return [pair for _, _, pair in sorted(pairs)]


def scores_of(tokenizer: ImportedTokenizer) -> list[float]:
    """A score for every token that joins what the merges join; UsageError where none can."""
    known = tokenizer.vocabulary
    if known.scores:
        merges_of_scores(tokenizer)
        return list(known.scores)
    ranks: dict[int, float] = {}
    last = -1
    for pair in known.merges:
        made = tokenizer.made_by(pair)
        if made != last and made in ranks:
            raise UsageError("its merges are in an order that scores of tokens cannot say")
        ranks.setdefault(made, -1.0 - len(ranks))
        last = made
    scores = [ranks.get(i, NO_MERGE if piece else 0.0) for i, piece in enumerate(known.pieces)]
    for i in (*known.byte_ids, *known.special):
        scores[i] = 0.0
    ids = {piece: i for i, piece in enumerate(known.pieces) if piece and i not in known.byte_ids}
    pairs = set(known.merges)
    for made in ranks:
        text = known.pieces[made].decode("utf-8", errors="surrogateescape")
        for at in range(1, len(text)):
            left, right = (
                ids.get(s.encode("utf-8", "surrogateescape")) for s in (text[:at], text[at:])
            )
            if left is not None and right is not None and (left, right) not in pairs:
                raise UsageError("its merges leave out pairs that scores of tokens would join")
    return scores


def _record_for(tokenizer: ImportedTokenizer) -> dict[str, Any]:
    known = tokenizer.vocabulary
    merges = merges_of_scores(tokenizer) if known.scores else known.merges
    names = whole_names(tokenizer, "a tokenizer.json")
    vocab = {name: i for i, name in enumerate(names) if known.pieces[i] or i in known.special}
    lines = [f"{names[left]} {names[right]}" for left, right in merges]
    if known.shape == BYTE_LEVEL:
        trim = {"trim_offsets": True}
        steps = [
            {**step, **trim} if step["type"] == "ByteLevel" else step
            for step in PRE_TOKENIZERS[known.split]
        ]
        pre = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
        rules = {"pre_tokenizer": pre, "decoder": BYTE_LEVEL_RULE}
        return bpe_record(
            known.special, vocab, lines, rules, ignore_merges=known.split == "llama-3"
        )
    rules = {"decoder": {"type": "Sequence", "decoders": _BACK}}
    if known.prefix == "blank":
        rules["normalizer"] = {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}
    else:
        rules["pre_tokenizer"] = _METASPACE
    differences = {"unk_token": known.special.get(0), "fuse_unk": True, "byte_fallback": True}
    return bpe_record(known.special, vocab, lines, rules, **differences)
