"""The help of every command: it fits a terminal and names everything."""

from __future__ import annotations

import pytest

from slim.cli import COMMANDS, build_parser, main
from slim.settings import KEYS, RUN_KEYS


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert out.startswith(f"usage: slim {command}".rstrip())


def test_every_command_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        assert [line for line in lines if line.startswith(f"  {name} ") and len(line.split()) > 2]


@pytest.mark.parametrize("command", ["pretrain", "train"])
def test_all_settings_are_listed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    assert {key for key in KEYS if key not in RUN_KEYS} <= set(words)


def test_the_usage_names_the_arguments_in_their_order() -> None:
    _, commands = build_parser()
    assert commands["pretrain"].usage == "slim pretrain [OPTIONS] CORPUS EPOCHS OUT [MAX_BYTES]"
    assert commands["generate"].usage == "slim generate [OPTIONS] MODEL [PROMPT] [N]"
