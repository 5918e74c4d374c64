"""A run on disk: `last`, from which it goes on to the byte, `best`, and the result, which is a copy of `best`.

`last` is a model file with the optimizer's moments under slim.opt.m. and slim.opt.v., and the numbers of the run
under "run" in its metadata. All random draws are functions of the seed and a number, so there is no generator to keep.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import numpy as np

from slim import checkpoint
from slim.atomic_file import replace_file
from slim.errors import ModelFileError, SaveError
from slim.input_file import open_input
from slim.model_file import OPTIMIZER_PREFIX
from slim.optim import AdamW
from slim.parameters import Parameters
from slim.trainer import TrainingState

_CHUNK_BYTES = 2**22


@dataclass(slots=True)
class Standing:
    """Where a run stands: numbers that JSON can hold."""

    training: TrainingState = field(default_factory=TrainingState)
    best_loss: float | None = None  # validation, in nats per token
    best_bits_per_byte: float | None = None
    best_step: int | None = None
    worse_evaluations: int = 0  # since the best one
    evaluated_step: int = 0
    sampled_step: int = -1
    rollbacks: int = 0  # since the best evaluation
    journal_sizes: dict[str, int] = field(default_factory=dict)
    unwritten: dict[str, str] = field(default_factory=dict)  # lines that belong behind those

    def as_record(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: object, total_steps: int, path: Path) -> Standing:
        """The numbers of a checkpoint, checked for their types; ModelFileError."""
        try:
            if not isinstance(record, Mapping):
                raise TypeError("there are none")
            fields = dict(record)
            fields["training"] = TrainingState(**fields["training"])
            standing = cls(**fields)
            for owner in (standing, standing.training):
                for one in dataclasses.fields(owner):
                    _check(one.name, getattr(owner, one.name), str(one.type))
            if standing.training.step > total_steps:
                raise ValueError(f"step {standing.training.step} of {total_steps}")
            return standing
        except (KeyError, TypeError, ValueError) as problem:
            raise ModelFileError(
                f"{path}: its numbers of the run make no sense: {problem}"
            ) from problem


def _check(name: str, value: object, kind: str) -> None:
    """TypeError or ValueError unless a value that was read is of the kind that its field has."""
    if kind == "TrainingState" or kind.startswith("dict"):
        if isinstance(value, bool | int | float | str | None):
            raise TypeError(f"{name} is {value!r:.40}")
        return
    if value is None and "None" in kind:
        return
    number = isinstance(value, int) or (kind.startswith("float") and isinstance(value, float))
    if isinstance(value, bool) or not number:
        raise TypeError(f"{name} is {value!r:.40}")
    if value < (-1 if name == "sampled_step" else 0):  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r:.40}")


def write_last(
    path: Path, optimizer: AdamW, metadata: Mapping[str, object], standing: Standing
) -> int:
    """Save everything that a run needs to go on; the size in bytes. SaveError."""
    return checkpoint.write(
        path, _arrays(optimizer), {**metadata, "run": standing.as_record()}, keep_previous=False
    )


def read_last(file: checkpoint.ModelFile, optimizer: AdamW, total_steps: int) -> Standing:
    """Fill the weights and moments of `optimizer` from an open checkpoint; the numbers of the run. ModelFileError."""
    path = Path(file.path)
    arrays = _arrays(optimizer)
    checkpoint.check_shapes(path, file.shapes, {name: a.shape for name, a in arrays.items()})
    standing = Standing.from_record(file.metadata.get("run"), total_steps, path)
    file.read_into(arrays)
    optimizer.step_count = standing.training.updates
    return standing


def write_best(
    path: Path, weights: Mapping[str, np.ndarray], metadata: Mapping[str, object]
) -> int:
    """Save weights as the best ones; the size in bytes. SaveError."""
    return checkpoint.write(path, dict(weights), metadata)


def read_best(path: Path, parameters: Parameters) -> None:
    """Fill the weights from the best ones. ModelFileError."""
    with checkpoint.ModelFile(path) as file:
        checkpoint.check_shapes(path, file.shapes, parameters.shapes)
        file.read_into(parameters.views)


def publish(best: Path, out: Path) -> int:
    """Make OUT a copy of the best weights; the size in bytes. SaveError."""
    file, _ = open_input(best, SaveError)
    with file:
        return replace_file(out, _chunks(file))


def recover_best(best: Path, out: Path, best_step: int | None) -> bool:
    """Make `best`, which is lost, a copy of OUT again; False when OUT does not hold the best weights. SaveError."""
    try:
        metadata, _ = checkpoint.read_metadata(out, verify=True)
    except ModelFileError:
        return False
    history = metadata.get("history")
    latest = history[-1] if isinstance(history, list) and history else None
    if not isinstance(latest, dict) or latest.get("best_step", -1) != best_step:
        return False
    publish(out, best)
    return True


def _chunks(file: FileIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _arrays(optimizer: AdamW) -> dict[str, np.ndarray]:
    """The arrays of `last` by their names in the file."""
    arrays = dict(optimizer.parameters.views)
    arrays |= {f"{OPTIMIZER_PREFIX}{name}": view for name, view in optimizer.moments().items()}
    return arrays


def history_entry(
    request: Mapping[str, object], standing: Standing, precision: str
) -> dict[str, object]:
    """What a model file remembers of the run that made it."""
    training = standing.training
    entry: dict[str, object] = {
        **request,
        "step": training.step,
        "tokens_seen": training.tokens_seen,
        "seconds": round(training.elapsed_seconds, 1),
        "precision": precision,
    }
    if training.smoothed_loss is not None and math.isfinite(training.smoothed_loss):
        entry["loss"] = training.smoothed_loss
    if standing.best_loss is not None:
        entry["best_step"] = standing.best_step
        entry["validation_loss"] = standing.best_loss
        entry["bits_per_byte"] = standing.best_bits_per_byte
    return entry
