"""The door between a path and a model that runs: weights, tokenizer and history in one file, or in another program's.

How a file is laid out is the business of checkpoint.py and of formats/; here is what it must hold to be a model.
Nothing loads Numba until `load_model` is called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from slim import checkpoint
from slim.config import ModelConfig, as_dict
from slim.errors import ConfigError, ModelFileError
from slim.events import Note, Progress
from slim.imported_tokenizer import MARK, ImportedTokenizer
from slim.memory import check_fits
from slim.tokenizer import Tokenizer

if TYPE_CHECKING:
    from slim.model import Model
    from slim.parameters import Parameters

OPTIMIZER_PREFIX = "slim.opt."


def load_model(
    path: str | Path, precision: str = "auto"
) -> tuple[Model, Tokenizer, dict[str, object]]:
    """The model, its tokenizer and the file's metadata; ModelFileError says what is wrong.

    Whatever `open_source` knows loads: checkpoints of runs, Hugging Face directories, llama2.c checkpoints.
    """
    steps = loading_model(path, precision)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def loading_model(
    path: str | Path, precision: str = "auto"
) -> Generator[Progress | Note, None, tuple[Model, Tokenizer, dict[str, object]]]:
    """`load_model` as a generator: progress while weights are read and kernels compiled, the result as its return value."""
    with open_source(path) as source:
        from slim.compiling import warm_up
        from slim.kernels.table import kernels_of
        from slim.model import Model, choose_precision

        yield from source.notes
        config, metadata = source.config, dict(source.metadata)
        precision = choose_precision(precision, config)
        parameters = yield from read_weights(source)
        tokenizer = source.tokenizer
    yield from warm_up(kernels_of(precision, training=False))
    return Model(config, parameters, precision), tokenizer, metadata


def read_weights(source: ModelSource) -> Generator[Progress, None, Parameters]:
    """The weights of a source, with progress where that takes long."""
    from slim.parameters import Parameters

    parameters = Parameters(source.config)
    yield from source.fill(parameters.views)
    return parameters


class ModelSource(Protocol):
    """A model that lies somewhere: looked at already, its weights not read yet."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def metadata(self) -> dict[str, object]: ...
    @property
    def notes(self) -> list[Note]: ...

    def fill(self, views: Mapping[str, np.ndarray]) -> Generator[Progress, None, None]:
        """Read every weight into the view of its name."""
        ...


class NativeSource:
    """A model file of SLiM, a checkpoint of a run too: its optimizer state is left aside."""

    def __init__(self, file: checkpoint.ModelFile) -> None:
        from slim.parameters import parameter_shapes

        self._file = file
        self.metadata = file.metadata
        self.notes: list[Note] = []
        self.config = model_config(file.metadata, file.path)
        self.tokenizer = model_tokenizer(file.metadata, self.config, file.path)
        expected = parameter_shapes(self.config)
        checkpoint.check_shapes(file.path, file.shapes, expected, OPTIMIZER_PREFIX)

    def fill(self, views: Mapping[str, np.ndarray]) -> Generator[Progress, None, None]:
        """Read every weight into its view."""
        self._file.read_into(views)
        yield from ()


@contextlib.contextmanager
def open_source(path: str | Path, tokenizer: str | Path | None = None) -> Iterator[ModelSource]:
    """What a path leads to: a model file, a Hugging Face directory, or a llama2.c checkpoint with its tokenizer.bin.

    tokenizer   of a llama2.c checkpoint, when it is not the tokenizer.bin beside it
    """
    from slim.formats.hf_source import CONFIG, HuggingFaceSource
    from slim.formats.llama2c_source import Llama2cSource, looks_like_llama2c

    folder = Path(path)
    if os.path.isdir(folder):
        if not os.path.exists(folder / CONFIG):
            raise ModelFileError(
                f"{path}: is a folder without a {CONFIG}: neither a model file nor a Hugging Face directory"
            )
        source: ModelSource = HuggingFaceSource(folder)
    elif tokenizer is not None or looks_like_llama2c(path):
        source = Llama2cSource(path, tokenizer)
    else:
        with checkpoint.ModelFile(path) as file:
            yield NativeSource(file)
        return
    check_fits(
        4 * source.config.n_parameters,
        source.config.n_parameters,
        "it does not fit into this computer",
    )
    yield source


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
        imported = text.startswith(f'{{"kind": "{MARK}"')
        tokenizer = (ImportedTokenizer if imported else Tokenizer).from_json(text)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    if tokenizer.vocab_size != config.vocab_size:
        raise ModelFileError(
            f"{path}: its tokenizer has {tokenizer.vocab_size:,} tokens, "
            f"but the model was made for {config.vocab_size:,}"
        )
    return tokenizer
