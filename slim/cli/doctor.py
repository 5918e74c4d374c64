"""`slim doctor`: the machine as SLiM sees it, and whether everything works here."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from slim import __version__
from slim.cli.lines import write_rows
from slim.events import Progress

LIBRARIES = ("numpy", "numba", "llvmlite", "rich", "textual")
FEATURES = ("avx2", "fma", "avx512f", "avx512bf16", "avx512vnni", "amx-bf16", "neon", "bf16")
PROOF_STEPS = 60


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "doctor",
        help="CPU, threads, kernel cache, versions",
        description="What SLiM finds on this machine, and a small sum as proof that it computes here. "
        "The exit code is 1 when that comes out wrong.",
    )
    parser.add_argument("--warmup", action="store_true", help="compile all kernels now")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, compute, print."""
    from slim.cli.stage import show_stages
    from slim.compute import stream

    (record,) = show_stages(stream(_examine(args.warmup)))
    assert isinstance(record, dict)
    if args.json:
        sys.stdout.write(json.dumps(record, indent=2, allow_nan=False) + "\n")
    else:
        write_rows(_rows(record))
    check = record["check"]
    assert isinstance(check, dict)
    return 1 if check["right"] is False else 0


def _examine(warm: bool) -> Iterator[Progress | dict[str, object]]:
    """Everything there is to say, in the engine thread."""
    import numba
    import numpy as np
    from llvmlite import binding

    from slim.bench.machine import describe_machine
    from slim.compiling import is_cached, warm_up
    from slim.compute import set_threads, usable_cores
    from slim.kernels import CACHE_FOLDER
    from slim.kernels.adamw import sum_of_squares
    from slim.kernels.amx import HAS_AMX
    from slim.kernels.table import kernels_of
    from slim.kernels.tile import BF16_IS_FASTER, HAS_BF16, LANES, MR, NR
    from slim.memory import available_bytes
    from slim.tokenizer import compile_tokenizer

    precisions = ("fp32", "bf16") if HAS_BF16 else ("fp32",)
    kernels = [
        kernel for precision in precisions for kernel in kernels_of(precision, training=True)
    ]
    threads = set_threads(0)
    if warm:
        yield from warm_up(kernels)
        yield from compile_tokenizer()
    # The layer is known once a parallel kernel has run.
    sum_of_squares(np.empty(1, np.float32), np.ones(1, np.float32))
    check: dict[str, object] = {"right": None}
    if warm or all(is_cached(*kernel) for kernel in kernels):
        check = _proof(precisions[-1])
    features = binding.get_host_cpu_features()
    yield {
        "slim": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "system": platform.platform(),
        "processor": describe_machine().processor,
        "cpu": binding.get_host_cpu_name(),
        "features": [name for name in FEATURES if features.get(name)],
        "cores": usable_cores(),
        "threads": threads,
        "threading_layer": numba.threading_layer(),
        "memory_available_bytes": available_bytes(),
        "lanes": LANES,
        "tile": [MR, NR],
        "amx": HAS_AMX,
        "precision": "bf16" if BF16_IS_FASTER else "fp32",
        "kernel_cache": cache_state(CACHE_FOLDER),
        "check": check,
    }


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def cache_state(folder: Path | None) -> dict[str, object] | None:
    """The folder of compiled kernels, what is in it, and what other versions left beside it."""
    if folder is None:
        return None
    machine_code = [path for path in folder.rglob("*.nbc") if path.is_file()]
    others = [path for path in folder.parent.glob("*kernels-*") if path != folder and path.is_dir()]
    return {
        "folder": str(folder),
        "kernels": len(machine_code),
        "bytes": sum(path.stat().st_size for path in machine_code),
        "folders_of_other_versions": len(others),
        "bytes_of_other_versions": sum(
            path.stat().st_size for other in others for path in other.rglob("*.nbc")
        ),
    }


def _rows(record: dict[str, object]) -> Iterator[tuple[str, str]]:
    """The record for a person: a name and a text each."""
    from slim.wording import mega

    yield "slim", str(record["slim"])
    libraries = ", ".join(f"{name} {record[name]}" for name in LIBRARIES)
    yield "python", f"{record['python']}; {libraries}"
    yield "system", str(record["system"])
    features = record["features"]
    assert isinstance(features, list)
    yield "processor", f"{record['processor']} ({record['cpu']})"
    yield "features", " ".join(features) or "none that matter"
    yield (
        "threads",
        f"{record['threads']} on {record['cores']} cores, threading layer {record['threading_layer']}",
    )
    memory = record["memory_available_bytes"]
    yield "memory", f"{mega(memory)} available" if isinstance(memory, int) else "nobody tells"
    tile, amx = record["tile"], " and AMX" if record["amx"] else ""
    assert isinstance(tile, list)
    yield (
        "kernels",
        f"{record['lanes']} lanes, tiles of {tile[0]} x {tile[1]}{amx}, precision {record['precision']} by default",
    )
    yield "kernel cache", _cache_words(record["kernel_cache"])
    yield "check", _check_words(record["check"])


def _cache_words(state: object) -> str:
    from slim.wording import counted, mega

    if not isinstance(state, dict):
        return (
            "none: no folder can be written by you alone, so kernels are compiled anew each time "
            "(SLIM_CACHE_DIR names a folder)"
        )
    words = f"{state['folder']}: {counted(state['kernels'], 'kernel')}, {mega(state['bytes'])}"
    if not state["kernels"]:
        words = f"{state['folder']}: empty, the first run will compile for half a minute"
    if n := state["folders_of_other_versions"]:
        words += (
            f"; {counted(n, 'folder')} beside it from other versions, {mega(state['bytes_of_other_versions'])}, "
            "can be deleted"
        )
    return words


def _check_words(check: object) -> str:
    assert isinstance(check, dict)
    if check["right"] is None:
        return "not made, because kernels are not compiled yet: slim doctor --warmup"
    outcome = (
        "as it should" if check["right"] else "WRONG: please report this, with everything above"
    )
    return (
        f"learning {PROOF_STEPS} times from one batch took the loss from {check['first_loss']:.2f} "
        f"to {check['last_loss']:.3f}, {outcome}"
    )


def _proof(precision: str) -> dict[str, object]:
    """A tiny model learns one batch by heart, or something is wrong with the arithmetic here."""
    import math

    import numpy as np

    from slim.config import ModelConfig, TrainConfig
    from slim.model import Model
    from slim.optim import AdamW
    from slim.parameters import Parameters

    config = ModelConfig(
        vocab_size=64, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_seq_len=16
    )
    parameters = Parameters(config).initialise(0)
    model, gradients = Model(config, parameters, precision), Parameters(config)
    optimizer = AdamW(parameters, TrainConfig())
    ids = (np.arange(34, dtype=np.int32).reshape(2, 17) * 7) % 64
    workspace = model.workspace(2, 16, train=True)
    losses = []
    for _ in range(PROOF_STEPS):
        losses.append(model.loss_and_gradients(workspace, ids[:, :-1], ids[:, 1:], gradients))
        optimizer.step(gradients, 1e-2, optimizer.gradient_norm(gradients))
        model.pack()
    first, last = losses[0], losses[-1]
    right = abs(first - math.log(64)) < 0.1 and last < 0.1
    finite = math.isfinite(first) and math.isfinite(last)
    return {
        "right": right,
        "first_loss": first if finite else None,
        "last_loss": last if finite else None,
    }
