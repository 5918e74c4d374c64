"""What a benchmark found, as records, as one JSON object, and as a table for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slim.bench.contest import Spread
from slim.bench.job import Part
from slim.bench.machine import Machine


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that the machine can do of one thing."""

    name: str
    value: float
    unit: str  # GFLOP/s or GB/s


@dataclass(frozen=True, slots=True)
class Measurement:
    """A speed, or a time: median, lowest and highest of the rounds, and what it means for the machine."""

    section: str
    name: str
    unit: str  # tokens/s, MB/s or s
    value: Spread
    rounds: int
    work: float = 0.0  # per second, in `work_unit`; 0 where none is counted
    work_unit: str = ""  # GFLOP/s or GB/s
    ceiling: float = 0.0  # of this work on this machine
    peak_memory_bytes: int | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two measurements of one contest: the median of their ratio, round by round."""

    section: str
    name: str
    against: str
    what: str  # "times as fast" or "of the memory"
    value: Spread
    rounds: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which all was measured."""

    version: str
    date: str
    machine: Machine
    threads: int
    dim: int
    n_heads: int
    n_layers: int
    hidden_dim: int
    vocab_size: int
    parameters: int


Finding = Ceiling | Measurement | Comparison | Part


def as_json(conditions: Conditions, findings: Sequence[Finding]) -> dict[str, object]:
    """Everything as one object, ready for JSON."""

    def all_of(kind: type) -> list[dict[str, object]]:
        return [dataclasses.asdict(f) for f in findings if isinstance(f, kind)]

    return {
        "conditions": dataclasses.asdict(conditions),
        "ceilings": all_of(Ceiling),
        "measurements": all_of(Measurement),
        "comparisons": all_of(Comparison),
        "profile": all_of(Part),
    }


def as_text(conditions: Conditions, findings: Sequence[Finding]) -> Iterator[str]:
    """Everything as lines."""
    c, machine = conditions, conditions.machine
    caches = ", ".join(
        f"{name} {size / 2**20:g} MB"
        for name, size in (("L2", machine.l2_bytes), ("L3", machine.l3_bytes))
        if size
    )
    yield f"SLiM {c.version} on {machine.processor}, {machine.cores} cores{', ' * bool(caches)}{caches}"
    yield (
        f"{c.threads} threads; {c.parameters / 1e6:.2f} M parameters: dim {c.dim}, {c.n_heads} heads, "
        f"{c.n_layers} layers, hidden {c.hidden_dim}, vocabulary {c.vocab_size:,}"
    )
    ceilings = [f for f in findings if isinstance(f, Ceiling)]
    if ceilings:
        rows: list[tuple[str, ...]] = [("what this machine can do at most", "")]
        rows += [(c.name, f"{c.value:,.0f} {c.unit}") for c in ceilings]
        yield from ("", *table(rows))
    measurements = [f for f in findings if isinstance(f, Measurement)]
    for section in dict.fromkeys(m.section for m in measurements):
        rows = [(section, "median", "low - high", "work", "of ceiling", "memory")]
        rows += [_measurement_row(m) for m in measurements if m.section == section]
        yield from ("", *table(rows))
    comparisons = [f for f in findings if isinstance(f, Comparison)]
    if comparisons:
        rows = [("compared", "against", "median", "low - high", "")]
        rows += [_comparison_row(c) for c in comparisons]
        yield from ("", *table(rows))
    parts = [f for f in findings if isinstance(f, Part)]
    for of in dict.fromkeys(p.of for p in parts):
        total = sum(p.seconds for p in parts if p.of == of)
        rows = [(f"{of}, {total * 1e3:.3g} ms", "calls", "ms", "share", "work", "of ceiling")]
        rows += [_part_row(p, total) for p in parts if p.of == of]
        yield from ("", *table(rows))


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows as lines: the first column begins at the left, the others end at the same place; empty ones are left out."""
    columns = list(zip(*rows, strict=True))
    kept = [i for i, column in enumerate(columns) if i == 0 or any(column[1:])]
    widths = [max(map(len, columns[i])) for i in kept]
    for row in rows:
        cells = (row[i] for i in kept)
        texts = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield "  ".join(texts).rstrip()


def _measurement_row(m: Measurement) -> tuple[str, ...]:
    return (
        m.name,
        f"{number(m.value.median)} {m.unit}",
        f"{number(m.value.low)} - {number(m.value.high)}" if m.rounds > 1 else "",
        f"{m.work:,.0f} {m.work_unit}" if m.work else "",
        f"{m.work / m.ceiling:.0%}" if m.ceiling else "",
        f"{m.peak_memory_bytes / 2**20:,.0f} MiB" if m.peak_memory_bytes else "",
    )


def _comparison_row(c: Comparison) -> tuple[str, ...]:
    low, high = c.value.low, c.value.high
    return (
        f"{c.section}: {c.name}",
        c.against,
        f"{c.value.median:.2f}",
        f"{low:.2f} - {high:.2f}" if c.rounds > 1 else "",
        c.what,
    )


def _part_row(p: Part, total: float) -> tuple[str, ...]:
    rate = p.work / p.seconds / 1e9 if p.seconds and p.unit else 0.0
    return (
        p.name,
        f"{p.calls:,}",
        f"{p.seconds * 1e3:.3f}",
        f"{p.seconds / total:.1%}" if total else "",
        f"{rate:,.0f} {p.unit}" if rate else "",
        f"{rate / p.ceiling:.0%}" if rate and p.ceiling else "",
    )


def number(value: float) -> str:
    """Three digits at least: 0.123, 12.3, 12,345."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
