"""A model of another program as a file of SLiM: `slim import`."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from slim.atomic_file import check_writable
from slim.config import ModelConfig
from slim.errors import ModelFileError
from slim.events import Note, Progress
from slim.model_file import NativeSource, model_metadata, open_source, read_weights, save_model


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written."""

    config: ModelConfig
    size_bytes: int


def import_model(
    path: str | Path, out: str | Path, tokenizer: str | Path | None = None
) -> Generator[Progress | Note | Imported, None, None]:
    """Read the model at `path` and write it to `out`, with progress, and last what was written.

    tokenizer   of a llama2.c checkpoint, when it is not the tokenizer.bin beside it
    Memory: the weights as float32, and what the tokenizer takes. ModelFileError for what cannot be read or run.
    """
    with open_source(path, tokenizer) as source:
        if isinstance(source, NativeSource):
            raise ModelFileError(f"{path}: is a model file of SLiM already")
        yield from source.notes
        check_writable(out)
        parameters = yield from read_weights(source)
        history = source.metadata["history"]
    assert isinstance(history, list)
    metadata = model_metadata(source.config, source.tokenizer, history)
    yield Progress("saving", 0, 1)
    size = save_model(out, parameters, metadata)
    yield Progress("saving", 1, 1)
    yield Imported(source.config, size)
