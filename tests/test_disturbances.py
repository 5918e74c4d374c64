"""Training that is disturbed in every way a person or a machine can: the end is that of a run left in peace.

Processes are real, signals and failing writes too; only the model is tiny, and saves are more frequent than usual.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from slim import checkpoint

ROOT = Path(__file__).parents[1]
STORIES = ROOT / "demo" / "stories.txt"
# Saves every half second: between those of half a minute hardly anything would happen in a test.
SLIM = (
    "import sys; from slim import recipe; recipe.SAVE_SECONDS, recipe.SAVE_SHARE = 0.5, 0.5; "
    "recipe.CALIBRATION_SECONDS = 0.0, 0.0; from slim.cli import main; sys.exit(main(sys.argv[1:]))"
)
SIZES = [
    *("--set", "dim=32", "--set", "n_layers=2", "--set", "n_heads=2", "--set", "hidden_dim=48"),
    *(
        "--vocab-size",
        "320",
        "--seq-len",
        "32",
        "--batch-tokens",
        "128",
        "--set",
        "sample_tokens=8",
    ),
    *("--set", "max_seq_len=64", "--seed", "5"),
]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST = 3600.0  # seconds: a hang lasts for ever, but on a machine with much other work so do 20,000 steps, nearly


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_bytes(STORIES.read_bytes()[:60_000])
    return path


def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-c", SLIM, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **options)  # type: ignore[call-overload, no-any-return]


def finish(*arguments: object) -> None:
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, errors.decode()


def weights(path: Path) -> str:
    """A digest of a model file's arrays, whatever its metadata says of times."""
    tensors, _ = checkpoint.read(path)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()


def outcome(out: Path) -> tuple[object, ...]:
    """All that a run leaves, without its times: weights, moments, losses, samples."""
    run = out.with_name(out.name + ".run")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    kinds = ("step_finished", "eval_finished", "sample_finished")
    told = [
        (e["event"], e["step"], e.get("loss"), e.get("grad_norm"), e.get("text"))
        for e in events
        if e["event"] in kinds
    ]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    return weights(out), weights(run / "last"), told, [(s["step"], s["text"]) for s in samples]


def wait_for_steps(
    process: subprocess.Popen[bytes], metrics: Path, deadline: float = LONGEST
) -> bool:
    """Whether the process makes steps; False when it has ended first.

    A hang lasts for ever; on a machine with other work, which may even stop this process, a start lasts minutes.
    """
    size = metrics.stat().st_size if metrics.exists() else 0
    until = time.monotonic() + deadline
    while process.poll() is None:
        if metrics.exists() and metrics.stat().st_size > size + 2000:
            return True
        assert time.monotonic() < until, "a hang"
        time.sleep(0.005)
    return False


# ---- a run with all that can happen to it ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What is done to a training process, and the exit codes that may follow; None: it goes on."""

    act: Callable[[subprocess.Popen[bytes], random.Random], None]
    codes: frozenset[int | None]


def send(*numbers: int) -> Callable[[subprocess.Popen[bytes], random.Random], None]:
    def act(process: subprocess.Popen[bytes], draw: random.Random) -> None:
        for number in numbers:
            process.send_signal(number)
            time.sleep(draw.random() * 0.03)

    return act


def hold(process: subprocess.Popen[bytes], draw: random.Random) -> None:
    process.send_signal(signal.SIGSTOP)
    time.sleep(draw.random() * 0.5)
    process.send_signal(signal.SIGCONT)


def fill_disk(process: subprocess.Popen[bytes], draw: random.Random) -> None:
    """For a while no file may grow beyond some bytes: saves fail at their start or in their middle, logs as well."""
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(
            process.pid, resource.RLIMIT_FSIZE, (draw.choice((0, 100, 20_000, 150_000)), most)
        )
        time.sleep(draw.random() * 1.5)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))


DISTURBANCES = {
    "INT": Disturbance(send(signal.SIGINT), frozenset({128 + signal.SIGINT})),
    "TERM": Disturbance(send(signal.SIGTERM), frozenset({128 + signal.SIGTERM})),
    "HUP": Disturbance(send(signal.SIGHUP), frozenset({128 + signal.SIGHUP})),
    "INT INT": Disturbance(send(signal.SIGINT, signal.SIGINT), frozenset({128 + signal.SIGINT})),
    "KILL": Disturbance(send(signal.SIGKILL), frozenset({-signal.SIGKILL})),
    "STOP CONT": Disturbance(hold, frozenset({None})),
    # Three saves in a row that fail end a run, which is told: exit code 3.
    "disk full": Disturbance(fill_disk, frozenset({None, 3})),
    "disk full, TERM": Disturbance(
        lambda process, draw: (fill_disk(process, draw), send(signal.SIGTERM)(process, draw))[-1],
        frozenset({3, 128 + signal.SIGTERM}),
    ),
    "disk full, KILL": Disturbance(
        lambda process, draw: (fill_disk(process, draw), send(signal.SIGKILL)(process, draw))[-1],
        frozenset({3, -signal.SIGKILL}),
    ),
}  # fmt: skip


def pretrain(text: Path, out: Path, steps: int) -> list[object]:
    """The arguments of a training of so many steps."""
    sizes = [*SIZES, "--max-steps", steps, "--set", "eval_every=150"]
    return ["pretrain", text, 1e5, out, *sizes, "-q"]


@pytest.fixture(scope="module")
def left_in_peace(
    text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[object, ...]]:
    """What such a training leaves when nothing happens to it: the same for every seed of the disturbances."""

    @functools.cache
    def left(steps: int) -> tuple[object, ...]:
        out = tmp_path_factory.mktemp("peaceful") / "peaceful.bin"
        finish(*pretrain(text, out, steps), "--threads", 1)  # the quicker way for so small a model
        return outcome(out)

    return left


class DisturbedRun:
    """Starts a training, again and again, until it has come to its end."""

    def __init__(self, text: Path, out: Path, steps: int, seed: int) -> None:
        self.draw = random.Random(seed)
        self.out = out
        self.run = out.with_name(out.name + ".run")
        self.errors = out.with_name("errors")
        self.asked = pretrain(text, out, steps)
        self.happened: dict[str, int] = {}
        self.starts = 0

    def to_its_end(self, disturbances: int) -> None:
        """Disturb it so many times, then leave it in peace."""
        kinds = iter(self._kinds(disturbances))
        while True:
            self.starts += 1
            # Its last words go through a process that no full disk concerns.
            with (
                self.errors.open("wb") as file,
                subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) as listener,
            ):
                assert listener.stdin is not None
                process = self._start(listener.stdin)
                listener.stdin.close()
                try:
                    code = self._attend(process, listener, kinds)
                finally:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
            self._check_files(self.errors.read_text(encoding="utf-8", errors="replace"))
            if code == 0:
                return

    def _kinds(self, count: int) -> Iterator[str]:
        """Every kind in turn, in a new order each time."""
        while count > 0:
            order = list(DISTURBANCES)
            self.draw.shuffle(order)
            yield from order[:count]
            count -= len(order)

    def _start(self, stderr: object) -> subprocess.Popen[bytes]:
        begun = (self.run / "last").exists()
        command = ["resume", self.out, "-q"] if begun else [*self.asked, "--force"]
        threads = self.draw.choice((1, 2, os.cpu_count() or 1))
        return start(
            *command, "--threads", min(threads, os.cpu_count() or 1),
            stdout=subprocess.DEVNULL, stderr=stderr,
        )  # fmt: skip

    def _attend(
        self,
        process: subprocess.Popen[bytes],
        listener: subprocess.Popen[bytes],
        kinds: Iterator[str],
    ) -> int:
        """The exit code of one session."""
        allowed: set[int | None] = {0}
        while wait_for_steps(process, self.run / "metrics.jsonl"):
            time.sleep(self.draw.random() * 0.4)
            kind = next(kinds, None)
            if kind is None:
                break
            with contextlib.suppress(ProcessLookupError):
                DISTURBANCES[kind].act(process, self.draw)
            self.happened[kind] = self.happened.get(kind, 0) + 1
            codes = DISTURBANCES[kind].codes
            allowed |= codes
            if None not in codes:
                break
        code = process.wait(timeout=LONGEST)
        listener.wait()
        told = self.errors.read_text(encoding="utf-8", errors="replace")
        # A program that has said its last word, and is just leaving, listens to no signal any more.
        over = "slim: error: " in told or (self.run / "result.json").exists()
        assert code in allowed or (over and -code in SIGNALS), (
            f"{code} after {self.happened}: {told}"
        )
        return code

    def _check_files(self, told: str) -> None:
        """Whatever happened: no traceback, and what is there is whole."""
        assert "Traceback" not in told, told
        for path in (self.out, self.run / "last", self.run / "best"):
            if path.exists():
                checkpoint.read(path)


@pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="only Linux can fill another process's disk"
)
@pytest.mark.parametrize(
    ("disturbances", "seed"),
    [(4, 0), *(pytest.param(100, seed, marks=pytest.mark.soak) for seed in range(1, 8))],
)
def test_a_disturbed_run_ends_like_one_left_in_peace(
    text: Path,
    tmp_path: Path,
    left_in_peace: Callable[[int], tuple[object, ...]],
    disturbances: int,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    """Signals, kills, pauses, full disks and restarts, with other numbers of threads: the same bytes."""
    disturbed, steps = tmp_path / "disturbed.bin", 1000 + 300 * disturbances
    run = DisturbedRun(text, disturbed, steps, seed)
    run.to_its_end(disturbances)
    assert outcome(disturbed) == left_in_peace(steps)
    assert sum(run.happened.values()) >= disturbances / 2, "it was over too soon"
    record_property("disturbed", f"{run.starts} starts, {run.happened}")


# ---- going on, from anywhere -----------------------------------------------------------------------------------------

STOPS = ("INT", "TERM", "HUP", "KILL")


@pytest.fixture(scope="module")
def peaceful(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    out = tmp_path_factory.mktemp("peaceful") / "m.bin"
    finish("pretrain", text, 1e5, out, *SIZES, "--max-steps", 900, "--set", "eval_every=100", "-q")
    return outcome(out)


@pytest.mark.soak
@pytest.mark.parametrize("place", range(10))
@pytest.mark.parametrize("kind", STOPS)
def test_resume_is_exact_from_anywhere(
    text: Path, tmp_path: Path, peaceful: tuple[object, ...], kind: str, place: int
) -> None:
    """40 stops at random moments, also before the first step; the threads change in between."""
    draw, out = random.Random(f"{kind}{place}"), tmp_path / "m.bin"
    asked = [
        "pretrain",
        text,
        1e5,
        out,
        *SIZES,
        "--max-steps",
        900,
        "--set",
        "eval_every=100",
        "-q",
    ]
    process = start(*asked, "--threads", draw.choice((1, 2)), stderr=subprocess.DEVNULL)
    wait_for_steps(process, tmp_path / "m.bin.run" / "metrics.jsonl")
    time.sleep(draw.random() * 1.2)
    process.send_signal(getattr(signal, f"SIG{kind}"))
    code = process.wait(timeout=60)
    number = getattr(signal, f"SIG{kind}")
    assert code in (0, -number if kind == "KILL" else 128 + number)
    begun = (tmp_path / "m.bin.run" / "last").exists()
    finish(*(["resume", out] if begun else [*asked, "--force"]), "--threads", draw.choice((1, 2)))
    assert outcome(out) == peaceful


# ---- two trainers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, pytest.param(50, marks=pytest.mark.soak)])
def test_of_two_trainers_that_start_at_once_exactly_one_runs(
    text: Path, tmp_path: Path, pairs: int
) -> None:
    for number in range(pairs):
        out = tmp_path / f"{number}.bin"
        asked = ["pretrain", text, 1e5, out, *SIZES, "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        both = [start(*asked, **pipes), start(*asked, "--force", **pipes)]
        try:
            while all(process.poll() is None for process in both):
                time.sleep(0.02)
            loser = next(process for process in both if process.poll() is not None)
            (winner,) = [process for process in both if process is not loser]
            out_text, errors = loser.communicate(timeout=30)
            assert loser.returncode == 1 and b"step_finished" not in out_text
            assert f"process {winner.pid} is training here" in errors.decode()
            assert winner.stdout is not None
            assert any(b"step_finished" in line for line in winner.stdout)
            assert winner.poll() is None
        finally:
            for process in both:
                process.kill()
                process.communicate()


# ---- signals while a terminal is drawn on ----------------------------------------------------------------------------


def drawn_on(master: int, until: Callable[[bytes], bool], seconds: float = 120.0) -> bytes:
    """What has been written to a terminal, up to a moment or its end."""
    told, deadline = b"", time.monotonic() + seconds
    while not until(told):
        assert time.monotonic() < deadline, told[-2000:]
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux's word for the end of a terminal
            break
        if not piece:
            break
        told += piece
    return told


@pytest.mark.parametrize("count", [2, pytest.param(40, marks=pytest.mark.soak)])
def test_signals_while_drawing_leave_the_terminal_as_it_was(
    text: Path, tmp_path: Path, count: int, record_property: Callable[[str, object], None]
) -> None:
    draw, seconds = random.Random(1), []
    for number in range(count):
        kind = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[number % 3]
        twice = number % 4 == 3
        out = tmp_path / f"{number}.bin"
        master, slave = os.openpty()
        try:
            termios.tcsetwinsize(slave, (24, 80))
            before = termios.tcgetattr(slave)
            environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
            process = start(
                "pretrain", text, 1e5, out, *SIZES, env=environment,
                stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            )  # fmt: skip
            told = drawn_on(master, lambda seen: seen.count(b"loss") > 3)
            assert b"\x1b[?25l" in told, "a live picture, without a cursor"
            time.sleep(draw.random() * 0.3)
            asked_at = time.monotonic()
            process.send_signal(kind)
            if twice:
                time.sleep(draw.random() * 0.02)
                process.send_signal(kind)
            os.set_blocking(master, False)
            while process.poll() is None:
                with contextlib.suppress(BlockingIOError, OSError):
                    told += os.read(master, 65536)
                time.sleep(0.002)
                assert time.monotonic() - asked_at < 60, "a hang"
            seconds.append(time.monotonic() - asked_at)
            with contextlib.suppress(BlockingIOError, OSError):
                while piece := os.read(master, 65536):
                    told += piece
            assert process.returncode == 128 + kind
            assert termios.tcgetattr(slave) == before
        finally:
            os.close(slave)
            os.close(master)
        assert told.rfind(b"\x1b[?25h") > told.rfind(b"\x1b[?25l"), "the cursor is back"
        assert told.count(b"\x1b[?1049h") == told.count(b"\x1b[?1049l")
        assert (tmp_path / f"{number}.bin.run" / "last").exists()
        if not twice:
            assert b"slim resume" in told
    record_property("seconds", f"median {statistics.median(seconds):.2f}, most {max(seconds):.2f}")
    if count >= 40:
        # On a machine with other work a single one may be late.
        assert statistics.quantiles(seconds, n=10)[-1] < 1.0, (
            f"the slowest took {max(seconds):.2f} s"
        )


# ---- memory ----------------------------------------------------------------------------------------------------------

# Everything that a long run does again and again: steps, validation, samples, saves, and a reply while it trains.
MEMORY = """
import sys, time, psutil
from slim import recipe, run
from slim.config import GenerateConfig
from slim.events import StepFinished
from slim.generate import generate
from slim.request import Request, RunControl
from slim.settings import Settings

recipe.SAVE_SECONDS, recipe.SAVE_SHARE = 0.2, 0.5
text, out, settling, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
settings = {
    **{"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_seq_len": 128, "vocab_size": 512},
    **{"batch_tokens": 512, "seq_len": 128, "eval_every": 20, "sample_every": 20, "sample_tokens": 20},
}
control, memory = RunControl(), psutil.Process().memory_info
began, before, largest, steps = None, 0, 0, 0
for event in run.start(Request("pretrain", text, 1e5, out, settings=Settings(settings)), control):
    if not isinstance(event, StepFinished):
        continue
    began = began or time.monotonic()
    steps += 1
    if steps % 20 == 0:
        list(generate(control.model, control.tokenizer, "Once", GenerateConfig(max_tokens=8)))
        passed = time.monotonic() - began
        if passed < settling:
            before = memory().rss
        largest = max(largest, memory().rss)
        if passed >= settling + seconds:
            break
print(before, largest, steps)
"""


@pytest.mark.parametrize(
    ("settling", "seconds"), [(1.5, 2.5), pytest.param(60, 480, marks=pytest.mark.soak)]
)
def test_memory_is_flat(
    text: Path,
    tmp_path: Path,
    settling: float,
    seconds: float,
    record_property: Callable[[str, object], None],
) -> None:
    """Less than 1 % more after the first minute of a long run."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(text), str(tmp_path / "m.bin"), str(settling), str(seconds)],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, largest, steps = map(int, done.stdout.split())
    record_property(
        "memory", f"{before / 1e6:.2f} MB, then at most {largest / 1e6:.2f} MB, {steps} steps"
    )
    assert before > 0 and steps > 40
    assert largest < 1.01 * before, (
        f"{before / 1e6:.1f} MB became {largest / 1e6:.1f} MB in {steps} steps"
    )
