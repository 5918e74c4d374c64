"""Lines of tokens: where they break, what is copied, and that growing changes nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from slim.events import TokenGenerated
from slim.safe_text import safe_text
from slim.tui.token_flow import Line, Piece, TokenFlow


def token(text: str, p: float = 0.5, index: int = 0) -> Piece:
    drawn = TokenGenerated(index, 7, text, math.log(p), p, p, 0.1, 0, 0.1)
    return Piece(text, "token", drawn)


def flow_of(pieces: list[Piece], width: int, numbers: str = "") -> TokenFlow:
    """Everything broken at once."""
    flow = TokenFlow(width + 1)
    flow.append(pieces)
    flow.layout(width, numbers)
    return flow


def shown(flow: TokenFlow) -> list[str]:
    return [line.shown for line in flow.lines]


def as_records(lines: list[Line]) -> list[object]:
    return [(line.piece, line.offset, line.shown, line.ended, line.typical) for line in lines]


def test_breaks_at_blanks_and_inside_of_long_words_only() -> None:
    flow = flow_of(
        [token("Once upon"), token(" a time, there"), token("fore,\nabcdefghijklmn o")], 10
    )
    assert shown(flow) == ["Once upon ", "a time, ", "therefore,", "abcdefghij", "klmn o"]
    assert [line.ended for line in flow.lines] == [False, False, True, False, False]
    assert flow.text == "Once upon a time, therefore,\nabcdefghijklmn o"


def test_blanks_hang_over_the_edge() -> None:
    flow = flow_of([token("abcde"), token("   "), token("fg")], 5)
    assert shown(flow) == ["abcde   ", "fg"]


def test_wide_characters_and_those_without_a_width() -> None:
    flow = flow_of([token("日本語の"), token("e"), token("\u0301x")], 5)
    assert shown(flow) == ["日本", "語のe\u0301", "x"]
    assert all(sum(run.cells for run in line.runs) <= 5 for line in flow.lines)
    joined = flow.lines[1].runs[-1]
    assert (joined.piece, joined.shown, joined.cells) == (1, "e\u0301", 1), (
        "an accent stays with its letter"
    )


def test_a_character_wider_than_the_line_takes_a_line() -> None:
    flow = flow_of([token("a日b")], 2)
    assert shown(flow) == ["a", "日", "b"]


TEXTS = st.text(st.sampled_from("ab  \n\t日e\u0301\ufe0f\x1b\u202e\u200b👍"), max_size=12)


@given(st.lists(TEXTS, max_size=12), st.integers(2, 12), st.sampled_from(["", "small", "ascii"]))
def test_growing_piece_by_piece_gives_the_same_lines(
    texts: list[str], width: int, numbers: str
) -> None:
    whole = flow_of([token(text) for text in texts], width, numbers)
    grown = TokenFlow(width + 1)
    grown.layout(width, numbers)
    for text in texts:
        grown.append([token(text)])
    if texts:
        assert as_records(grown.lines) == as_records(whole.lines)
    for line in whole.lines:
        words = line.shown.rstrip(" ")
        assert (
            cell_len(words) <= width + 4 or " " in words
        )  # a tab or a number is wider than the line


@given(st.lists(TEXTS, max_size=12), st.integers(2, 12), st.data())
def test_cutting_is_as_if_it_had_never_been_written(
    texts: list[str], width: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(texts)))
    cut = flow_of([token(text) for text in texts], width)
    cut.cut(count)
    kept = flow_of([token(text) for text in texts[:count]], width)
    assert shown(cut) == shown(kept) and cut.text == kept.text


@given(st.lists(TEXTS, max_size=12), st.integers(2, 12), st.sampled_from(["", "small", "ascii"]))
def test_selecting_everything_gives_the_text_without_marks(
    texts: list[str], width: int, numbers: str
) -> None:
    flow = flow_of([token(text) for text in texts], width, numbers)
    assert flow.source_between((0, 0), (len(flow.lines), 0)) == safe_text("".join(texts))


def test_a_part_of_a_selection() -> None:
    flow = flow_of([token("one two"), token(" three\n"), token("four")], 9, "small")
    assert shown(flow) == ["one two⁵⁰ ", "three⁵⁰", "four⁵⁰"]
    assert flow.source_between((0, 4), (1, 3)) == "two thr"
    assert flow.source_between((1, 2), (2, 2)) == "ree\nfo"
    assert flow.source_between((0, -2), (0, 3)) == "one"


def test_notes_are_shown_and_never_copied() -> None:
    flow = flow_of([token("a story"), Piece("\n12 tokens\n", "note"), token("goes on")], 20)
    assert shown(flow) == ["a story", "12 tokens", "goes on"]
    assert flow.text == "a storygoes on" == flow.source_between((0, 0), (3, 0))


def test_numbers_stand_behind_tokens_and_before_their_line_breaks() -> None:
    flow = flow_of(
        [token("Yes", 0.999), token(" no\n\n", 0.004), token("", 0.5), Piece("end")], 20, "ascii"
    )
    assert shown(flow) == ["Yes(99) no(00)", "", "end"]


def test_typical_p_of_a_line_counts_the_tokens_that_begin_in_it() -> None:
    flow = flow_of([token("abcdef", 0.9), token("gh", 0.4), token(" ij", 0.1), Piece(" k")], 6)
    assert shown(flow) == ["abcdef", "gh ij ", "k"]
    typical = [line.typical for line in flow.lines]
    assert typical[0] == pytest.approx(0.9)
    assert typical[1] == pytest.approx(math.sqrt(0.4 * 0.1))
    assert typical[2] is None


def test_the_line_of_a_piece_and_what_stands_in_a_column() -> None:
    flow = flow_of([token("ab cd"), token("ef"), token(" gh")], 5)
    assert shown(flow) == ["ab ", "cdef ", "gh"]
    assert [flow.line_of(i) for i in range(3)] == [0, 1, 1]
    assert [run.piece if (run := flow.lines[1].run_at(cell)) else None for cell in range(6)] == [
        *(0, 0, 1, 1, 2, None),
    ]


def test_only_the_tail_is_broken_again() -> None:
    flow = TokenFlow(20)
    flow.append([token(f" word{i}") for i in range(2000)])
    before = list(flow.lines)
    changed = flow.append([token(" more")])
    assert changed == len(before) - 1
    assert all(new is old for new, old in zip(flow.lines, before[:-1], strict=False))
