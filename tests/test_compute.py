"""The engine thread: jobs take turns, wait for slow readers, and end cleanly however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from slim import compute
from slim.compute import BUFFERED_EVENTS, Engine, call, set_threads, stream, usable_cores
from slim.errors import ConfigError, DataError

PATIENCE = 10.0  # seconds after which a test would hang


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.shut_down()


def wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.001)


def endless(closed: list[str] | None = None) -> Iterator[int]:
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        if closed is not None:
            closed.append(threading.current_thread().name)


def test_events_arrive_in_order_and_from_one_thread(engine: Engine) -> None:
    def events() -> Iterator[tuple[int, str]]:
        for number in range(3 * BUFFERED_EVENTS):
            yield number, threading.current_thread().name

    seen = list(engine.stream(events()))
    assert [number for number, _ in seen] == list(range(3 * BUFFERED_EVENTS))
    assert {name for _, name in seen} == {"slim-engine"}


def test_nothing_runs_before_it_is_submitted_and_nothing_after_the_reader_left(
    engine: Engine,
) -> None:
    closed: list[str] = []
    for number in engine.stream(endless(closed)):
        if number == 5:
            break
    assert closed == ["slim-engine"] and not engine.jobs


def test_a_slow_reader_holds_its_job_back_and_nobody_else(engine: Engine) -> None:
    slow = engine.submit(endless())
    wait_for(lambda: not slow.ready())
    assert list(engine.stream(iter(range(1000)))) == list(range(1000))
    assert slow.poll() == list(range(BUFFERED_EVENTS))
    wait_for(lambda: not slow.ready())
    assert slow.poll()[0] == BUFFERED_EVENTS


def test_two_jobs_take_turns(engine: Engine) -> None:
    """A long step does not keep a chat waiting for more than itself."""
    order: list[str] = []

    def steps(name: str, count: int, seconds: float) -> Iterator[int]:
        for number in range(count):
            time.sleep(seconds)
            order.append(name)
            yield number

    training = engine.submit(steps("step", 6, 0.15))
    chat = engine.submit(steps("token", 30, 0.01))
    assert len(list(chat)) == 30 and len(list(training)) == 6
    gaps = "".join("s" if name == "step" else "t" for name in order).split("s")
    assert max(map(len, gaps)) > 3, (
        "a step that is longer than a slice must not leave one token each"
    )
    first, last = order.index("token"), len(order) - 1 - order[::-1].index("token")
    assert "step" in order[first:last], "the chat must not hold up the training"


def test_poll_never_waits(engine: Engine) -> None:
    gate = threading.Event()

    def events() -> Iterator[str]:
        gate.wait(PATIENCE)
        yield "late"

    job = engine.submit(events())
    assert job.poll() == [] and not job.done
    gate.set()
    found: list[str] = []
    wait_for(lambda: found.extend(job.poll()) or job.done)
    assert found == ["late"] and job.poll() == []


@pytest.mark.parametrize("error", [DataError("corpus.txt: is empty"), ZeroDivisionError("bug")])
def test_an_error_reaches_the_reader_after_the_events(engine: Engine, error: Exception) -> None:
    def deep() -> None:
        raise error

    def events() -> Iterator[int]:
        yield 1
        deep()

    seen: list[int] = []
    with pytest.raises(type(error)) as caught:
        seen.extend(engine.stream(events()))
    assert seen == [1] and caught.value is error
    assert "deep" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]

    job = engine.submit(events())
    polled: list[int] = []
    with pytest.raises(type(error)):
        wait_for(lambda: polled.extend(job.poll()))
    assert polled == [1] and job.done and job.poll() == []
    assert list(engine.stream(iter("ab"))) == ["a", "b"], "the thread goes on"


def test_cancel_closes_the_generator(engine: Engine) -> None:
    closed: list[str] = []
    job = engine.submit(endless(closed))
    wait_for(lambda: not job.ready())  # it waits for its reader
    job.cancel()
    assert closed and job.done and job.poll() == [] and list(job) == []


def test_cancel_of_a_generator_that_never_ran_and_of_a_plain_iterator(engine: Engine) -> None:
    paused = engine.submit(endless())
    paused.pause()
    paused.cancel()
    plain = engine.submit(iter(range(10**9)))
    plain.cancel()
    assert paused.done and plain.done


def test_pause_and_resume(engine: Engine) -> None:
    job = engine.submit(endless())
    job.pause()
    wait_for(lambda: job.paused)
    time.sleep(0.05)
    before = job.poll()
    time.sleep(0.05)
    assert job.poll() == [], "nothing new while it is paused"
    job.resume()
    after: list[int] = []
    wait_for(lambda: after.extend(job.poll()) or after)
    assert after[0] == (before[-1] + 1 if before else 0), "nothing is lost"


def test_what_is_held_waits_whether_it_is_paused_or_not(engine: Engine) -> None:
    job = engine.submit(endless())
    job.hold()
    job.hold()
    job.pause()
    job.resume()
    time.sleep(0.05)
    job.poll()
    time.sleep(0.05)
    assert job.poll() == [] and job.held and not job.paused
    job.let_go()
    time.sleep(0.05)
    assert job.poll() == [], "one of two holds is left"
    job.let_go()
    after: list[int] = []
    wait_for(lambda: after.extend(job.poll()) or after)
    assert not job.held


def test_an_error_while_closing_is_not_lost(engine: Engine) -> None:
    def events() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise OSError("the disk is gone")

    job = engine.submit(events())
    job.cancel()
    if not job.done:  # it had begun
        with pytest.raises(OSError, match="the disk is gone"):
            job.poll()
    assert job.done


def test_the_engine_cannot_wait_for_itself() -> None:
    with pytest.raises(RuntimeError, match="cannot wait for itself"):
        call(lambda: list(stream(iter("x"))))


def test_call_returns_and_raises() -> None:
    assert call(lambda: threading.current_thread().name) == "slim-engine"
    with pytest.raises(ConfigError, match="nonsense"):
        call(lambda: (_ for _ in ()).throw(ConfigError("nonsense")))


def test_each_job_keeps_its_number_of_threads() -> None:
    """Buffers of a job are made for its number: another job must not change it in between."""
    import numba

    def events(count: int) -> Iterator[int]:
        assert set_threads(count) == (count or min(usable_cores(), numba.config.NUMBA_NUM_THREADS))
        for _ in range(20):
            time.sleep(0.03)
            yield numba.get_num_threads()

    one, all_ = compute.submit(events(1)), compute.submit(events(0))
    assert set(one) == {1}
    assert set(all_) == {min(usable_cores(), numba.config.NUMBA_NUM_THREADS)}


def test_too_many_threads() -> None:
    with pytest.raises(ConfigError, match=r"threads must be at most \d+, .* but is 4096"):
        call(lambda: set_threads(4096))


INTERRUPTED = """
import sys, time
from slim.compute import stream
def events():
    try:
        while True:
            time.sleep(0.01)
            yield 1
    finally:
        print("closed", flush=True)
try:
    for number, _ in enumerate(stream(events())):
        if number == 3:
            print("ready", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_reaches_a_waiting_reader() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert out == "closed\ninterrupted\n" and process.returncode == 0


def test_generators_are_closed_when_the_program_ends() -> None:
    code = INTERRUPTED.replace('print("ready", flush=True)', "sys.exit(3)").replace(
        "in enumerate(stream(events()))", "in enumerate(job)"
    )
    code = code.replace(
        "try:\n    for", "from slim.compute import submit\njob = submit(events())\ntry:\n    for"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.returncode) == ("closed\n", 3), done.stderr


def test_threads_that_wait_do_not_spin_for_long_unless_told_to() -> None:
    """Beside another program that computes, a step would take ten times as long."""
    code = "import os, slim.kernels; print(os.environ.get('GOMP_SPINCOUNT'))"
    plain = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    for variables, expected in (
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**plain, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == expected
