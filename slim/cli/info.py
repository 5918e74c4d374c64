"""`slim info MODEL`: what a model file says about itself, from its header alone."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

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
    from slim.safe_text import safe_text

    rows = list(_rows(record))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        sys.stdout.write(safe_text(f"{name:<{width}}  {text}") + "\n")
    return 0


def describe(path: str | Path) -> dict[str, object]:
    """What the header of a model file says, as one JSON object."""
    from slim.checkpoint import read_metadata
    from slim.config import as_dict
    from slim.model_file import model_config

    metadata, shapes = read_metadata(path)
    config = model_config(metadata, path)
    weights = sum(
        math.prod(shape) for name, shape in shapes.items() if not name.startswith("slim.opt.")
    )
    return {
        "file": str(path),
        "size_bytes": Path(path).stat().st_size,
        "format": metadata.get("format"),
        "parameters": weights,
        "model": as_dict(config),
        "history": metadata.get("history") or [],
        "calibration": metadata.get("calibration"),
    }


def _rows(record: dict[str, object]) -> Iterator[tuple[str, str]]:
    """The description as lines for a person: a name and a text each."""
    from slim.wording import mega

    model, size = record["model"], record["size_bytes"]
    assert isinstance(model, dict) and isinstance(size, int)
    yield "file", f"{record['file']}, {mega(size)}"
    yield "parameters", f"{record['parameters']:,}"
    layers = "1 layer" if model["n_layers"] == 1 else f"{model['n_layers']} layers"
    heads = f"{model['n_heads']} heads"
    if model["n_kv_heads"] != model["n_heads"]:
        heads += f" ({model['n_kv_heads']} for keys and values)"
    yield (
        "sizes",
        f"{layers}, dim {model['dim']}, {heads}, hidden {model['hidden_dim']}, "
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
    yield "confidence", _calibration(record["calibration"])


def _in_one_line(entry: object) -> str:
    """A record of the history as `name value, name value`, numbers readable."""
    if not isinstance(entry, dict):
        return str(entry)
    parts = []
    for name in sorted(entry, key=lambda name: (_FIRST.get(name, len(_FIRST)), name)):
        value = entry[name]
        if isinstance(value, float):
            text = f"{value:.4g}"
        elif isinstance(value, int) and not isinstance(value, bool):
            text = f"{value:,}"
        elif isinstance(value, str):
            text = value if len(value) <= 40 else value[:12] + "…"
        else:
            continue
        parts.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(parts)


def _calibration(record: object) -> str:
    if not isinstance(record, dict):
        return "not calibrated: --stop-confidence auto stops loops only"
    share, threshold = record.get("share"), record.get("threshold")
    if not isinstance(share, float) or not isinstance(threshold, float):
        return "calibrated in a way that this version does not know"
    return (
        f"--stop-confidence auto is {threshold:.2f}: {share:.0%} of {record.get('samples')} of its "
        f"own texts ({record.get('tokens')} tokens) sank below that"
    )
