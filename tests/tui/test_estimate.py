"""What the form says of a run before it is begun."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from made_runs import stepped, write_run
from slim.errors import DataError
from slim.request import Request
from slim.settings import Settings
from slim.tui.catalog import Entry, describe
from slim.tui.estimate import DOUBT_OF_PRODUCT, estimating, known_work
from slim.tui.train_form import about_count, between


@pytest.fixture(autouse=True)
def _nothing_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slim.compiling.is_cached", lambda kernel, signature: True)


def request(folder: Path, **values: object) -> Request:
    text = folder / "notes.txt"
    text.write_text("some text of words " * 20_000)
    return Request("pretrain", str(text), epochs=5.0, out=str(folder / "m.bin"), settings=Settings(values))


def test_without_an_earlier_run_the_time_is_a_range(tmp_path: Path) -> None:
    (found,) = estimating(request(tmp_path))
    assert not found.measured and found.fast.steps == found.slow.steps and found.fast.epochs == pytest.approx(5.0)
    assert found.slow.seconds == pytest.approx(found.fast.seconds * DOUBT_OF_PRODUCT**2)


def test_minutes_end_it_at_any_speed(tmp_path: Path) -> None:
    (found,) = estimating(request(tmp_path, minutes=0.001))
    assert found.fast.seconds == found.slow.seconds == pytest.approx(0.06)
    assert found.fast.epochs > found.slow.epochs


@pytest.mark.parametrize(("minutes", "left"), [(10.0, 1.0), (0.1, 1 / 3)])
def test_compiling_takes_some_of_the_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, left: float
) -> None:
    """But a third of them is trained, however long it takes."""
    one = dataclasses.replace(request(tmp_path, minutes=minutes), epochs=1e6)
    (warm,) = estimating(one)
    monkeypatch.setattr("slim.compiling.is_cached", lambda kernel, signature: kernel.__name__ in ("muon", "rope"))
    (cold,) = estimating(one)
    assert warm.compile_seconds == 0.0 and warm.slow.seconds == pytest.approx(60.0 * minutes)
    assert cold.compile_seconds > 5.0
    assert cold.slow.seconds == pytest.approx(60.0 * minutes * left if left < 1.0 else 600.0 - cold.compile_seconds)


def test_the_run_of_the_likest_size_and_the_same_precision_counts() -> None:
    def run(n_parameters: int, speed: float, precision: str = "bf16") -> Entry:
        out = Path("m.bin")
        return Entry(out, "finished", n_parameters=n_parameters, speed=speed, precision=precision)

    runs = [run(1_000_000, 60_000.0), run(8_000_000, 15_000.0), run(7_000_000, 5_000.0, "fp32"), run(7_000_000, 0.0)]
    assert known_work(runs, 7_000_000, "bf16") == 8_000_000 * 15_000.0
    assert known_work(runs, 1_500_000, "bf16") == 1_000_000 * 60_000.0
    assert known_work(runs, 1_500_000, "fp32") == 7_000_000 * 5_000.0
    assert known_work(runs[3:], 7_000_000, "bf16") == 0.0


def test_the_speed_of_a_run_is_not_that_of_one_step(tmp_path: Path) -> None:
    steps = [stepped(step) for step in range(1, 10)]
    usual = steps[0].tokens_per_second
    write_run(tmp_path / "m.bin", [*steps[:-1], dataclasses.replace(stepped(9), tokens_per_second=usual / 50)])
    entry = describe(tmp_path / "m.bin")
    assert entry is not None and entry.speed == usual


def test_only_digits_that_are_known() -> None:
    assert [about_count(number) for number in (7, 41, 396, 1_880, 14_348)] == ["7", "41", "400", "1,900", "14,000"]
    assert between("9:10", "10:00") == "9:10 to 10:00" and between("10:00", "10:00") == "10:00"


def test_of_a_folder_its_texts_count(tmp_path: Path) -> None:
    one = request(tmp_path)
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.md"):
        (tmp_path / "texts" / name).write_text("some text of words " * 20_000)
    both = dataclasses.replace(one, data=str(tmp_path / "texts"))
    (of_one,), (of_both,) = estimating(one), estimating(both)
    assert of_both.fast.steps == pytest.approx(2 * of_one.fast.steps, abs=1)


@pytest.mark.parametrize("kind", ["missing", "empty", "program", "folder", "pipe"])
def test_what_is_no_text_is_said_before_the_run_is_begun(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "empty":
        path.touch()
    elif kind == "program":
        path.write_bytes(b"\x7fELF\2\1\1" + bytes(1000))
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    said = {
        "missing": "no such file", "empty": "is empty", "program": "is a program", "folder": "a folder without a text",
        "pipe": "a pipe or a device",
    }  # fmt: skip
    with pytest.raises(DataError, match=said[kind]):
        list(estimating(dataclasses.replace(request(tmp_path), data=str(path))))
