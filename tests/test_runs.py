"""`slim runs`: what a run's files tell, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from slim.cli import main
from slim.cli.runs import table
from slim.errors import DataError
from slim.events import (
    EvalFinished,
    Event,
    RunStarted,
    StepFinished,
    TrainFinished,
    as_record,
)
from slim.loss_plot import MOST_POINTS, MOST_RUNS, Curve, Point, loss_svg
from slim.run_record import RunRecord, find_runs, read_run

Captured = pytest.CaptureFixture[str]
SVG = "{http://www.w3.org/2000/svg}"
BYTES_PER_TOKEN = 2.0


def started(total: int) -> RunStarted:
    return RunStarted(0, total, 100, 5_000, 1_000, 100, BYTES_PER_TOKEN, 2, 10**6, False)


def step(number: int, loss: float) -> StepFinished:
    return StepFinished(number, loss, loss, 1.0, 1e-3, 100 * number, 0.1, 50.0, 4.0 * number, 9.0)


def evaluation(number: int, bits: float, best: bool = True) -> EvalFinished:
    return EvalFinished(number, bits, bits, best, 1.0)


def write_run(
    folder: Path, name: str, events: list[Event], *extra: str, **settings: object
) -> Path:
    """A run directory with a journal; the model file that it belongs to."""
    run = folder / f"{name}.run"
    run.mkdir(parents=True)
    record = {"command": "pretrain", "data": "/texts/tales.txt", "total_steps": 8, **settings}
    (run / "settings.json").write_text(json.dumps(record), encoding="utf-8")
    lines = [json.dumps(as_record(event)) for event in events]
    (run / "metrics.jsonl").write_text("\n".join([*lines, *extra]) + "\n", encoding="utf-8")
    return folder / name


def finish(out: Path) -> None:
    record = as_record(TrainFinished("finished", 8, 1.0, 1.0, 4, 32.0))
    (out.with_name(out.name + ".run") / "result.json").write_text(json.dumps(record), "utf-8")


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    """A finished run that is older, and one that was stopped."""
    steps = [step(number, 4.0 / number) for number in range(1, 9)]
    old = write_run(
        tmp_path,
        "old.bin",
        [started(8), *steps[:4], evaluation(4, 1.5), *steps[4:], evaluation(8, 1.6, best=False)],
    )
    finish(old)
    os.utime(tmp_path / "old.bin.run" / "metrics.jsonl", (1e9, 1e9))
    write_run(tmp_path, "new.bin", [started(8), *steps[:3], evaluation(3, 1.25)])
    return tmp_path


def test_a_run_is_what_its_files_say(two_runs: Path) -> None:
    run = read_run(two_runs / "old.bin")
    assert (run.state, run.command, run.data) == ("finished", "pretrain", "tales.txt")
    assert (run.step, run.total_steps, run.parameters) == (8, 8, 5_000)
    assert (run.best_bits_per_byte, run.best_step, run.loss) == (1.5, 4, 0.5)
    assert run.tokens_per_second == 800 / 32
    assert run.validation == (Point(400, 1.5), Point(800, 1.6))
    # Nats per token to bits per byte: over ln 2 and the bytes of a token.
    assert run.training[0] == Point(100, 4.0 / math.log(2.0) / BYTES_PER_TOKEN)
    assert len(run.training) == 8
    assert read_run(two_runs / "new.bin").state == "stopped"


def test_a_run_that_trains_is_told_by_its_lock(two_runs: Path) -> None:
    (two_runs / "new.bin.run" / "lock").write_text(f"{os.getpid()}\n", encoding="ascii")
    assert read_run(two_runs / "new.bin").state == "training"
    empty = two_runs / "begun.bin.run"
    empty.mkdir()
    (empty / "lock").write_text(f"{os.getpid()}\n", encoding="ascii")
    assert read_run(two_runs / "begun.bin").state == "training"


def test_broken_lines_are_passed_over_and_broken_settings_said(tmp_path: Path) -> None:
    extra = ("{", "null", '{"event": "step_finished"}', '{"event": "step_finished", "step": "x"')
    out = write_run(tmp_path, "a.bin", [started(8), step(1, 2.0)], *extra)
    assert read_run(out).step == 1
    (tmp_path / "a.bin.run" / "settings.json").write_text("[", encoding="utf-8")
    broken = read_run(out)
    assert broken.state == "unreadable" and "is damaged" in broken.problem


def test_of_a_long_journal_some_steps_are_read_and_the_last_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [started(99), *(step(number, 2.0) for number in range(1, 30)), evaluation(29, 1.0)]
    out = write_run(tmp_path, "a.bin", events)
    size = (tmp_path / "a.bin.run" / "metrics.jsonl").stat().st_size
    monkeypatch.setattr("slim.run_record.PARSED_BYTES", size // 6)
    run = read_run(out)
    assert run.step == 29 and 4 <= len(run.training) <= 6 and run.best_step == 29


def test_runs_are_found_by_folder_by_model_and_by_directory(two_runs: Path) -> None:
    assert [path.name for path in find_runs(two_runs)] == ["new.bin", "old.bin"]
    for place in ("old.bin", "old.bin.run"):
        assert find_runs(two_runs / place) == [two_runs / "old.bin"]
    with pytest.raises(DataError, match=r"missing.bin: there is no such run"):
        find_runs(two_runs / "missing.bin")


def test_nothing_named_means_this_folder(
    two_runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(two_runs)
    assert main(["runs"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "new.bin",
        "old.bin",
    ]
    assert find_runs("/") == [] or all(path.parent == Path("/") for path in find_runs("/"))


def test_the_table_lists_and_sorts(two_runs: Path, capsys: Captured) -> None:
    assert main(["runs", str(two_runs)]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["run", "state", "steps", "bits/byte"] and header.endswith("loss")
    assert first.split()[:7] == ["new.bin", "stopped", "3/8", "1.250", "3", "25", "0:12"]
    assert second.split()[:5] == ["old.bin", "finished", "8/8", "1.500", "4"]
    assert first.endswith(("█▄▁", "█▃▁"))
    assert main(["runs", str(two_runs / "old.bin"), str(two_runs), "--sort", "name"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "new.bin", "old.bin"]


def test_a_narrow_table_has_no_curve_and_ascii_has_ascii_ones(two_runs: Path) -> None:
    runs = [read_run(two_runs / "new.bin")]
    assert all(len(line) <= 60 for line in table(runs, 60))
    assert "█" not in "".join(table(runs, 60)) and "█" in "".join(table(runs, 120))
    assert "\n".join(table(runs, 120, unicode=False)).isascii()


def test_json_is_an_object_per_run(two_runs: Path, capsys: Captured) -> None:
    assert main(["runs", str(two_runs), "--json", "--sort", "best"]) == 0
    new, old = map(json.loads, capsys.readouterr().out.splitlines())
    assert (new["best_bits_per_byte"], old["best_bits_per_byte"]) == (1.25, 1.5)
    assert old["state"] == "finished" and old["age_seconds"] > 1e6 and new["age_seconds"] < 600


def test_no_runs_is_said(tmp_path: Path, capsys: Captured) -> None:
    assert main(["runs", str(tmp_path)]) == 3
    assert "no runs in" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "nothing")]) == 3
    assert "there is no such run" in capsys.readouterr().err


def test_a_hostile_name_cannot_command_the_terminal(tmp_path: Path, capsys: Captured) -> None:
    out = write_run(tmp_path, "a\x1b[2J\n<b>.bin", [started(8), step(1, 2.0)])
    broken = write_run(tmp_path, "broken.bin", [])
    (broken.with_name("broken.bin.run") / "settings.json").write_text("\x1b", encoding="utf-8")
    picture = tmp_path / "a.svg"
    assert main(["runs", str(tmp_path), "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and len(text.splitlines()) == 3
    root = ElementTree.parse(picture).getroot()
    assert any("<b>.bin" in (node.text or "") for node in root.iter(f"{SVG}text"))
    assert read_run(out).step == 1


# ---- the picture -------------------------------------------------------------------------------------------------


def curve(name: str, count: int, start: float = 3.0, end: float = 1.0) -> Curve:
    values = [start * (end / start) ** (i / max(count - 1, 1)) for i in range(count)]
    points = tuple(Point(1000.0 * (i + 1), value) for i, value in enumerate(values))
    return Curve(name, points, points[:: max(1, count // 5)])


def places(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The points of all lines, in the order of drawing."""
    return [
        [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]  # type: ignore[misc]
        for line in root.iter(f"{SVG}polyline")
    ]


def test_the_picture_shows_each_curve_inside_its_frame() -> None:
    root = ElementTree.fromstring(loss_svg([curve("a", 2000), curve("b", 50)], "Loss of 2 runs"))
    lines = places(root)
    assert len(lines) == 4 and max(map(len, lines)) == MOST_POINTS
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for line in lines:
        assert all(0 <= x <= width and 0 <= y <= height for x, y in line)
        xs, ys = zip(*line, strict=True)
        assert list(xs) == sorted(xs) and list(ys) == sorted(
            ys
        )  # the loss falls: y grows downwards
    # The same tokens are at the same place, whichever run they belong to.
    assert lines[2][0] == pytest.approx(lines[0][0], abs=1.0)
    words = [node.text for node in root.iter(f"{SVG}text")]
    assert "Loss of 2 runs" in words and "bits per byte" in words and "tokens seen" in words
    assert sum("bits/byte on held-out text" in (text or "") for text in words) == 2
    strokes = [line.attrib["stroke"] for line in root.iter(f"{SVG}polyline")]
    assert strokes[0] == strokes[1] != strokes[2]


def test_equal_places_between_equal_ratios() -> None:
    """The axis is logarithmic: from 4 to 2 is as far as from 2 to 1."""
    points = (Point(1.0, 4.0), Point(2.0, 2.0), Point(3.0, 1.0))
    ((_, first), (_, second), (_, third)) = places(
        ElementTree.fromstring(loss_svg([Curve("a", points, ())], "t"))
    )[0]
    assert second - first == pytest.approx(third - second, abs=0.2) and second > first


@pytest.mark.parametrize("value", [1e-6, 0.7, 12.0])
def test_a_picture_of_one_point_or_none_is_whole(value: float) -> None:
    for curves in ([Curve("a", (Point(1.0, value),), ())], [Curve("a", (), ())], []):
        root = ElementTree.fromstring(loss_svg(curves, "t"))
        assert root.tag == f"{SVG}svg"
    zero = loss_svg([Curve("a", (Point(0.0, 0.0), Point(0.0, value)), ())], "t")
    assert len(places(ElementTree.fromstring(zero))[0]) == 1


def test_too_many_runs_are_refused(tmp_path: Path, capsys: Captured) -> None:
    curves = [curve(str(i), 3) for i in range(MOST_RUNS + 1)]
    looks = {
        (line.attrib["stroke"], line.attrib.get("stroke-dasharray"))
        for line in ElementTree.fromstring(loss_svg(curves[:-1], "t")).iter(f"{SVG}polyline")
    }
    assert len(looks) == MOST_RUNS
    with pytest.raises(ValueError, match="at most 24 runs"):
        loss_svg(curves, "t")
    for i in range(MOST_RUNS + 1):
        write_run(tmp_path, f"{i}.bin", [])
    assert main(["runs", str(tmp_path), "--plot", str(tmp_path / "x.svg")]) == 2
    assert "at most 24 runs fit" in capsys.readouterr().err


def test_plot_refuses_what_it_cannot_write_first(two_runs: Path, capsys: Captured) -> None:
    assert main(["runs", str(two_runs), "--plot", "picture.png"]) == 2
    assert "must end in .svg" in capsys.readouterr().err
    assert main(["runs", str(two_runs), "--plot", str(two_runs / "no" / "x.svg")]) == 3
    assert "x.svg" in capsys.readouterr().err
    text = two_runs / "text.txt"
    text.write_text("some words\n" * 50, encoding="utf-8")
    words = ["train", str(text), "1", str(two_runs / "out.bin"), "--plot", "x.png"]
    assert main(words) == 2
    assert not (two_runs / "out.bin.run").exists()


def test_a_training_command_draws_its_run(tmp_path: Path, capsys: Captured) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven\n" * 60, encoding="utf-8")
    picture = tmp_path / "loss.svg"
    sizes = [f"--set={key}" for key in ("dim=32", "n_layers=1", "n_heads=2", "hidden_dim=32")]
    command = ["train", str(text), "50", str(tmp_path / "out.bin"), "--max-steps", "4", *sizes]
    assert main([*command, "--plot", str(picture), "-q"]) == 0
    root = ElementTree.parse(picture).getroot()
    assert len(places(root)[0]) == 4
    assert any("out.bin" in (node.text or "") for node in root.iter(f"{SVG}text"))
    assert capsys.readouterr().out == ""


def test_age_is_said_in_one_unit(tmp_path: Path) -> None:
    for seconds, words in ((5, "now"), (150, "2 min"), (7_300, "2 h"), (200_000, "2 d")):
        record = RunRecord(tmp_path / "a.bin", "stopped", changed=time.time() - seconds)
        assert table([record], 100)[1].endswith(words)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_a_name_that_is_no_utf8_is_no_half_of_a_pair_in_json(
    two_runs: Path, capsys: Captured
) -> None:
    settings = two_runs / "old.bin.run" / "settings.json"
    record = json.loads(settings.read_text()) | {"data": os.fsdecode(b"odd\xff.txt")}
    settings.write_text(json.dumps(record))
    assert main(["runs", str(two_runs / "old.bin"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "odd\ufffd.txt"
