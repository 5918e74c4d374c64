"""Following a run of another process: lines as they are added, a file that begins anew, and lines that nobody wrote."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from made_runs import TOTAL, run_events, started, stepped, write_run
from slim.compute import Engine
from slim.events import Event, as_record
from slim.tui.run_follower import EVENTS_PER_POLL, FollowedRun, JournalReader


def read(reader: JournalReader) -> list[Event | None]:
    found: list[Event | None] = []
    for part in reader.read():
        found += [None] if part is None else part
    return found


def poll(run: FollowedRun, until: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while run.view.last_step < until:
        run.poll()
        assert time.monotonic() < deadline, run.view.last_step
        time.sleep(0.002)


def line(event: Event) -> bytes:
    return json.dumps(as_record(event)).encode() + b"\n"


def test_lines_are_read_as_they_are_added(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = JournalReader(path)
    assert not reader.has_grown()
    path.write_bytes(line(started()) + line(stepped(1))[:20])
    assert reader.has_grown()
    assert read(reader) == [started()]
    assert not reader.has_grown()
    with path.open("ab") as file:
        file.write(line(stepped(1))[20:] + line(stepped(2)))
    assert read(reader) == [stepped(1), stepped(2)]


def test_a_file_that_was_cut_or_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(started()) + line(stepped(1)))
    reader = JournalReader(path)
    read(reader)
    path.write_bytes(line(started()))
    assert read(reader) == [None, started()]
    other = tmp_path / "other"
    other.write_bytes(line(started()) + line(stepped(1)) + line(stepped(2)))
    os.replace(other, path)
    assert read(reader) == [None, started(), stepped(1), stepped(2)]


@pytest.mark.parametrize(
    "bad",
    [b"\n", b"{}\n", b"[" * 100_000 + b"\n", b"\xff\xfe\n", b'{"event": "nothing"}\n', b"1" * 3_000_000 + b"\n",
     b'{"event": "step_finished", "step": 1e999}\n', b"\0" * 1000 + b"\n"],
)  # fmt: skip
def test_what_is_no_event_is_passed_over(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(stepped(1)) + bad + line(stepped(2)) + bad)
    assert read(JournalReader(path)) == [stepped(1), stepped(2)]


def test_a_run_is_followed_to_its_end(tmp_path: Path, compute: Engine) -> None:
    out = tmp_path / "x.bin"
    events = run_events()
    folder = write_run(out, events[:10])
    (folder / "lock").write_text(f"{os.getpid()}\n")
    run = FollowedRun(out, compute)
    assert run.training and run.trainer == os.getpid()
    poll(run, 3)
    write_run(out, events)
    poll(run, TOTAL)
    (folder / "lock").write_text("not a number\n")
    assert run.poll() and not run.training
    deadline = time.monotonic() + 10
    while run.finished is None and time.monotonic() < deadline:
        run.poll()
    assert run.finished is not None and run.name == "x.bin" and len(run.view.samples) == 3


def test_a_long_run_is_taken_in_by_parts(tmp_path: Path, compute: Engine) -> None:
    out = tmp_path / "x.bin"
    write_run(out, [started(), *(stepped(step) for step in range(1, 3 * EVENTS_PER_POLL))])
    run = FollowedRun(out, compute)
    seen = []
    deadline = time.monotonic() + 20
    while run.view.last_step < 3 * EVENTS_PER_POLL - 1 and time.monotonic() < deadline:
        before = run.view.version
        run.poll()
        seen.append(run.view.version - before)
    assert max(seen) <= EVENTS_PER_POLL and run.view.last_step == 3 * EVENTS_PER_POLL - 1


def test_a_run_that_begins_anew_is_shown_anew(tmp_path: Path, compute: Engine) -> None:
    out = tmp_path / "x.bin"
    write_run(out, run_events(30, finished=False))
    run = FollowedRun(out, compute)
    poll(run, 30)
    old = run.view
    write_run(out, [started(), stepped(1)])
    deadline = time.monotonic() + 10
    while run.view is old or run.view.last_step < 1:
        run.poll()
        assert time.monotonic() < deadline
    assert run.view.last_step == 1


def test_a_journal_that_cannot_be_read_is_said(tmp_path: Path, compute: Engine) -> None:
    folder = tmp_path / "x.bin.run"
    (folder / "metrics.jsonl").mkdir(parents=True)
    run = FollowedRun(tmp_path / "x.bin", compute)
    deadline = time.monotonic() + 10
    while run.view.problem is None:
        run.poll()
        assert time.monotonic() < deadline
    assert "cannot be read" in run.view.problem
