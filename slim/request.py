"""What a training command asks for, before anything is read: plain data, so that the command line stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from slim.settings import Settings

COMMANDS = ("pretrain", "finetune", "train")


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


@dataclass(slots=True)
class RunControl:
    """How a shell talks to a run while it goes: the run looks here between two steps."""

    stop: bool = False  # finish the step, save, end
    save_now: bool = False  # save, go on; set back when it is done
    model: object = None  # the live slim.model.Model: for the engine thread only
    tokenizer: object = None

    def stop_requested(self) -> bool:
        return self.stop
