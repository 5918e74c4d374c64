"""What a training command asks for, and how a shell talks to a run that goes: plain data, so that both stay quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from slim.settings import Settings


@dataclass(frozen=True, slots=True)
class Request:
    """A run to be started: `command` decides what is made of the data."""

    command: str  # pretrain | finetune | train
    data: str
    epochs: float
    out: str
    base: str | None = None  # the model that `finetune` starts from
    max_bytes: int | None = None
    settings: Settings = field(default_factory=Settings)
    force: bool = False  # replace what is there
    resume: bool = False  # go on with what is there, if anything is


@dataclass(slots=True)
class RunControl:
    """A run's ears: it looks here between two events. Any thread may set the first two.

    `model` (slim.model.Model) and `tokenizer` are those of the run while it trains, None before and after. Between two
    events the weights are whole and packed, so a job of the engine thread may generate with them at any time.
    """

    stop: bool = False  # finish the step, save, end with TrainFinished("interrupted")
    save_now: bool = False  # save and go on; set back once it is done
    model: object = None
    tokenizer: object = None
