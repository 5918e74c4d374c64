"""What is said of a path that cannot be opened, and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slim.errors import DataError
from slim.input_file import open_input, remedy


def said_of(path: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        open_input(path, DataError)
    return str(caught.value)


def test_a_path_that_leads_nowhere_says_what_may_be_meant(tmp_path: Path) -> None:
    for name in ("stories.txt", "corpus.txt", "of others"):
        (tmp_path / name).write_text("x")
    begin = "cannot be opened: no such file or directory"
    for name in ("storys.txt", "Stories.txt", "stories.text"):
        assert said_of(tmp_path / name) == f"{tmp_path / name}: {begin}: did you mean {tmp_path / 'stories.txt'}?"
    assert said_of(tmp_path / "poem.bin") == f"{tmp_path / 'poem.bin'}: {begin}: check the path"
    away = tmp_path / "nowhere" / "stories.txt"
    assert said_of(away) == f"{away}: {begin}: check the path: there is no folder {away.parent}"
    assert said_of("") == f"'': {begin}: check the path"


def test_the_same_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories.txt").write_text("x")
    assert said_of("story.txt").endswith(": did you mean stories.txt?")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_one_may_not_read(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("x")
    path.chmod(0)
    assert said_of(path) == f"{path}: cannot be opened: permission denied: make it readable first"


def test_what_needs_no_advice() -> None:
    assert remedy("x", OSError(36, "File name too long")) == ""
    assert remedy("x", PermissionError()) == ": make it readable first"
