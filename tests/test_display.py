"""What a training run looks like: scripted events in, lines or a picture out."""

from __future__ import annotations

import argparse
import atexit
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from slim.cli.display import (
    STOPPING,
    STOPPING_EARLY,
    JsonDisplay,
    PlainDisplay,
    QuietDisplay,
    choose_display,
)
from slim.cli.stopping import _ignore
from slim.cli.training import say_farewell, tell
from slim.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Note,
    Progress,
    RunStarted,
    SampleFinished,
    SampleStarted,
    StepFinished,
    StepSkipped,
    TokenGenerated,
    TrainFinished,
)
from slim.request import RunControl
from slim.run_state import CURVE_POINTS, Curve, RunState
from slim.wording import duration, stage_line

STEPS = 40
PROMPT, TEXT = "Once upon", " a time there was a fox.\nIt ran."


def step(n: int, loss: float = 3.0) -> StepFinished:
    return StepFinished(
        step=n,
        loss=loss,
        smoothed_loss=loss + 0.1,
        grad_norm=0.9,
        learning_rate=1.5e-3,
        tokens_seen=n * 2048,
        epoch=n / 20,
        tokens_per_second=4210.4,
        elapsed_seconds=n * 0.5,
        eta_seconds=(STEPS - n) * 0.5,
    )


def token(text: str) -> TokenGenerated:
    return TokenGenerated(0, 300, text, -1.0, 0.37, 0.4, 0.5, 0, 0.1, sample=0)


def script() -> Iterator[Event]:
    """A whole run of 40 steps."""
    yield Note("stories.txt: 1,560 documents")
    yield from (Progress("compiling kernels", i, 17) for i in range(18))
    yield RunStarted(0, STEPS, 2048, 7_343_360, 370_000, 19_000, 3.9, 2, 650_000_000, False)
    for n in range(1, STEPS + 1):
        yield step(n, 8.0 - n / 10)
        if n % 20 == 0:
            yield EvalFinished(n, 8.1 - n / 10, 1.5, n == 20, n * 0.5)
            yield CheckpointSaved(n, "base.bin", "out", 29_000_000)
            yield SampleStarted(n, 0, PROMPT)
            yield token(TEXT)
            yield SampleFinished(n, 0, PROMPT, TEXT, 0.3)
    yield TrainFinished("finished", STEPS, 4.1, 1.5, 20, 20.0)


class Clock:
    """A second per look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay(clock=Clock())
    for event in script():
        display.show(event)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "stories.txt: 1,560 documents"
    assert lines[1] == "compiling kernels 0/17 (first run only)"
    assert "7.34 M parameters, about 650 MB of memory, 2 threads; 40 steps of 2,048 tokens" in lines
    assert "step 40/40  loss 4.000  smoothed 4.100  4,210 tokens/s  lr 0.0015  0:00 left" in lines
    assert "validation after step 20: loss 6.100, 1.500 bits/byte  (best so far)" in lines
    assert "validation after step 40: loss 4.100, 1.500 bits/byte" in lines
    assert 'sample after step 40: "Once upon a time there was a fox. It ran."' in lines
    steps = [line for line in lines if line.startswith("step")]
    assert 4 <= len(steps) <= 12, "a line every five seconds, not one for every step"
    assert max(map(len, lines)) <= 80


def test_verbose_has_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay(every_step=True, clock=Clock())
    for event in script():
        display.show(event)
    assert len(re.findall(r"^step ", capsys.readouterr().err, re.MULTILINE)) == STEPS


def test_quiet_says_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    display = QuietDisplay()
    for event in (*script(), Note("careful", "warning"), StepSkipped(7, "loss is nan")):
        display.show(event)
    display.say("nothing")
    assert capsys.readouterr() == (
        "",
        "slim: warning: careful\nslim: warning: step 7 was skipped: loss is nan\n",
    )


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = JsonDisplay(sys.stdout, quiet=False)
    for event in (*script(), step(41, float("nan"))):
        display.show(event)
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == len(list(script())) + 1
    assert records[-1]["event"] == "step_finished" and records[-1]["loss"] is None
    assert {record["event"] for record in records} >= {"run_started", "eval_finished", "note"}
    assert err == ""


def picture(events: Iterator[Event] | list[Event], width: int = 80, **console: object) -> list[str]:
    """The lines of the live picture after the events."""
    from rich.console import Console

    from slim.cli.live import LINES, LiveDisplay

    out = io.StringIO()
    terminal = Console(file=out, width=width, height=24, force_terminal=True, **console)  # type: ignore[arg-type]
    display = LiveDisplay("slim pretrain stories.txt → base.bin", terminal)
    for event in events:
        display.show(event)
    flat = Console(file=io.StringIO(), width=width, height=24)
    flat.print(display.picture(width, LINES))
    display.close()
    return flat.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_live_picture_at_80x24() -> None:
    lines = picture(script())
    text = "\n".join(lines)
    assert len(lines) <= 22 and max(map(len, lines)) <= 80
    assert lines[0] == "slim pretrain stories.txt → base.bin"
    assert "step 40/40  100 %" in lines[1]
    assert lines[2] == "0:20 gone, 0:00 left · 4,210 tokens/s · epoch 2.00 · lr 0.0015"
    assert re.search(r"loss +4\.000 +smoothed 4\.100 +█.*▁ +from 7\.90", text)
    assert re.search(r"validation +4\.100 +1\.500 bits/byte +█▁ +best 1\.500", text)
    assert "What it writes after step 40:" in text
    assert "  Once upon a time there was a fox." in lines
    assert lines[-1].rstrip() == "Ctrl-C stops and saves; last saved at step 40"


@pytest.mark.parametrize("width", [40, 60, 120])
def test_live_picture_fits_other_widths(width: int) -> None:
    lines = picture(script(), width)
    assert len(lines) <= 24 and max(map(len, lines)) <= width


def test_live_picture_cuts_a_long_sample() -> None:
    events = [*list(script())[:-1], SampleStarted(40, 1, PROMPT), token(" fox" * 1000)]
    lines = picture(events)
    assert len(lines) == 22
    assert lines[-1].startswith("Ctrl-C stops")


def test_live_picture_before_training() -> None:
    lines = picture([Progress("compiling kernels", 3, 17)])
    assert "compiling kernels 3/17 (first run only)" in lines[1]


def test_a_hostile_model_cannot_move_the_cursor() -> None:
    hostile = "\x1b[2J\x1b]0;gone\x07\r\b\x9b31m"
    events = [*script(), Note(hostile), SampleStarted(40, 1, hostile), token(hostile)]
    from rich.console import Console

    from slim.cli.live import LiveDisplay

    out = io.StringIO()
    display = LiveDisplay(hostile, Console(file=out, width=80, height=24, force_terminal=True))
    for event in events:
        display.show(event)
    display.close()
    raw = re.sub(r"\x1b\[[0-9;]*[mAKGH]|\x1b\[\?25[lh]", "", out.getvalue()).replace("\r", "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", raw)


def test_plain_lines_are_safe_too(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay()
    display.show(Note("\x1b[2Jfile"))
    display.show(SampleFinished(1, 0, "\x1b", "\x9b", 0.1))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", capsys.readouterr().err)


def test_curve_is_bounded_and_keeps_its_shape() -> None:
    curve = Curve()
    for value in range(100_000):
        curve.add(float(value))
    columns = curve.columns(24)
    assert len(columns) == 24 and columns == sorted(columns)
    assert len(curve.columns(10**6)) < CURVE_POINTS
    assert columns[0] < 3_000 and columns[-1] > 95_000


def test_run_state_keeps_the_latest() -> None:
    state = RunState()
    for event in script():
        state.add(event)
    assert state.step == STEPS and state.sample_text == TEXT and state.first_loss == 7.9
    assert state.best is not None and state.best.step == 20
    assert state.finished is not None and state.stage is None


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.6, 3600, -1, float("inf"))] == [
        *("0:00", "1:00", "1:00:00", "-", "-")
    ]
    assert stage_line(Progress("encoding", 1, 3)) == "encoding 33 %"
    assert stage_line(Progress("encoding", 0, 0)) == "encoding 0 %"


def test_choice_of_display(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(**options: bool) -> str:
        chosen = choose_display(
            "", **{"json_lines": False, "quiet": False, "verbose": False, **options}
        )
        chosen.close()
        return type(chosen).__name__

    assert choose() == "PlainDisplay", "stderr of a test is no terminal"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert choose() == "LiveDisplay"
    assert choose(verbose=True) == "PlainDisplay"
    assert choose(quiet=True) == "QuietDisplay"
    assert choose(json_lines=True) == "JsonDisplay"
    monkeypatch.setenv("TERM", "dumb")
    assert choose() == "PlainDisplay"


STOPPED = """
import os, signal, sys, time
from slim.cli.stopping import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.requested():
        time.sleep(0.01)
    print("asked", flush=True)
    if sys.argv[1] == "hang":
        time.sleep(60)
sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("mode", ["finish", "hang"])
def test_signals_ask_first_and_insist_the_second_time(
    number: signal.Signals, code: int, mode: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, mode], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        assert process.stdout.readline() == "asked\n"
        if mode == "hang":
            os.kill(process.pid, number)
        assert process.wait(10) == code


@pytest.mark.parametrize("options", [(), ("-q",), ("--json",), ("--json", "-q")])
@pytest.mark.parametrize("trains", [False, True])
def test_whoever_stops_a_run_is_told_at_once_and_how_to_go_on(
    options: tuple[str, ...], trains: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(
        json="--json" in options, quiet="-q" in options, verbose=False, tui=False
    )
    control = RunControl()
    heard: list[str] = []

    def run() -> Iterator[Event]:
        yield from list(script())[: -1 if trains else 1]
        os.kill(os.getpid(), signal.SIGINT)
        heard.append(capsys.readouterr().err)  # before any other event
        assert control.stop
        yield TrainFinished("interrupted", 40 * trains, 1.5, 1.2, 30, 9.0)

    code, finished = tell(run(), control, args, "title")
    say_farewell(args, finished, "base.bin")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit.unregister(_ignore)
    assert code == 130
    assert heard[0].endswith((STOPPING if trains else STOPPING_EARLY) + "\n")
    err = capsys.readouterr().err
    assert ("go on with: slim resume base.bin" in err) == trains
    assert STOPPING not in err and STOPPING_EARLY not in err


LEAVING = """
import os, signal, sys
from slim.cli.stopping import StopRequest

class Late:
    def __init__(self):
        self.kill, self.arguments = os.kill, (os.getpid(), int(sys.argv[1]))

    def __del__(self):  # when Python has taken its signal handlers down
        self.kill(*self.arguments)

late = Late()
with StopRequest(ends_program=True) as stop:
    os.kill(os.getpid(), int(sys.argv[1]))
sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_to_a_program_that_is_leaving_keeps_its_exit_code(
    number: signal.Signals,
) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING, str(int(number))], check=False)
    assert done.returncode == 128 + number


def test_an_ignored_signal_stays_ignored() -> None:
    code = STOPPED.replace(
        'print("ready"', 'os.kill(os.getpid(), 1); print(stop.requested(), "ready"'
    )
    done = subprocess.run(
        [
            *("timeout", "-s", "INT", "2", "sh", "-c", 'trap "" HUP; exec "$@"', "sh"),
            *(sys.executable, "-c", code, "finish"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.startswith("False ready")
