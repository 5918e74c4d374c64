"""The tables of the results page, from results.json: `python demo/confidence/tables.py results.json`"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Markdown, to stdout."""
    lines = [head, ["---"] * len(head), *rows]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n")


def with_interval(values: Sequence[float]) -> str:
    """A number and the interval of it."""
    value, low, high = values
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def statistics(results: dict[str, Any]) -> None:
    """Every statistic and window, at the share that was chosen."""
    table(
        ("statistic", "window", "cut", "genuine", "outside"),
        [
            (
                *(row["statistic"], str(row["window"]), with_interval(row["cut"])),
                *(with_interval(row["genuine"]), f"{row['outside']:.0%}"),
            )
            for row in results["statistics"]
        ],
    )


def genuine(results: dict[str, Any]) -> None:
    """What comes after a stop in stories that nobody made up."""
    named = {
        "genuine_fresh": "chose nothing",
        "genuine_odd": "judging half of the validation file",
        "genuine_all": "all of both",
    }
    rows = []
    for name, words in named.items():
        if name in results:
            one = results[name]
            value, low, high = one["exchanged"]
            rows.append(
                (
                    *(words, f"{one['documents']:,}", f"{one['fired']:,}"),
                    with_interval((one["difference"], one["low"], one["high"])),
                    f"{one['matched']:+.3f}",
                    f"{value:+.3f} ({low:+.3f} to {high:+.3f})",
                    f"{one['p_value']:.3f}",
                )
            )
    head = ("stories", "number", "stopped", "next 32 tokens", "match", "stops exchanged", "p")
    table(head, rows)
    table(
        ("share of own texts", "stops", "next 32 tokens", "match", "stops exchanged", "p"),
        [
            (
                *(f"{one['share']:.0%}", f"{one['real']['fired']:,}"),
                with_interval([one["real"][key] for key in ("difference", "low", "high")]),
                f"{one['real']['matched']:+.3f}",
                *(f"{one['exchanged']:+.3f}", f"{one['p_value']:.2f}"),
            )
            for one in results["report"]["rules"]
        ],
    )


def trade_off(results: dict[str, Any]) -> None:
    """Length against quality."""
    table(
        ("texts stopped", "tokens cut off", "cut off", "kept"),
        [
            (
                f"{row['stopped']:.0%}",
                f"{1 - row['kept_share']:.1%}",
                with_interval(row["cut"]),
                with_interval(row["kept"]),
            )
            for row in results["curve"]
        ],
    )


def promises(results: dict[str, Any]) -> None:
    """Shares that stored thresholds stop."""
    table(
        ("promised", "threshold", "stopped", "interval"),
        [
            (f"{share:.0%}", f"{threshold:.2f}", f"{found:.1%}", f"{low:.1%} to {high:.1%}")
            for share, threshold, found, low, high in results["promises"]
        ],
    )


def shares(results: dict[str, Any]) -> None:
    """What stops per sampler, and outside of what the model knows."""
    for head, key in (("sampler", "settings"), ("prompts from outside", "outside")):
        table((head, "stopped"), [(name, f"{one:.0%}") for name, one in results[key].items()])


def calibration(results: dict[str, Any]) -> None:
    """Before and after."""
    plain, fitted = results["report"]["plain"], results["report"]["calibrated"]
    rows = [
        (
            "ECE, 15 bins of equal size",
            *(
                f"{one['ece']:.4f} ({one['ece_low']:.4f} to {one['ece_high']:.4f})"
                for one in (plain, fitted)
            ),
        )
    ]
    for words, key in (("Full-ECE", "full_ece"), ("Brier", "brier"), ("nats/token", "nats")):
        rows.append((words, f"{plain[key]:.4f}", f"{fitted[key]:.4f}"))
    table(("", "model p", f"calibrated p (temperature {fitted['temperature']:.3f})"), rows)


def main() -> None:
    """All of them."""
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for part in (statistics, genuine, trade_off, promises, shares, calibration):
        part(results)


if __name__ == "__main__":
    main()
