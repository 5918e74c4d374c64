"""The README's figures, written from what `slim bench --json` printed.

    slim bench --against torch --against llama.cpp --against tokenizers --profile --json | tee bench.txt
    python tests/bench/readme_figures.py bench.txt

The last line of the file is kept as `tests/bench/figures.json`, and the part of README.md between the two marks is
replaced by tables made of it. Without a file, the tables are made again from what was kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README, KEPT = ROOT / "README.md", Path(__file__).with_name("figures.json")
BEGIN, END = "<!-- figures: tests/bench/readme_figures.py -->", "<!-- end of figures -->"
WHAT = {"times as fast": "x as fast", "of the peak memory": "of its peak memory"}


def number(value: float) -> str:
    """Three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(value: dict[str, float], write: Any = number) -> str:
    """Median, and lowest to highest where they differ."""
    low, high = write(value["low"]), write(value["high"])
    return write(value["median"]) + (f" ({low} - {high})" if low != high else "")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown, without columns that hold nothing."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(line[i] for i in kept) + " |" for line in lines]


def figures(record: dict[str, Any]) -> str:
    """All tables."""
    c = record["conditions"]
    machine = c["machine"]
    lines = [
        f"{machine['processor']}, {c['threads']} threads, L2 {machine['l2_bytes'] / 2**20:g} MB, "
        f"L3 {machine['l3_bytes'] / 2**20:g} MB, {machine['system']}; SLiM {c['version']}, {c['date']}. "
        f"Model: dim {c['dim']}, {c['n_heads']} heads, {c['n_layers']} layers, hidden {c['hidden_dim']}, "
        f"vocabulary {c['vocab_size']:,}. Medians of rounds in which separate processes take turns "
        "(lowest - highest).",
        "",
        *table(
            ("what this machine can do at most", ""),
            [(r["name"], f"{number(r['value'])} {r['unit']}") for r in record["ceilings"]],
        ),
    ]
    sections = dict.fromkeys(m["section"] for m in record["measurements"])
    for section in sections:
        rows = [measurement(m) for m in record["measurements"] if m["section"] == section]
        lines += ["", *table((section, "", "work", "of the ceiling", "memory"), rows)]
    if record["comparisons"]:
        rows = [
            (
                f"{r['section'].partition(',')[0]}: {r['name']}",
                r["against"],
                spread(r["value"], lambda v: f"{v:.2f}") + f" {WHAT.get(r['what'], r['what'])}",
            )
            for r in record["comparisons"]
        ]
        lines += ["", *table(("compared", "against", ""), rows)]
    for of in dict.fromkeys(part["of"] for part in record["profile"]):
        parts = [part for part in record["profile"] if part["of"] == of]
        total = sum(part["seconds"] for part in parts)
        rows = [share(part, total) for part in parts]
        lines += ["", *table((f"{of}, {total * 1e3:.3g} ms", "share", "", "of the ceiling"), rows)]
    return "\n".join(lines)


def measurement(m: dict[str, Any]) -> tuple[str, ...]:
    """A row of speeds."""
    memory = m["peak_memory_bytes"]
    return (
        m["name"],
        f"{spread(m['value'])} {m['unit']}",
        f"{m['work']:,.0f} {m['work_unit']}" if m["work"] else "",
        f"{m['work'] / m['ceiling']:.0%}" if m["ceiling"] else "",
        f"{memory / 2**20:,.0f} MiB" if memory else "",
    )


def share(part: dict[str, Any], total: float) -> tuple[str, ...]:
    """A row of the profile."""
    rate = part["work"] / part["seconds"] / 1e9 if part["unit"] and part["seconds"] else 0.0
    return (
        part["name"],
        f"{part['seconds'] / total:.1%}" if total else "",
        f"{rate:,.0f} {part['unit']}" if rate else "",
        f"{rate / part['ceiling']:.0%}" if rate and part["ceiling"] else "",
    )


def with_figures(readme: str, record: dict[str, Any]) -> str:
    """The README with new tables between its marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"README.md needs {BEGIN} and {END} where the figures belong")
    return f"{before}{BEGIN}\n\n{figures(record)}\n\n{END}{after}"


def main() -> None:
    """Keep the figures and write them into the README."""
    if len(sys.argv) > 1:
        last = Path(sys.argv[1]).read_text(encoding="utf-8").strip().splitlines()[-1]
        KEPT.write_text(json.dumps(json.loads(last), indent=1) + "\n", encoding="utf-8")
    record = json.loads(KEPT.read_text(encoding="utf-8"))
    README.write_text(with_figures(README.read_text(encoding="utf-8"), record), encoding="utf-8")
    print(f"{len(record['measurements'])} measurements written to {README.name}")


if __name__ == "__main__":
    main()
