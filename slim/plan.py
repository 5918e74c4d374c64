"""What is decided once for a whole run and written down, so that going on with it needs no decision: settings.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slim.config import ModelConfig, TrainConfig, as_dict
from slim.errors import ConfigError, DataError, UsageError
from slim.request import Request
from slim.settings import Settings
from slim.text_files import STDIN

PRECISIONS = ("fp32", "bf16")
LARGEST_NUMBER = 2**40


@dataclass(frozen=True, slots=True)
class Plan:
    """A run from its first to its last step; `config` has no choice left open but the number of threads."""

    request: Request
    config: TrainConfig
    model: ModelConfig
    precision: str  # fp32 | bf16
    B: int
    T: int
    total_steps: int
    validation_tokens: int  # of the held-out text that an evaluation reads at most
    corpus_digest: str
    tokenizer_digest: str

    def as_record(self) -> dict[str, object]:
        """settings.json; the paths in it are absolute, so that it can be gone on with from anywhere."""
        request = self.request
        return {
            "command": request.command,
            "data": _absolute(request.data),
            "epochs": request.epochs,
            "out": _absolute(request.out),
            "base": None if request.base is None else _absolute(request.base),
            "max_bytes": request.max_bytes,
            "asked": dict(request.settings.values),
            "train": as_dict(self.config),
            "model": as_dict(self.model),
            "precision": self.precision,
            "B": self.B,
            "T": self.T,
            "total_steps": self.total_steps,
            "validation_tokens": self.validation_tokens,
            "corpus_sha256": self.corpus_digest,
            "tokenizer_sha256": self.tokenizer_digest,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, object], path: Path) -> Plan:
        """The plan that settings.json holds, checked like anybody's; DataError names `path`."""
        try:
            request = Request(
                command=_text(record, "command"),
                data=_text(record, "data"),
                epochs=float(_number(record, "epochs")),
                out=_text(record, "out"),
                base=None if record["base"] is None else _text(record, "base"),
                max_bytes=None if record["max_bytes"] is None else _whole(record, "max_bytes"),
                settings=Settings(_table(record, "asked")),
            )
            train = _table(record, "train")
            prompts = train.get("sample_prompts")
            train.setdefault("optimizer", "adamw")  # of runs from before there was a choice
            train["sample_prompts"] = tuple(prompts) if isinstance(prompts, list) else prompts
            if record["precision"] not in PRECISIONS:
                raise ValueError(f"precision is {record['precision']!r:.40}")
            return cls(
                request=request,
                config=TrainConfig(**train),  # type: ignore[arg-type]
                model=ModelConfig(**_table(record, "model")),  # type: ignore[arg-type]
                precision=_text(record, "precision"),
                B=_whole(record, "B"),
                T=_whole(record, "T"),
                total_steps=_whole(record, "total_steps"),
                validation_tokens=_whole(record, "validation_tokens"),
                corpus_digest=_text(record, "corpus_sha256"),
                tokenizer_digest=_text(record, "tokenizer_sha256"),
            )
        except KeyError as problem:
            raise DataError(f"{path}: has no {problem}: start again with --force") from problem
        except (TypeError, ValueError, ConfigError) as problem:
            raise DataError(f"{path}: makes no sense: {problem}") from problem

    def check_same(self, request: Request) -> None:
        """UsageError when a request to go on with this run asks for something else than it was begun with."""
        then = _what_matters(self.request)
        for name, value in _what_matters(request).items():
            if value != then[name]:
                raise UsageError(
                    f"{request.out}: its run was begun with {name} {_said(then[name])}, not {_said(value)}: "
                    f"`slim resume` goes on as it was begun, --force starts again"
                )


def _what_matters(request: Request) -> dict[str, object]:
    """All that makes one run different from another, but not how fast it is."""
    asked = {key: value for key, value in request.settings.values.items() if key != "threads"}
    return {
        "the command": request.command,
        "the text": _absolute(request.data),
        "EPOCHS": float(request.epochs),
        "BASE": None if request.base is None else _absolute(request.base),
        "MAX_BYTES": request.max_bytes,
        "the settings": {
            key: list(value) if isinstance(value, tuple) else value for key, value in asked.items()
        },
    }


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in sorted(value.items())) or "no settings"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _absolute(path: str) -> str:
    return path if path == STDIN else str(Path(path).resolve())


def _table(record: Mapping[str, object], name: str) -> dict[str, object]:
    value = record[name]
    if not isinstance(value, dict):
        raise TypeError(f"{name} is no table")
    return dict(value)


def _text(record: Mapping[str, object], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _number(record: Mapping[str, object], name: str) -> int | float:
    value = record[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is no number")
    return value


def _whole(record: Mapping[str, object], name: str) -> int:
    value = record[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST_NUMBER:
        raise ValueError(f"{name} must be a whole number above 0, but is {value!r:.40}")
    return value


def with_threads(plan: Plan, threads: int) -> Plan:
    """The same run with another number of threads: its result does not depend on it."""
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, threads=threads))
