"""The door between a path and a model that runs: weights, tokenizer and history in one file.

How the file is laid out is checkpoint.py's business; here is what it must hold to be a model.
Nothing loads Numba until `load_model` is called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from slim import checkpoint
from slim.config import ModelConfig, as_dict
from slim.errors import ConfigError, ModelFileError
from slim.events import Progress
from slim.tokenizer import Tokenizer

if TYPE_CHECKING:
    from slim.model import Model
    from slim.parameters import Parameters

OPTIMIZER_PREFIX = "slim.opt."


def load_model(
    path: str | Path, precision: str = "auto"
) -> tuple[Model, Tokenizer, dict[str, object]]:
    """The model, its tokenizer and the file's metadata; ModelFileError says what is wrong.

    A checkpoint of a run loads too: its optimizer state is left aside.
    """
    steps = loading_model(path, precision)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def loading_model(
    path: str | Path, precision: str = "auto"
) -> Generator[Progress, None, tuple[Model, Tokenizer, dict[str, object]]]:
    """`load_model` as a generator: progress while kernels are compiled, the result as its return value."""
    with checkpoint.ModelFile(path) as file:
        config = model_config(file.metadata, path)
        tokenizer = model_tokenizer(file.metadata, config, path)

        from slim.compute import warm_up
        from slim.kernels.table import kernels_of
        from slim.model import Model, choose_precision
        from slim.parameters import Parameters, parameter_shapes

        checkpoint.check_shapes(path, file.shapes, parameter_shapes(config), OPTIMIZER_PREFIX)
        precision = choose_precision(precision, config)
        parameters = Parameters(config)
        file.read_into(parameters.views)
        yield from warm_up(kernels_of(precision, training=False))
        return Model(config, parameters, precision), tokenizer, file.metadata


def save_model(path: str | Path, parameters: Parameters, metadata: dict[str, object]) -> int:
    """Write a model atomically, with the metadata of `model_metadata`; its size in bytes."""
    return checkpoint.write(path, dict(parameters.views), metadata)


def model_metadata(
    config: ModelConfig,
    tokenizer: Tokenizer,
    history: list[dict[str, object]],
    calibration: dict[str, object] | None = None,
) -> dict[str, object]:
    """What a model file says about its weights; `history` has one record per training run."""
    return {
        "model": as_dict(config),
        "tokenizer": tokenizer.to_json(),
        "history": history,
        "calibration": calibration,
    }


def model_config(metadata: dict[str, object], path: str | Path) -> ModelConfig:
    """The sizes that the metadata states, checked like anybody's."""
    record = metadata.get("model")
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    if not isinstance(record, dict) or set(record) != fields:
        raise ModelFileError(f"{path}: its model configuration is missing or not of this version")
    try:
        return ModelConfig(**record)
    except (ConfigError, TypeError) as error:
        raise ModelFileError(f"{path}: its model configuration makes no sense: {error}") from error


def model_tokenizer(
    metadata: dict[str, object], config: ModelConfig, path: str | Path
) -> Tokenizer:
    """The tokenizer that the metadata holds, which must be as large as the model's vocabulary."""
    text = metadata.get("tokenizer")
    if not isinstance(text, str):
        raise ModelFileError(f"{path}: holds no tokenizer")
    try:
        tokenizer = Tokenizer.from_json(text)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    if tokenizer.vocab_size != config.vocab_size:
        raise ModelFileError(
            f"{path}: its tokenizer has {tokenizer.vocab_size:,} tokens, "
            f"but the model was made for {config.vocab_size:,}"
        )
    return tokenizer
