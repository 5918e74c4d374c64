"""`slim doctor`: the machine as SLiM sees it, and whether everything works here."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "doctor",
        help="CPU, threads, kernel cache, versions",
        description="What SLiM found on this machine, and a small sum as proof that it computes here.",
    )
    parser.add_argument("--warmup", action="store_true", help="compile all kernels now")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, compute, print."""
    from slim.cli.stage import show_stages
    from slim.compute import stream
    from slim.safe_text import safe_text

    (record,) = show_stages(stream(_examine(args.warmup)))
    assert isinstance(record, dict)
    if args.json:
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
    else:
        width = max(map(len, record))
        for name, value in record.items():
            sys.stdout.write(safe_text(f"{name.replace('_', ' '):<{width}}  {value}") + "\n")
    return 0


def _examine(warm: bool) -> Iterator[object]:
    import llvmlite
    import numba
    import numpy as np
    from llvmlite import binding

    from slim import __version__
    from slim.compute import set_threads, usable_cores, warm_up
    from slim.kernels import CACHE_FOLDER
    from slim.kernels.table import kernels_of
    from slim.kernels.tile import HAS_BF16, LANES, MR, NR
    from slim.memory import available_bytes

    precisions = ("fp32", "bf16") if HAS_BF16 else ("fp32",)
    if warm:
        for precision in precisions:
            yield from warm_up(kernels_of(precision, training=True))
        yield from _tokenizer_kernels()
    threads = set_threads(0)
    proof = _proof(precisions[-1])
    features = binding.get_host_cpu_features()
    names = ("avx2", "fma", "avx512f", "avx512bf16", "avx512vnni", "neon", "bf16")
    files = sum(1 for _ in CACHE_FOLDER.rglob("*.nbc")) if CACHE_FOLDER is not None else 0
    available = available_bytes()
    yield {
        "slim": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "system": platform.platform(),
        "cpu": binding.get_host_cpu_name(),
        "features": " ".join(name for name in names if features.get(name)) or "none that matter",
        "cores": usable_cores(),
        "threads": threads,
        "threading_layer": numba.threading_layer(),
        "memory_available": f"{available / 1e9:.1f} GB" if available is not None else "unknown",
        "kernels": f"{LANES} lanes, tiles of {MR} x {NR}",
        "precision": f"{precisions[-1]} (auto)",
        "kernel_cache": f"{CACHE_FOLDER}, {files} kernels" if CACHE_FOLDER is not None else "none: nowhere to write",
        "check": proof,
    }


def _tokenizer_kernels() -> Iterator[object]:
    """Build a vocabulary from a few words and use it: whatever that needs is compiled."""
    from slim.events import Progress
    from slim.tokenizer import train_tokenizer

    yield Progress("compiling kernels", 0, 1)
    train_tokenizer([b"low lower lowest"] * 9, 270).encode("slow")
    yield Progress("compiling kernels", 1, 1)


def _proof(precision: str) -> str:
    """A tiny model learns one batch by heart, or something is wrong with the arithmetic here."""
    import numpy as np

    from slim.config import ModelConfig, TrainConfig
    from slim.model import Model
    from slim.optim import AdamW
    from slim.parameters import Parameters

    config = ModelConfig(vocab_size=64, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_seq_len=16)
    parameters = Parameters(config).initialise(0)
    model, gradients = Model(config, parameters, precision), Parameters(config)
    optimizer = AdamW(parameters, TrainConfig())
    ids = (np.arange(34, dtype=np.int32).reshape(2, 17) * 7) % 64
    workspace = model.workspace(2, 16, train=True)
    losses = []
    for _ in range(60):
        losses.append(model.loss_and_gradients(workspace, ids[:, :-1], ids[:, 1:], gradients))
        optimizer.step(gradients, 1e-2, optimizer.gradient_norm(gradients))
        model.pack()
    right = abs(losses[0] - np.log(64)) < 0.1 and losses[-1] < 0.1
    outcome = "as it should be" if right else "WRONG: please report this, with everything above"
    return f"a tiny model's loss went from {losses[0]:.2f} to {losses[-1]:.3f}, {outcome}"
