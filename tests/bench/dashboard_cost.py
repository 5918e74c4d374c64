"""What the dashboard costs a training: the same run on the command line and under the dashboard, in turns.

    python tests/bench/dashboard_cost.py [--size 80x24] [--pairs 5] [--steps 120] [--log FILE]

Both run in a pseudo-terminal of the same size, whose reader throws away what is drawn. Compared is the time between two
steps of the run as its metrics.jsonl has it, validations and samples included: the first steps are left out. Beside it stands
the processor time of the thread that draws, which other programs on the machine disturb less. With --log pairs are added
to a file, and the medians are of all that it holds for that size. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tui"))

from terminal import SLIM, Terminal

FIRST = 20  # steps until everything is warm


def run(size: tuple[int, int], steps: int, dashboard: bool) -> dict[str, float]:
    """One run; seconds of its steps after the first, and those that its main thread computed."""
    from slim.demo_text import STORIES, demo_text

    with tempfile.TemporaryDirectory() as scratch:
        command = [
            *SLIM, "pretrain", str(demo_text(STORIES)), "1000", "m.bin", "--max-steps", str(steps),
            "--preset", "small", "--set", "vocab_size=2048", "--set", "eval_every=50", "--set", "sample_every=50",
            "--set", "calibrate=false", *(["--tui"] if dashboard else []),
        ]  # fmt: skip
        terminal = Terminal(command, Path(scratch), size)
        try:
            metrics = Path(scratch) / "m.bin.run" / "metrics.jsonl"
            began: float | None = None
            drawn = 0.0
            while (at := last_step(metrics)) < steps:
                terminal.read(0.2)
                terminal.forget()
                if at >= FIRST:
                    began = began if began is not None else cpu_seconds(terminal.process.pid)
                    drawn = cpu_seconds(terminal.process.pid) - began
                assert terminal.process.poll() is None, terminal.output[-2000:]
            if dashboard:
                terminal.wait_for("done after")
                terminal.type("\x11")
            terminal.end(60.0)
            times = dict(step_times(metrics))
        finally:
            terminal.close()
    return {"seconds": times[steps] - times[FIRST], "drawing": drawn}


def step_times(metrics: Path) -> list[tuple[int, float]]:
    """Every step with its time since the beginning of the run."""
    records = (json.loads(line) for line in metrics.read_text().splitlines())
    return [(r["step"], r["elapsed_seconds"]) for r in records if r["event"] == "step_finished"]


def last_step(metrics: Path) -> int:
    """The last step that a run has written down."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    found = [json.loads(line) for line in lines if line.startswith(b'{"event": "step_finished"')]
    return int(found[-1]["step"]) if found else 0


def cpu_seconds(process: int) -> float:
    """Processor time of the main thread of a process, which reads keys and draws."""
    fields = Path(f"/proc/{process}/task/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Take turns, and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="80x24", help="columns x lines")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--log", type=Path, help="a file of JSON lines to add to")
    arguments = parser.parse_args()
    columns, lines = map(int, arguments.size.split("x"))
    pairs: list[dict[str, object]] = []
    if arguments.log is not None and arguments.log.exists():
        pairs = [json.loads(line) for line in arguments.log.read_text().splitlines()]
    for number in range(arguments.pairs):
        order = (False, True) if (len(pairs) + number) % 2 == 0 else (True, False)
        found = {
            dashboard: run((columns, lines), arguments.steps, dashboard) for dashboard in order
        }
        pair = {"size": arguments.size, "command line": found[False], "dashboard": found[True]}
        pairs.append(pair)
        print(json.dumps(pair), flush=True)
        if arguments.log is not None:
            with arguments.log.open("a") as file:
                file.write(json.dumps(pair) + "\n")
    mine = [pair for pair in pairs if pair["size"] == arguments.size]
    print(json.dumps({"size": arguments.size, "pairs": len(mine), **medians(mine)}))


def medians(pairs: list[dict[str, object]]) -> dict[str, float]:
    """How much longer the dashboard took, and how much of a core drawing took, each the median of the pairs."""

    def middle(values: list[float]) -> float:
        return round(statistics.median(values), 4)

    def of(pair: dict[str, object], who: str, what: str) -> float:
        return float(pair[who][what])  # type: ignore[index]

    names = ("command line", "dashboard")
    return {
        "time of the dashboard's run to the other's": middle(
            [of(p, "dashboard", "seconds") / of(p, "command line", "seconds") for p in pairs]
        ),
        **{
            f"share of a core that draws, {name}": middle(
                [of(p, name, "drawing") / of(p, name, "seconds") for p in pairs]
            )
            for name in names
        },
    }


if __name__ == "__main__":
    main()
