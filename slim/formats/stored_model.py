"""What an export starts from: a model of SLiM or of another program, whole in memory, without anything that could run it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from slim.checkpoint import count_non_finite
from slim.config import ModelConfig
from slim.errors import ModelFileError
from slim.events import Note, Progress
from slim.memory import check_fits
from slim.model_file import open_source, read_weights
from slim.parameters import Parameters
from slim.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """Sizes, vocabulary and weights of a model."""

    config: ModelConfig
    tokenizer: Tokenizer
    parameters: Parameters
    knows_roles: bool = False  # whether it was trained on conversations with role tokens


def read_stored_model(
    path: str | Path,
) -> Generator[Progress | Note, None, StoredModel]:
    """The model at a path, as a generator: progress as it goes, the model as its return value.

    ModelFileError when it is damaged or holds numbers that are none.
    """
    with open_source(path) as source:
        yield from source.notes
        check_fits(4 * source.config.n_parameters, source.config.n_parameters)
        parameters = yield from read_weights(source)
        knows_roles = any(
            isinstance(entry, dict) and entry.get("chat") is True
            for entry in _listed(source.metadata.get("history"))
        )
    for name, weight in parameters:
        if count := count_non_finite(weight):
            raise ModelFileError(
                f"{path}: not exported: {count:,} of the {weight.size:,} numbers in {name} are NaN or infinite"
            )
    return StoredModel(source.config, source.tokenizer, parameters, knows_roles)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
