"""SLiM from Python: `slim.Model` and `slim.train`, which a notebook or a program uses.

Both are generators of the events in `slim.events`, as everything here is. All arithmetic happens in the engine thread, so
any thread may call them; whoever stops reading ends the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slim.chat import Chat, ChatEvent, ContextUse, Turn
from slim.compute import call, stream
from slim.config import GenerateConfig, ModelConfig
from slim.conversation import knows_roles
from slim.errors import UsageError
from slim.events import Event, GenerateFinished, Note, TokenGenerated
from slim.generate import generate
from slim.model import Model as EngineModel
from slim.model_file import load_model
from slim.request import Request, RunControl
from slim.run import start
from slim.settings import Settings, known_key
from slim.tokenizer import Tokenizer


class Model:
    """A trained model: it continues texts and talks.

    model = slim.Model.load("base.bin")
    for event in model.generate("Once upon a time", max_tokens=50): ...
    """

    def __init__(
        self, path: Path, engine: EngineModel, tokenizer: Tokenizer, metadata: dict[str, object]
    ) -> None:
        """What `load` puts together."""
        self.path = path
        self.tokenizer = tokenizer
        self.metadata = metadata  # history, calibration ... of the model file
        self._engine = engine

    @classmethod
    def load(cls, path: str | Path, weights: str = "auto") -> Model:
        """Read a model file. The first time on a machine, kernels are compiled for half a minute.

        weights   auto, fp32, bf16 or int8: how exactly they are read; int8 is the fastest
        Raises ModelFileError for a file that is missing, damaged or of another kind.
        """
        engine, tokenizer, metadata = call(lambda: load_model(path, weights))
        return cls(Path(path), engine, tokenizer, metadata)

    @property
    def config(self) -> ModelConfig:
        """Its sizes."""
        return self._engine.config

    def generate(
        self, prompt: str | bytes = "", *, n_alternatives: int = 0, **settings: Any
    ) -> Iterator[TokenGenerated | GenerateFinished | Note]:
        """Continue a prompt: a TokenGenerated per token, with its probability, and a GenerateFinished with the text.

        settings         fields of GenerateConfig: max_tokens, temperature, top_p, seed, stop, stop_confidence ...
        n_alternatives   how many of the most probable tokens each event names
        """
        config = GenerateConfig(**settings)
        calibration = _calibration(self.metadata)
        return stream(
            generate(
                *(self._engine, self.tokenizer, prompt, config, calibration),
                n_alternatives=n_alternatives,
            )
        )

    def write(self, prompt: str | bytes = "", **settings: Any) -> str:
        """The text with which the model continues a prompt, all at once."""
        return _text(self.generate(prompt, **settings))

    def chat(self, **settings: Any) -> Conversation:
        """A conversation with it. settings: fields of GenerateConfig"""
        return Conversation(self, GenerateConfig(**settings))

    def __repr__(self) -> str:
        return f"<slim.Model {self.path.name}: {self.config.n_parameters:,} parameters>"


class Conversation:
    """A chat with a model that remembers what was said."""

    def __init__(self, model: Model, config: GenerateConfig) -> None:
        self._chat = Chat(
            model._engine, model.tokenizer, config, _calibration(model.metadata),
            roles=knows_roles(model.metadata),
        )  # fmt: skip

    def reply(self, text: str) -> Iterator[ChatEvent]:
        """Say something; the answer as events. One that is not read to its end is kept as far as it came."""
        return stream(self._chat.reply(text))

    def say(self, text: str) -> str:
        """Say something; the answer's text."""
        return _text(self.reply(text))

    def retry(self) -> Iterator[ChatEvent]:
        """Another answer to what was said last."""
        return stream(self._chat.retry())

    def edit(self, text: str) -> Iterator[ChatEvent]:
        """Have said `text` instead of what was said last; the answer to that."""
        return stream(self._chat.edit(text))

    def undo(self) -> tuple[Turn, ...]:
        """Take back what was said last, and the answer; the turns that were taken."""
        return self._chat.undo()

    def clear(self) -> None:
        """Begin anew."""
        self._chat.clear()

    def change(self, **settings: Any) -> None:
        """Change how the next answers are drawn: fields of GenerateConfig."""
        self._chat.config = dataclasses.replace(self._chat.config, **settings)

    def save(self, path: str | Path) -> int:
        """Write the transcript to a file; its size in bytes."""
        return self._chat.save(path)

    def load(self, path: str | Path) -> None:
        """Go on with the conversation of a transcript."""
        call(lambda: self._chat.load(path))

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Everything that was said."""
        return self._chat.turns

    @property
    def context_use(self) -> ContextUse:
        """How much of the context it takes."""
        return self._chat.context_use


def train(
    data: str | Path,
    out: str | Path,
    *,
    epochs: float = 1.0,
    base: str | Path | None = None,
    command: str | None = None,
    max_bytes: int | None = None,
    force: bool = False,
    resume: bool = False,
    control: RunControl | None = None,
    **settings: Any,
) -> Iterator[Event]:
    """Train on a text, as the commands do; events as it goes, a TrainFinished last. `out` then holds the best model.

    base       a model to start from: finetuning
    command    without a base: "train", which sizes the model to the text and stops when the held-out text gains no
               more (the default), or "pretrain"
    force      replace what is there        resume   go on with what is there, if anything is
    control    `control.stop = True` ends the run after its present step, saved. Whoever stops reading instead ends it
               with what was saved before; `resume=True` goes on from there
    settings   preset, minutes, max_steps, learning_rate, dim ...: those of `slim pretrain --set`
    Raises UsageError, ConfigError, DataError, ModelFileError, SaveError, DivergedError.
    """
    if command is None:
        command = "finetune" if base is not None else "train"
    if command not in ("pretrain", "finetune", "train") or (command == "finetune") != (
        base is not None
    ):
        raise UsageError(
            f"command must be train or pretrain without a base and finetune with one, but is {command!r} "
            f"with base {None if base is None else str(base)!r}"
        )
    request = Request(
        command=command,
        data=str(data),
        epochs=epochs,
        out=str(out),
        base=None if base is None else str(base),
        max_bytes=max_bytes,
        settings=Settings({known_key(key): value for key, value in settings.items()}),
        force=force,
        resume=resume,
    )
    return stream(start(request, control))


def _calibration(metadata: dict[str, object]) -> dict[str, object] | None:
    record = metadata.get("calibration")
    return record if isinstance(record, dict) else None


def _text(events: Iterator[TokenGenerated | GenerateFinished | Note]) -> str:
    finished = list(events)[-1]
    assert isinstance(finished, GenerateFinished)
    return finished.text
