"""Documents with roles: JSONL records, and plain transcripts with `User:` and `Assistant:` before what is said.

    {"text": "..."}                                        a document like any other
    {"prompt": "...", "completion": "..."}                 the prompt is read, the completion is learnt
    {"messages": [{"role": "user", "content": "..."}, ...]}    a conversation: the answers are learnt

In a conversation every turn stands between its role token and `<|end|>`, which is learnt where it ends an answer. A
message of the role system is put before what the user says next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, NoReturn

from slim.conversation import ASSISTANT, LABELS, ROLE_TOKENS, USER
from slim.errors import DataError
from slim.text_stream import PIECE_BYTES, Piece

ROLES = {**ROLE_TOKENS, "system": None, "developer": None}
LONGEST_RECORD = 2**24  # bytes
HEAD_BYTES = 2**16  # of a file, in which a transcript shows itself

_LABELS = {label.encode(): ROLE_TOKENS[role] for role, label in LABELS.items()}
_LABEL = re.compile(rb"^(?:" + b"|".join(map(re.escape, _LABELS)) + rb")", re.MULTILINE)


class Part(NamedTuple):
    """A stretch of a document: what stands before and behind its text, and whether it is learnt or only read."""

    text: bytes
    opens: bool = False  # a document begins here
    joined: bool = False  # goes on with the text before, of which it was cut off
    role: str | None = None  # the special token before it
    ends: bool = False  # `<|end|>` behind it
    learnt: bool = True


def plain_parts(pieces: Iterable[Piece]) -> Iterator[Part]:
    """Documents of plain text, all of which is learnt."""
    for text, opens in pieces:
        yield Part(text, opens, not opens)


# ---- records ---------------------------------------------------------------------------------------------------------


def record_parts(name: str, chunks: Iterable[bytes]) -> Iterator[Part]:
    """The documents of JSONL, one record per line. DataError names `name`, the line, and what is wrong with it."""
    number, rest = 0, b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            yield from _of_line(name, number, line)
        if len(rest) > LONGEST_RECORD:
            break  # no end of the line is waited for: _of_line refuses it
    yield from _of_line(name, number + 1, rest)


def _of_line(name: str, number: int, line: bytes) -> list[Part]:
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    if not line or line.isspace():
        return []
    try:
        if len(line) > LONGEST_RECORD:
            raise ValueError(f"has more than {LONGEST_RECORD:,} bytes, which no record may have")
        return parts_of_record(_parse(line))
    except ValueError as problem:
        raise DataError(f"{name}: line {number} {problem}") from None


def _parse(line: bytes) -> dict[str, object]:
    try:
        record = json.loads(line, object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise ValueError("is not valid UTF-8") from None
    except json.JSONDecodeError as problem:
        raise ValueError(f"is not valid JSON: {problem.msg} at column {problem.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError('is no record, such as {"text": "..."}')
    return record


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("has a name twice")
    return record


def parts_of_record(record: dict[str, object]) -> list[Part]:
    """The document that a record holds, no parts when it is empty. ValueError says what is wrong."""
    if "messages" in record:
        return _conversation(record["messages"])
    if "prompt" in record and "completion" in record:
        prompt = _bytes_of(record["prompt"], "prompt")
        completion = _bytes_of(record["completion"], "completion")
        if not completion:
            return []
        if not prompt:
            return [Part(completion, opens=True)]
        return [Part(prompt, opens=True, learnt=False), Part(completion)]
    if "text" in record:
        text = _bytes_of(record["text"], "text")
        return [Part(text, opens=True)] if text and not text.isspace() else []
    names = ", ".join(f"{name[:30]!r}" for name in list(record)[:5]) or "nothing"
    raise ValueError(f"needs text, or prompt and completion, or messages, but has {names}")


def _conversation(messages: object) -> list[Part]:
    if not isinstance(messages, list):
        raise ValueError("has messages that are no list")
    parts: list[Part] = []
    waiting: list[bytes] = []  # what the system says
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError("has a message without a role")
        name = message["role"]
        if name not in ROLES:
            known = ", ".join(ROLES)
            raise ValueError(f"has a message of the role {name[:30]!r}, but roles are {known}")
        text, role = _content(message.get("content")).strip(), ROLES[name]
        if role is None:
            waiting += [text] if text else []
            continue
        if role == ROLE_TOKENS[USER] and waiting:
            text, waiting = b"\n\n".join([*waiting, text]), []
        parts.append(_turn(role, text, opens=not parts))
    return parts if any(part.role == ROLE_TOKENS[ASSISTANT] for part in parts) else []


def _content(content: object) -> bytes:
    """The text of a message, which some write as a list of pieces."""
    if isinstance(content, list):
        texts = []
        for piece in content:
            if not isinstance(piece, dict) or not isinstance(piece.get("text"), str):
                raise ValueError("has a message with a piece that is no text")
            texts.append(_bytes_of(piece["text"], "text"))
        return b"".join(texts)
    return _bytes_of(content, "content of a message")


def _bytes_of(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        _refuse_value(name, value)
    # JSON can spell half a surrogate pair: three bytes that are counted as no valid UTF-8 and kept.
    return value.encode("utf-8", "surrogatepass")


def _refuse_value(name: str, value: object) -> NoReturn:
    kinds = {dict: "a record", list: "a list", bool: "true or false", type(None): "null"}
    raise ValueError(
        f"has a {name} that is {kinds.get(type(value), 'a number')}, not a text in quotes"
    )


def _turn(role: str, text: bytes, opens: bool) -> Part:
    return Part(text, opens, role=role, ends=True, learnt=role == ROLE_TOKENS[ASSISTANT])


# ---- transcripts -----------------------------------------------------------------------------------------------------


def is_transcript(head: bytes) -> bool:
    """Whether a text begins as a transcript does: with a label, and the other one begins a line further on."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    first = _LABEL.match(start)
    return first is not None and {match[0] for match in _LABEL.finditer(start)} == set(_LABELS)


def transcript_parts(pieces: Iterable[Piece]) -> Iterator[Part]:
    """Every document as a conversation: a label at the beginning of a line begins a turn, other lines go on with it.

    What stands before the first label is nobody's and left out; white space around a turn does not count.
    """
    turns: _Turns | None = None
    for text, opens in pieces:
        if opens:
            if turns is not None:
                yield from turns.read(b"", final=True)
            turns = _Turns()
        assert turns is not None
        yield from turns.read(text, final=False)
    if turns is not None:
        yield from turns.read(b"", final=True)


class _Turns:
    """The turns of one document, which may come in pieces."""

    def __init__(self) -> None:
        self._pending = (
            b""  # begins with a label, or goes on with a turn of which a part was given away
        )
        self._opens = True  # the next turn is the first
        self._role: str | None = None  # of the turn of which a part was given away

    def read(self, text: bytes, final: bool) -> Iterator[Part]:
        """The turns that this text completes."""
        pending = self._pending + text
        # Only whole lines are looked at: a label may be cut in two.
        whole = len(pending) if final else pending.rfind(b"\n") + 1
        labels = list(_LABEL.finditer(pending, 0, whole))
        if self._role is not None and (labels or final):
            first = labels[0].start() if labels else len(pending)
            yield self._part(self._role, pending[:first], joined=True, ends=True)
            self._role = None
        borders = [label.start() for label in labels[1:]] + ([len(pending)] if final else [])
        for label, border in zip(labels, borders, strict=False):
            yield self._part(_LABELS[label[0]], pending[label.end() : border], False, True)
        if labels:
            pending = pending[labels[-1].start() :]
        elif self._role is None:
            pending = pending[whole:]
        if len(pending) > 2 * PIECE_BYTES and not final:
            whole = pending.rfind(b"\n") + 1 or len(pending)
            if self._role is not None:
                yield self._part(self._role, pending[:whole], joined=True, ends=False)
            elif labels:
                self._role = _LABELS[labels[-1][0]]
                yield self._part(self._role, pending[len(labels[-1][0]) : whole], False, False)
            pending = pending[whole:]
        self._pending = pending

    def _part(self, role: str, text: bytes, joined: bool, ends: bool) -> Part:
        opens, self._opens = self._opens, False
        mark = None if joined else role
        return Part(text.strip(), opens, joined, mark, ends, role == ROLE_TOKENS[ASSISTANT])
