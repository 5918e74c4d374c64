"""Commands as a person runs them: how long until something appears, and how much memory a training run takes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from slim.bench.contest import BenchError, Spread, own_command, own_environment
from slim.bench.report import Finding, Measurement
from slim.config import ModelConfig
from slim.demo_text import STORIES, demo_text
from slim.model_file import model_metadata, save_model
from slim.parameters import Parameters
from slim.tokenizer import FIRST_BYTE_ID, FIRST_MERGE_ID, Tokenizer

SECTION = "start-up"
_STEPS = 8  # of the run whose memory is looked at
_LOOK_SECONDS = 0.02


def measure_startup(
    config: ModelConfig, folder: Path, repeats: int, quick: bool
) -> Iterator[str | Finding]:
    """`slim --help`, the first token of `slim generate`, and all kernels compiled anew."""
    yield "starting slim --help"
    seconds = [seconds_to_line(["--help"]) for _ in range(repeats)]
    yield Measurement(SECTION, "slim --help", "s", Spread.of(seconds), repeats)
    model = folder / "startup.bin"
    write_model(model, config)
    generate = ["generate", str(model), "Once upon a time", "2", "--json", "--seed", "0"]
    yield "starting slim generate"
    seconds_to_line(generate)  # whatever has to be compiled is compiled now
    seconds = [seconds_to_line(generate) for _ in range(repeats)]
    name = "first token of slim generate, warm"
    yield Measurement(SECTION, name, "s", Spread.of(seconds), repeats)
    if quick:
        return
    yield "compiling all kernels anew"
    variables = {"SLIM_CACHE_DIR": str(folder / "cold")}
    seconds = [_seconds_of(["doctor", "--warmup"], variables)]
    name = "compilation of all kernels, cold"
    yield Measurement(SECTION, name, "s", Spread.of(seconds), 1)


def measure_run(
    config: ModelConfig, sequences: int, length: int, precision: str, threads: int, folder: Path
) -> Measurement:
    """A whole `slim pretrain` of a few steps, from text to model file: its time and its peak memory."""
    out = folder / f"run-{precision}.bin"
    arguments = ["pretrain", str(demo_text(STORIES)), "1", str(out), "--quiet", "--force"]
    arguments += ["--precision", precision, "--max-steps", str(_STEPS), "--threads", str(threads)]
    arguments += ["--seq-len", str(length), "--batch-tokens", str(sequences * length)]
    for field in ("dim", "n_layers", "n_heads", "hidden_dim", "vocab_size"):
        arguments += ["--set", f"{field}={getattr(config, field)}"]
    started = time.perf_counter()
    process = subprocess.Popen(
        own_command("slim", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=own_environment(),
    )
    peak = 0
    try:
        while process.poll() is None:
            peak = max(peak, _peak_memory_of(process.pid))
            time.sleep(_LOOK_SECONDS)
        _, said = process.communicate()
    finally:
        process.kill()
        process.wait()
    seconds = time.perf_counter() - started
    _check(process.returncode, said, "slim pretrain")
    name = f"slim pretrain {precision}, a run of {_STEPS} steps"
    spread = Spread.of([seconds])
    return Measurement("training", name, "s", spread, 1, peak_memory_bytes=peak or None)


def write_model(path: Path, config: ModelConfig) -> None:
    """A model file with fresh weights and a vocabulary of pairs of bytes."""
    merges = (
        (FIRST_BYTE_ID + left, FIRST_BYTE_ID + right) for left in range(256) for right in range(256)
    )
    count = config.vocab_size - FIRST_MERGE_ID
    tokenizer = Tokenizer([pair for _, pair in zip(range(count), merges, strict=False)])
    save_model(path, Parameters(config).initialise(0), model_metadata(config, tokenizer, []))


def seconds_to_line(arguments: Sequence[str]) -> float:
    """From the start of a command to the first line it writes to stdout."""
    started = time.perf_counter()
    with subprocess.Popen(
        own_command("slim", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own_environment(),
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        _, said = process.communicate()
    _check(0 if line else 1, said, f"slim {arguments[0]}")
    return seconds


def _seconds_of(arguments: Sequence[str], variables: dict[str, str]) -> float:
    """From the start of a command to its end."""
    started = time.perf_counter()
    done = subprocess.run(
        own_command("slim", *arguments),
        env={**own_environment(), **variables},
        capture_output=True,
        text=True,
    )
    _check(done.returncode, done.stderr, f"slim {arguments[0]}")
    return time.perf_counter() - started


def _check(code: int | None, said: str, name: str) -> None:
    if code:
        lines = said.strip().splitlines()
        raise BenchError(f"{name} could not be measured: {lines[-1] if lines else code}")


def _peak_memory_of(pid: int) -> int:
    """The most memory that a running process has had so far; 0 where nobody tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
