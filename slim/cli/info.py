"""`slim info MODEL`: what a model file says about itself, from its header alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from slim.cli.lines import write_rows

# Of what a history records, in the order in which a person asks; the rest follows.
_FIRST = {
    name: place
    for place, name in enumerate(
        ("command", "data", "steps", "seconds", "bits_per_byte", "validation_loss", "best_step")
    )
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "info",
        help="what a model file holds",
        description="Sizes, training history and confidence calibration of MODEL.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the description of a model file."""
    record = describe(args.model)
    if args.json:
        sys.stdout.write(json.dumps(record, indent=2, allow_nan=False) + "\n")
        return 0
    write_rows(_rows(record))
    return 0


def describe(path: str | Path) -> dict[str, object]:
    """What the header of a model file says, or the configuration of a model of another program, as one JSON object."""
    from slim.config import as_dict
    from slim.model_file import open_source

    with open_source(path) as source:
        metadata, config = source.metadata, source.config
    size = Path(path).stat().st_size
    if Path(path).is_dir():
        size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    return {
        "file": str(path),
        "size_bytes": size,
        "format": metadata.get("format"),
        "parameters": config.n_parameters,
        "model": as_dict(config),
        "history": metadata.get("history") or [],
        "calibration": metadata.get("calibration"),
    }


def _rows(record: dict[str, object]) -> Iterator[tuple[str, str]]:
    """The description as lines for a person: a name and a text each."""
    from slim.wording import counted, mega

    model, size = record["model"], record["size_bytes"]
    assert isinstance(model, dict) and isinstance(size, int)
    yield "file", f"{record['file']}, {mega(size)}"
    yield "parameters", f"{record['parameters']:,}"
    layers = counted(model["n_layers"], "layer")
    heads = f"{model['n_heads']} heads"
    if model["n_kv_heads"] != model["n_heads"]:
        heads += f" ({model['n_kv_heads']} for keys and values)"
    yield (
        "sizes",
        f"{layers}, dim {model['dim']}, {heads}, hidden {model['hidden_dim']:,}, "
        f"{'tied' if model['tie_embeddings'] else 'untied'} output head",
    )
    yield "context", f"{model['max_seq_len']:,} tokens"
    yield "vocabulary", f"{model['vocab_size']:,} tokens"
    history = record["history"]
    assert isinstance(history, list)
    for number, entry in enumerate(history, start=1):
        yield f"run {number}", _in_one_line(entry)
    if not history:
        yield "runs", "none recorded"
    yield from calibration_rows(record["calibration"])


def _in_one_line(entry: object) -> str:
    """A record of the history as `name value, name value`, numbers readable."""
    from slim.wording import duration

    if not isinstance(entry, dict):
        return str(entry)
    parts = []
    for name in sorted(entry, key=lambda name: (_FIRST.get(name, len(_FIRST)), name)):
        value = entry[name]
        if name.endswith("sha256"):
            continue  # for programs: --json tells it
        if name == "seconds" and isinstance(value, (int, float)):
            name, text = "time", duration(value)
        elif isinstance(value, float):
            text = f"{value:.4g}"
        elif isinstance(value, int) and not isinstance(value, bool):
            text = f"{value:,}"
        elif isinstance(value, str):
            text = value if len(value) <= 40 else value[:12] + "…"
        else:
            continue
        parts.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(parts)


def calibration_rows(record: object) -> Iterator[tuple[str, str]]:
    """A calibration as lines for a person."""
    from slim.calibration import ENOUGH_DOCUMENTS, ENOUGH_TOKENS, NEVER, Calibration

    calibration = Calibration.from_record(record)
    if record is None:
        yield "confidence", "not calibrated: --stop-confidence auto stops loops only"
    elif calibration is None:
        yield "confidence", "calibrated in a way that this version does not know"
    if calibration is None:
        return
    own = f"{calibration.samples:,} of its own texts ({calibration.tokens:,} tokens)"
    if calibration.threshold > NEVER:
        yield (
            "confidence",
            f"--stop-confidence auto is {calibration.threshold:.2f}, below which {calibration.share:.0%} of {own} sank",
        )
        others = ", ".join(f"{float(s):.0%} {t:.2f}" for s, t in calibration.thresholds.items())
        yield "other shares", others
    else:
        yield (
            "confidence",
            f"--stop-confidence auto stops loops only: none of {own} was long enough to judge",
        )
    held_out = calibration.held_out
    if held_out is None:
        yield "held-out text", "none: no temperature was fitted, and shading is absolute"
        return
    too_little = (
        ""
        if held_out.enough
        else f"; too little to mean much, which takes {ENOUGH_DOCUMENTS} documents and {ENOUGH_TOKENS:,} tokens"
    )
    yield (
        "held-out text",
        f"{held_out.documents:,} documents, {held_out.tokens:,} tokens; auto would stop "
        f"{held_out.stopped:.0%} of them{too_little}",
    )
    yield (
        "p",
        f"calibration error {held_out.ece:.3f}, at temperature {held_out.temperature:.3f} "
        f"{held_out.calibrated_ece:.3f} (first choice, {len(held_out.bins)} bins, "
        f"{held_out.judged_tokens:,} tokens)",
    )
    bins = calibration.relative_bins
    assert bins is not None
    yield "usual p", " / ".join(f"{edge:.2g}" for edge in bins.edges) + " (relative shading)"
