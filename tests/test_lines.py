"""What is said to a person: whole words on a terminal, one line elsewhere."""

from __future__ import annotations

import sys

import pytest

from slim.cli.lines import columns_of, say, write_rows

LINE = "a line of some words that is longer than the terminal is wide"


def be_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both streams, 30 columns wide. Not a fixture: pytest changes the streams between those and a test."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")


def test_elsewhere_a_line_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(LINE)
    write_rows([("name", LINE), ("longer name", "")])
    assert capsys.readouterr() == (f"name         {LINE}\nlonger name  \n", LINE + "\n")


def test_on_a_terminal_words_stay_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_terminals(monkeypatch)
    say(f"{LINE}\n\x1b")
    write_rows([("n", LINE), ("m", ""), ("o", "one")])
    out, err = capsys.readouterr()
    assert err == "a line of some words that is\nlonger than the terminal is\nwide\n␛\n"
    assert out == (
        "n  a line of some words that\n   is longer than the terminal\n   is wide\nm  \no  one\n"
    )


@pytest.mark.parametrize(("said", "columns"), [("7", 20), ("120", 120), ("much", 80), ("0", 80)])
def test_a_width_that_makes_no_sense_is_not_believed(
    said: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_terminals(monkeypatch)
    monkeypatch.setenv("COLUMNS", said)
    assert columns_of(sys.stdout) == columns


def test_elsewhere_there_is_no_width() -> None:
    assert columns_of(sys.stdout) is None
