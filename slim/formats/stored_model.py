"""What an export starts from: a native model file, whole in memory, without anything that could run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slim import checkpoint
from slim.checkpoint import count_non_finite
from slim.config import ModelConfig
from slim.errors import ModelFileError
from slim.memory import check_fits
from slim.model_file import OPTIMIZER_PREFIX, model_config, model_tokenizer
from slim.parameters import Parameters, parameter_shapes
from slim.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """Sizes, vocabulary and weights of a model file."""

    config: ModelConfig
    tokenizer: Tokenizer
    parameters: Parameters


def read_stored_model(path: str | Path) -> StoredModel:
    """The model in a file of SLiM. ModelFileError when it is damaged or holds numbers that are none."""
    with checkpoint.ModelFile(path) as file:
        config = model_config(file.metadata, path)
        tokenizer = model_tokenizer(file.metadata, config, path)
        checkpoint.check_shapes(path, file.shapes, parameter_shapes(config), OPTIMIZER_PREFIX)
        check_fits(4 * config.n_parameters, config.n_parameters)
        parameters = Parameters(config)
        file.read_into(parameters.views)
    for name, weight in parameters:
        if count := count_non_finite(weight):
            raise ModelFileError(
                f"{path}: not exported: {count:,} of the {weight.size:,} numbers in {name} are NaN or infinite"
            )
    return StoredModel(config, tokenizer, parameters)
