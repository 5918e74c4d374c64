"""Whole runs on a tiny model: what they leave behind, how they go on, and what they do when something fails."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_atomic_file import Failing

from slim import (
    atomic_file,
    checkpoint,
    recipe,
    run,
    run_checkpoint,
    run_directory,
    training_run,
    vocabulary,
)
from slim.calibration import Calibration
from slim.compute import submit
from slim.config import GenerateConfig, TrainConfig
from slim.conversation import knows_roles
from slim.errors import (
    ConfigError,
    DataError,
    DivergedError,
    ModelFileError,
    SaveError,
    SlimError,
    UsageError,
)
from slim.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Note,
    Progress,
    RunStarted,
    SampleFinished,
    SampleStarted,
    StepFinished,
    StepSkipped,
    TokenGenerated,
    TrainFinished,
)
from slim.generate import generate
from slim.model_file import load_model
from slim.plan import Plan
from slim.request import Request, RunControl
from slim.run_directory import BusyError, Journal, RunDirectory, read_settings
from slim.settings import Settings
from slim.trainer import Trainer

STEPS = 24
SIZES: dict[str, object] = {
    "dim": 16,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dim": 24,
    "max_seq_len": 32,
    "vocab_size": 280,
    "batch_tokens": 64,
    "seq_len": 16,
    "max_steps": STEPS,
    "eval_every": 8,
    "sample_every": 8,
    "sample_tokens": 3,
    "precision": "fp32",
    "learning_rate": 1e-2,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second of calibration at the end of every run."""
    monkeypatch.setattr(recipe, "CALIBRATION_SECONDS", (0.0, 0.0))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    words = ["the", "fox", "saw", "a", "bird", "and", "sang", "to", "it", "all", "day"]
    stories = [" ".join(rng.choice(words, 30)) + ".\n" for _ in range(40)]
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>\n".join(stories), encoding="utf-8")
    return path


def request(corpus: Path, command: str = "pretrain", **changes: object) -> Request:
    settings = {**SIZES, **dict(changes.pop("settings", {}))}  # type: ignore[call-overload]
    values = {"epochs": 1000.0, "out": str(corpus.parent / "model.bin"), **changes}
    return Request(command, str(corpus), settings=Settings(settings), **values)  # type: ignore[arg-type]


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepFinished)]


def of_kind(events: list[Event], kind: type) -> list:  # type: ignore[type-arg]
    return [event for event in events if isinstance(event, kind)]


def weights(path: Path) -> str:
    """sha256 over all arrays of a model file."""
    tensors, _ = checkpoint.read(path)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()


def metrics(out: Path) -> list[tuple[object, ...]]:
    """What metrics.jsonl says of steps and evaluations, without times."""
    lines = Path(f"{out}.run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    kinds = ("step_finished", "eval_finished", "sample_finished")
    return [
        (r["event"], r["step"], r.get("loss"), r.get("grad_norm"), r.get("text"))
        for r in records
        if r["event"] in kinds
    ]


# ---- a whole run -----------------------------------------------------------------------------------------------------


def test_a_run_from_text_to_model(corpus: Path) -> None:
    out = corpus.parent / "model.bin"
    events = list(run.start(request(corpus)))
    (started,) = of_kind(events, RunStarted)
    assert (started.step, started.total_steps, started.resumed) == (0, STEPS, False)
    assert started.tokens_per_step == 64 and started.threads == 1
    assert [event.step for event in of_kind(events, StepFinished)] == list(range(1, STEPS + 1))
    assert [event.step for event in of_kind(events, EvalFinished)] == [8, 16, 24]
    assert [event.step for event in of_kind(events, SampleFinished)] == [0, 8, 16, 24]
    assert losses(events)[-1] < losses(events)[0] - 1
    (finished,) = of_kind(events, TrainFinished)
    assert events[-1] is finished and finished.reason == "finished" and finished.step == STEPS
    best = min(of_kind(events, EvalFinished), key=lambda event: event.loss)
    assert (finished.best_step, finished.best_loss) == (best.step, best.loss)

    model, tokenizer, metadata = load_model(out)
    assert model.config.dim == 16 and tokenizer.vocab_size == model.config.vocab_size <= 280
    (entry,) = metadata["history"]  # type: ignore[misc]
    assert entry["command"] == "pretrain" and entry["bits_per_byte"] == best.bits_per_byte
    assert metadata["calibration"] is not None
    directory = Path(f"{out}.run")
    names = {"last", "best", "metrics.jsonl", "samples.jsonl", "settings.json", "result.json"}
    assert {path.name for path in directory.iterdir()} == names | {"lock", "log.txt", "tokens"}
    assert directory.joinpath("best").read_bytes() == out.read_bytes()
    samples = directory.joinpath("samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in samples] == [0, 8, 16, 24]


def test_samples_are_streamed(corpus: Path) -> None:
    events = list(run.start(request(corpus, settings={"sample_prompts": ("the fox", "a")})))
    place = events.index(of_kind(events, SampleStarted)[2])
    started, *tokens, finished = events[place : place + 5]
    assert started == SampleStarted(8, 0, "the fox")
    assert all(isinstance(token, TokenGenerated) and token.sample == 0 for token in tokens)
    assert isinstance(finished, SampleFinished)
    assert finished.text == "".join(token.text for token in tokens)
    assert [length for length, _ in finished.shades] == [len(token.text) for token in tokens]
    assert [p for _, p in finished.shades] == pytest.approx([t.p for t in tokens], rel=5.1e-3)
    assert all(len(repr(p)) <= 9 for _, p in finished.shades)  # three digits: 1.23e-05
    assert {event.sample for event in of_kind(events, TokenGenerated)} == {0, 1}


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Conversations, each asking for another number."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(60):
        said = ["count to", str(number), "please"], list(map(str, rng.integers(0, 9, 20)))
        turns = zip(("user", "assistant"), map(" ".join, said), strict=True)
        messages = [{"role": role, "content": text} for role, text in turns]
        lines.append(json.dumps({"messages": messages}))
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_run_on_conversations_answers_a_held_out_question(
    talks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slim import decoding

    read: list[list[int]] = []
    draw_tokens = decoding.draw_tokens

    def watched(model: Any, cache: Any, ids: np.ndarray, *rest: Any, **named: Any) -> Any:
        read.append(ids.tolist())
        return draw_tokens(model, cache, ids, *rest, **named)

    monkeypatch.setattr("slim.chat.draw_tokens", watched)
    wish = {"max_seq_len": 128, "seq_len": 32}
    events = list(run.start(request(talks, settings=wish)))
    (first, *others) = of_kind(events, SampleFinished)
    question = first.prompt.removeprefix("User: ").removesuffix("\nAssistant: ")
    assert question.startswith("count to ") and question.endswith(" please")
    assert all(event.prompt == first.prompt for event in [*others, *of_kind(events, SampleStarted)])

    _, tokenizer, _ = load_model(talks.parent / "model.bin")
    special = tokenizer.special_tokens
    between = [special["<|user|>"], *tokenizer.encode(question).tolist(), special["<|end|>"]]
    whole = [tokenizer.start_id, *between, special["<|assistant|>"]]
    assert read == [whole] * len([first, *others])


def test_a_question_is_held_out_and_short() -> None:
    from slim.data import HeldOut, TokenData
    from slim.run_samples import PROMPT_TOKENS, first_question
    from slim.tokenizer import Tokenizer

    tokenizer = Tokenizer([])
    special = tokenizer.special_tokens

    def turn(role: str, text: str) -> list[int]:
        return [special[role], *tokenizer.encode(text).tolist(), special["<|end|>"]]

    def data(train: list[int], *documents: list[int]) -> TokenData:
        flat = [i for ids in documents for i in (tokenizer.start_id, *ids)]
        starts = np.cumsum([0, *(len(ids) + 1 for ids in documents)])
        held_out = HeldOut(np.array(flat, np.int32), starts, np.ones(len(documents), np.int64))
        return TokenData(np.array(train, np.int32), 1, held_out, has_roles=True)

    plain = tokenizer.encode("no conversation").tolist()
    answer = turn("<|assistant|>", "4")
    long, short = "x" * (PROMPT_TOKENS + 1), "two and two?"
    talks = [turn("<|user|>", text) + answer for text in (long, " ", short, "later")]
    train = turn("<|user|>", "learnt") + answer
    assert first_question(data(train, plain, *talks), tokenizer) == short
    assert first_question(data(train, talks[0]), tokenizer) == "learnt"
    assert first_question(data(plain, talks[0]), tokenizer) == long
    assert first_question(data(plain, plain), tokenizer) is None


def test_everything_is_saved_before_it_is_validated(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(recipe, "SAVE_SHARE", 1e9)
    monkeypatch.setattr(training_run.TrainingRun, "_is_overdue", lambda self: False)
    order = [
        f"{type(event).__name__}{getattr(event, 'kind', '')}"
        for event in run.start(request(corpus))
        if not isinstance(event, (TokenGenerated, Note))
    ]
    place = order.index("EvalFinished")
    assert order[place - 2 : place + 5] == [
        *("StepFinished", "CheckpointSavedlast", "EvalFinished", "CheckpointSavedbest"),
        *("CheckpointSavedout", "SampleStarted", "SampleFinished"),
    ]


def test_saves_are_rare_when_evaluations_are_frequent(corpus: Path) -> None:
    events = list(run.start(request(corpus, settings={"eval_every": 1})))
    assert sum(event.kind == "last" for event in of_kind(events, CheckpointSaved)) == 2
    assert len(of_kind(events, EvalFinished)) == STEPS


@pytest.mark.parametrize(
    ("known_bits", "asked", "rate"),
    [(0.0, {}, 2e-3), (99.0, {}, 2e-4), (99.0, {"learning_rate": 3e-3}, 3e-3)],
)
def test_what_the_base_knows_decides_on_the_rate(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, known_bits: float, asked: dict[str, float], rate: float
) -> None:
    monkeypatch.setattr(recipe, "KNOWN_BITS", known_bits)
    base = corpus.parent / "base.bin"
    list(run.start(request(corpus, out=str(base))))
    values = {"max_steps": 110, "batch_tokens": 64, "seq_len": 16, "precision": "fp32", "sample_tokens": 0}
    values |= {"calibrate": False, "patience": 0}
    wanted = Request(
        *("finetune", str(corpus), 50.0, str(corpus.parent / "tuned.bin"), str(base)), settings=Settings(values | asked)
    )
    events = list(run.start(wanted))
    assert max(event.learning_rate for event in of_kind(events, StepFinished)) == pytest.approx(rate, rel=1e-3)
    told = [note.text for note in of_kind(events, Note) if "without training the base has" in note.text]
    assert len(told) == 1 and (f"the learning rate is {rate:g}" in told[0]) == (not asked)
    plan = Plan.from_record(read_settings(wanted.out), Path(wanted.out))
    assert plan.config.learning_rate == rate, "going on needs no decision"


def test_finetune_keeps_vocabulary_and_sizes(corpus: Path) -> None:
    base = corpus.parent / "base.bin"
    list(run.start(request(corpus, out=str(base))))
    before = base.read_bytes()
    recipe_only = {"max_steps": 6, "batch_tokens": 64, "seq_len": 16, "precision": "fp32"}
    asked = Request(
        *("finetune", str(corpus), 5.0, str(corpus.parent / "tuned.bin"), str(base)),
        settings=Settings({**recipe_only, "eval_every": 3, "sample_tokens": 0}),
    )
    events = list(run.start(asked))
    rates = [event.learning_rate for event in of_kind(events, StepFinished)]
    assert max(rates) == TrainConfig().learning_rate
    assert Plan.from_record(read_settings(asked.out), Path(asked.out)).config.optimizer == "adamw"
    assert losses(events)[0] < 5.0, "it begins with what the base knows"
    model, tokenizer, metadata = load_model(asked.out)
    assert tokenizer.to_json() == load_model(base)[1].to_json() and model.config.dim == 16
    assert [entry["command"] for entry in metadata["history"]] == ["pretrain", "finetune"]  # type: ignore[attr-defined]
    assert base.read_bytes() == before

    with pytest.raises(UsageError, match="keeps the sizes of its base, so dim cannot be set"):
        list(
            run.start(
                Request(
                    *("finetune", str(corpus), 5.0, "x.bin", str(base)),
                    settings=Settings({"dim": 8}),
                )
            )
        )


def test_a_loss_above_that_of_guessing_is_told_once(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for above, count in ((-10.0, 1), (0.5, 0)):  # nats
        monkeypatch.setattr("slim.training_run.WORSE_THAN_GUESSING", above)
        out = str(corpus.parent / f"{count}.bin")
        events = list(run.start(request(corpus, out=out)))
        notes = [event.text for event in of_kind(events, Note) if "guessing has 5.6: the learning" in event.text]
        assert len(notes) == count and all(note.endswith("--set learning_rate=0.0025") for note in notes)
        assert Path(f"{out}.run/log.txt").read_text(encoding="utf-8").count("guessing has") == count


def test_training_stops_when_the_held_out_text_gains_no_more(corpus: Path) -> None:
    settings = {"max_steps": 5000, "eval_every": 10, "learning_rate": 0.05, "patience": 3}
    events = list(run.start(request(corpus, "train", settings=settings)))
    finished = events[-1]
    assert isinstance(finished, TrainFinished) and finished.reason == "early_stop"
    evaluations = of_kind(events, EvalFinished)
    best = min(evaluations, key=lambda event: event.loss)
    assert finished.best_step == best.step == finished.step - 30
    assert load_model(f"{request(corpus).out}.run/best")[2]["history"][-1]["step"] in (
        best.step,
        finished.step,
    )  # type: ignore[index]
    # What is kept are the weights of the best evaluation, not the last.
    saved = [event.step for event in of_kind(events, CheckpointSaved) if event.kind == "out"]
    assert saved[-2] == best.step


def test_minutes_fix_the_number_of_steps_once(corpus: Path) -> None:
    settings = {"minutes": 0.2, "max_steps": 10**9, "eval_every": 50}
    control = RunControl()
    events = run.start(request(corpus, settings=settings), control)
    seen: list[Event] = []
    for event in events:
        seen.append(event)
        control.stop = isinstance(event, StepFinished) and event.step == 3
    (started,) = of_kind(seen, RunStarted)
    assert 10 < started.total_steps < 10**6
    resumed = run.resume(request(corpus).out, control)
    again = next(event for event in resumed if isinstance(event, RunStarted))
    resumed.close()  # type: ignore[attr-defined]
    assert again.total_steps == started.total_steps and again.step == 3


# ---- going on --------------------------------------------------------------------------------------------------------


def interrupt(events: Iterator[Event], control: RunControl, at: int) -> list[Event]:
    """Ask for an end in the middle of the events after step `at`."""
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, StepFinished) and event.step == at:
            control.stop = True
    return seen


@pytest.mark.parametrize(
    ("at", "optimizer"),
    [*((at, "muon") for at in (1, 7, 8, 9, 23)), (1, "adamw"), (9, "adamw")],
)
def test_a_run_that_was_stopped_goes_on_to_the_byte(corpus: Path, at: int, optimizer: str) -> None:
    whole, parts = corpus.parent / "whole.bin", corpus.parent / "parts.bin"
    settings = {"optimizer": optimizer, "threads": 1}
    list(run.start(request(corpus, out=str(whole), settings=settings)))
    control = RunControl()
    asked = request(corpus, out=str(parts), settings=settings)
    first = interrupt(run.start(asked, control), control, at)
    assert isinstance(first[-1], TrainFinished) and first[-1].reason == "interrupted"
    assert parts.exists(), "even before the first evaluation there is something to show"
    second = list(run.resume(parts, threads=2))
    (started,) = of_kind(second, RunStarted)
    assert started.resumed and started.step == at
    assert weights(parts) == weights(whole)
    assert weights(Path(f"{parts}.run/last")) == weights(Path(f"{whole}.run/last"))
    assert metrics(parts) == metrics(whole)


def test_a_run_from_before_there_was_a_choice_goes_on_with_adamw(corpus: Path) -> None:
    whole, parts = corpus.parent / "whole.bin", corpus.parent / "parts.bin"
    asked = {"optimizer": "adamw"}
    list(run.start(request(corpus, out=str(whole), settings=asked)))
    control = RunControl()
    interrupt(run.start(request(corpus, out=str(parts), settings=asked), control), control, 7)
    settings = Path(f"{parts}.run/settings.json")
    record = json.loads(settings.read_text(encoding="utf-8"))
    del record["train"]["optimizer"], record["train"]["momentum"]
    settings.write_text(json.dumps(record), encoding="utf-8")
    list(run.resume(parts))
    assert weights(parts) == weights(whole)


def test_a_run_that_was_abandoned_goes_on_to_the_byte(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the generator is what kill -9 comes to: nothing is saved any more. At every event of a run."""
    whole, parts = corpus.parent / "whole.bin", corpus.parent / "parts.bin"
    monkeypatch.setattr(training_run.TrainingRun, "_is_save_due", lambda self: True)
    expected_events = [type(event).__name__ for event in run.start(request(corpus, out=str(whole)))]
    expected = weights(whole), weights(Path(f"{whole}.run/last")), metrics(whole)
    places = range(expected_events.index("RunStarted") + 2, len(expected_events), 5)
    for place in places:
        events = run.start(request(corpus, out=str(parts), force=True))
        for _ in range(place):
            next(events)
        events.close()  # type: ignore[attr-defined]
        list(run.resume(parts))
        assert (weights(parts), weights(Path(f"{parts}.run/last")), metrics(parts)) == expected, (
            place
        )


def test_early_stop_and_patience_survive(corpus: Path) -> None:
    settings = {"max_steps": 3000, "eval_every": 10, "learning_rate": 0.05, "patience": 2}
    whole, parts = corpus.parent / "whole.bin", corpus.parent / "parts.bin"
    expected = list(run.start(request(corpus, "train", out=str(whole), settings=settings)))[-1]
    assert isinstance(expected, TrainFinished) and expected.reason == "early_stop"
    control = RunControl()
    asked = request(corpus, "train", out=str(parts), settings=settings)
    interrupt(run.start(asked, control), control, expected.step - 10)
    finished = list(run.resume(parts))[-1]
    assert isinstance(finished, TrainFinished)
    assert (finished.step, finished.best_loss) == (expected.step, expected.best_loss)
    assert weights(parts) == weights(whole)


def test_a_finished_run_has_nothing_to_go_on_with(corpus: Path) -> None:
    finished = list(run.start(request(corpus)))[-1]
    before = Path(request(corpus).out).read_bytes()
    note, again = list(run.resume(request(corpus).out))
    assert isinstance(note, Note) and "has come to its end" in note.text
    assert again == finished and Path(request(corpus).out).read_bytes() == before


def test_a_changed_text_is_refused_with_a_choice(corpus: Path) -> None:
    control = RunControl()
    interrupt(run.start(request(corpus), control), control, 5)
    text = corpus.read_text()
    corpus.write_text(text.replace("fox", "dog"))
    with pytest.raises(
        DataError, match=r"is not the text that this run was begun with.*--force.*finetune"
    ):
        list(run.resume(request(corpus).out))
    corpus.write_text(text)
    assert list(run.resume(request(corpus).out))[-1].reason == "finished"  # type: ignore[union-attr]


def test_resume_as_an_option(corpus: Path) -> None:
    asked = request(corpus, resume=True)
    control = RunControl()
    interrupt(run.start(asked, control), control, 5)  # nothing is there: it begins
    with pytest.raises(UsageError, match="was begun with EPOCHS 1000, not 7"):
        list(run.start(request(corpus, resume=True, epochs=7.0)))
    with pytest.raises(UsageError, match=r"was begun with the settings .*dim=16.* not .*dim=18"):
        list(run.start(request(corpus, resume=True, settings={"dim": 18})))
    events = list(run.start(request(corpus, resume=True, settings={"threads": 2})))
    assert of_kind(events, RunStarted)[0].step == 5 and losses(events)


def test_resume_where_nothing_is(corpus: Path) -> None:
    with pytest.raises(DataError, match="has no run to go on with"):
        list(run.resume(corpus.parent / "nothing.bin"))
    assert sorted(path.name for path in corpus.parent.iterdir()) == ["stories.txt"]


# ---- a shell that watches --------------------------------------------------------------------------------------------


def test_a_chat_between_steps_and_a_save_on_demand(corpus: Path) -> None:
    """What the dashboard does: watch, write with the weights as they are, save now, stop and save."""
    control = RunControl()
    asked = request(
        corpus, settings={"max_steps": 100_000, "eval_every": 100_000, "sample_every": 100_000}
    )
    job = submit(run.start(asked, control))
    seen: list[Event] = []
    while not losses(seen):
        seen += job.poll()
    replies = [
        event
        for _ in range(2)
        for event in submit(
            generate(
                control.model, control.tokenizer, "the fox", GenerateConfig(max_tokens=5, seed=1)
            )  # type: ignore[arg-type]
        )
    ]
    assert sum(isinstance(event, TokenGenerated) for event in replies) == 10
    control.save_now = True
    while not any(
        event.kind == "last" and event.step > 0 for event in of_kind(seen, CheckpointSaved)
    ):
        seen += job.poll()
    assert not control.save_now
    control.stop = True
    seen += list(job)
    finished = seen[-1]
    assert isinstance(finished, TrainFinished) and finished.reason == "interrupted"
    assert control.model is None and job.done
    steps = [event.step for event in of_kind(seen, StepFinished)]
    assert steps == list(range(1, finished.step + 1)), "no event is lost"


# ---- failures --------------------------------------------------------------------------------------------------------


class Disk:
    """Makes saves of some files fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: set[str] = set()
        self.tried: list[str] = []
        write, replace_file = checkpoint.write, run_checkpoint.replace_file

        def guarded_write(path: Path, *rest: object, **named: object) -> int:
            self._check(Path(path))
            return write(path, *rest, **named)  # type: ignore[arg-type]

        def guarded_replace(path: Path, *rest: object, **named: object) -> int:
            self._check(Path(path))
            return replace_file(path, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(run_checkpoint.checkpoint, "write", guarded_write)
        monkeypatch.setattr(run_checkpoint, "replace_file", guarded_replace)

    def _check(self, path: Path) -> None:
        self.tried.append(path.name)
        if path.name in self.failing:
            raise SaveError(f"{path}: cannot be saved: no space left on device")


@pytest.mark.parametrize("name", ["last", "best", "model.bin"])
def test_a_failing_save_is_shown_and_training_goes_on(
    corpus: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run.TrainingRun, "_is_save_due", lambda self: True)
    disk = Disk(monkeypatch)
    events = []
    for event in run.start(request(corpus)):
        events.append(event)
        if isinstance(event, StepFinished):
            disk.failing = {name} if 7 <= event.step <= 16 else set()
    warnings = [event.text for event in of_kind(events, Note) if event.level == "warning"]
    expected = 3 if name == "best" else 2  # it is tried again before the second evaluation
    assert len(warnings) == expected and all("no space left" in text for text in warnings)
    assert len(losses(events)) == STEPS and events[-1].reason == "finished"  # type: ignore[union-attr]
    whole = corpus.parent / "whole.bin"
    list(run.start(request(corpus, out=str(whole))))
    assert weights(Path(request(corpus).out)) == weights(whole), "nothing else is different"


@pytest.mark.parametrize("out_too", [False, True])
@pytest.mark.parametrize("stop", [None, 20])
def test_a_folder_that_is_removed_is_made_again(
    corpus: Path, stop: int | None, out_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run.TrainingRun, "_is_save_due", lambda self: True)
    out, whole = corpus.parent / "model.bin", corpus.parent / "whole.bin"
    settings = {"eval_every": 7}
    list(run.start(request(corpus, out=str(whole), settings=settings)))
    control, events = RunControl(), []
    for event in run.start(request(corpus, settings=settings), control):
        events.append(event)
        step = event.step if isinstance(event, StepFinished) else None
        if step == 17:
            shutil.rmtree(f"{out}.run")
            if out_too:
                out.unlink()
        control.stop = control.stop or (step is not None and step == stop)
    warnings = [note.text for note in of_kind(events, Note) if note.level == "warning"]
    assert len(warnings) == 1 and "model.bin.run: was removed" in warnings[0]
    if stop is not None:
        list(run.resume(out))
    assert weights(out) == weights(whole)
    assert weights(Path(f"{out}.run/last")) == weights(Path(f"{whole}.run/last"))


def test_a_folder_in_which_another_process_trains_is_left_alone(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run.TrainingRun, "_is_save_due", lambda self: True)
    out = corpus.parent / "model.bin"
    others: list[RunDirectory] = []

    def watch() -> None:
        for event in run.start(request(corpus)):
            if isinstance(event, StepFinished) and event.step == 9:
                shutil.rmtree(f"{out}.run")
                others.append(RunDirectory(out))

    with pytest.raises(BusyError):
        watch()
    assert not others[0].last.exists()
    others[0].close()


def test_three_failing_saves_in_a_row_end_a_run(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    events = []
    before = b""

    def watch() -> None:
        nonlocal before
        for event in run.start(request(corpus, settings={"max_steps": 100})):
            events.append(event)
            if isinstance(event, StepFinished) and event.step == 9:
                before = Path(request(corpus).out).read_bytes()
                disk.failing = {"best"}

    with pytest.raises(
        SaveError,
        match=r"no space left on device, 3 times in a row: once it can be, `slim resume .* goes on",
    ):
        watch()
    assert disk.tried.count("best") >= 3 and Path(request(corpus).out).read_bytes() == before
    assert of_kind(events, StepFinished)[-1].step < 100


def test_where_only_the_best_model_could_be_saved_it_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    disk.failing = {"last"}
    with pytest.raises(SaveError, match=r"nothing to go on with, but .*model.bin.run/best holds the best model so far"):
        list(run.start(request(corpus)))


@pytest.mark.parametrize(
    ("name", "stopped"), [("best", False), ("model.bin", False), ("last", False), ("last", True)]
)
def test_what_cannot_be_saved_at_the_end_is_no_success(
    corpus: Path, name: str, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, control = Disk(monkeypatch), RunControl()
    out, whole = corpus.parent / "model.bin", corpus.parent / "whole.bin"
    list(run.start(request(corpus, out=str(whole))))
    events = []

    def watch() -> None:
        for event in run.start(request(corpus), control):
            events.append(event)
            if isinstance(event, StepFinished) and event.step == STEPS:
                disk.failing = {name}
                control.stop = stopped

    with pytest.raises(SaveError, match=r"no space left on device: once it can be, `slim resume"):
        watch()
    assert not of_kind(events, TrainFinished) and not Path(f"{out}.run/result.json").exists()
    disk.failing = set()
    assert of_kind(list(run.resume(out)), TrainFinished)[0].reason == "finished"
    assert weights(out) == weights(whole)
    assert weights(Path(f"{out}.run/last")) == weights(Path(f"{whole}.run/last"))


def test_events_that_cannot_be_written_at_the_end_are_written_when_it_goes_on(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = corpus.parent / "whole.bin", corpus.parent / "parts.bin"
    list(run.start(request(corpus, out=str(whole))))
    append = Journal.append

    def refuse(journal: Journal, line: str) -> str:
        journal._backlog += line.encode()
        return "metrics.jsonl: cannot be written: no space left on device"

    def watch() -> None:
        for event in run.start(request(corpus, out=str(parts))):
            if isinstance(event, StepFinished) and event.step == STEPS - 2:
                monkeypatch.setattr(Journal, "append", refuse)

    with pytest.raises(SaveError, match=r"metrics.jsonl: cannot be written: .*`slim resume"):
        watch()
    monkeypatch.setattr(Journal, "append", append)
    list(run.resume(parts))
    assert metrics(parts) == metrics(whole) and weights(parts) == weights(whole)
    samples = [Path(f"{out}.run/samples.jsonl").read_text("utf-8") for out in (parts, whole)]
    assert samples[0] == samples[1] and samples[0]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_utf8(corpus: Path) -> None:
    odd = corpus.rename(corpus.parent / os.fsdecode(b"odd\xff\xfe.txt"))
    out = str(corpus.parent / os.fsdecode(b"out\xff.bin"))
    control = RunControl()
    interrupt(run.start(request(odd, out=out), control), control, 5)
    events = list(run.resume(out))
    assert not [event for event in of_kind(events, Note) if event.level == "warning"]
    (entry,) = load_model(Path(out))[2]["history"]  # type: ignore[misc]
    assert entry["data"] == "odd\ufffd\ufffd.txt" and entry["step"] == STEPS


@pytest.mark.parametrize("killed", [False, True])
def test_best_weights_that_could_not_be_saved_wait(
    corpus: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are saved before anything else; until then `last` stays, from which a killed run finds them again."""
    monkeypatch.setattr(training_run.TrainingRun, "_is_save_due", lambda self: True)
    disk, control = Disk(monkeypatch), RunControl()
    out, whole = corpus.parent / "model.bin", corpus.parent / "whole.bin"
    list(run.start(request(corpus, out=str(whole))))
    best_steps, failed_at, reached = [], set(), 0
    events = run.start(request(corpus), control)
    for event in events:
        reached = event.step if isinstance(event, StepFinished) else reached
        disk.failing = {"best"} if 7 <= reached <= 12 else set()
        control.save_now = reached == 11 and isinstance(event, StepFinished)
        if isinstance(event, Note) and "best: cannot be saved" in event.text:
            failed_at.add(reached)
        if isinstance(event, CheckpointSaved) and event.kind == "best":
            metadata, _ = checkpoint.read_metadata(Path(event.path))
            best_steps.append(metadata["history"][-1]["best_step"])  # type: ignore[index]
        if isinstance(event, CheckpointSaved) and event.kind == "last":
            assert not 8 < event.step < 13
        if killed and reached == 13:
            break
    events.close()  # type: ignore[attr-defined]
    assert failed_at == {8, 11} and best_steps == ([] if killed else [8, 16, 24, 24])
    if killed:
        list(run.resume(out))
    assert weights(out) == weights(whole)
    assert weights(Path(f"{out}.run/last")) == weights(Path(f"{whole}.run/last"))


def test_best_weights_that_still_wait_at_the_end_become_the_result(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    evaluate = training_run.evaluate
    losses = iter([3.0, 4.0, 5.0])

    def worse_and_worse(*rest: Any, **named: Any) -> Any:
        result = yield from evaluate(*rest, **named)
        return dataclasses.replace(result, nats=next(losses) * result.tokens)

    monkeypatch.setattr(training_run, "evaluate", worse_and_worse)
    control, failed = RunControl(), 0
    at_8 = np.empty(0)

    def watch() -> None:
        nonlocal failed, at_8
        for event in run.start(request(corpus), control):
            if isinstance(event, EvalFinished) and event.step == 8:
                assert control.model is not None
                at_8 = control.model.parameters.flat.copy()
            failed += isinstance(event, Note) and "best: cannot be saved" in event.text
            disk.failing = {"best"} if failed < 2 else set()  # at step 8 and before the end

    with pytest.raises(SaveError, match="slim resume"):  # `last` is not that of the end
        watch()
    model, _, metadata = load_model(request(corpus).out)
    assert failed == 2 and metadata["history"][-1]["best_step"] == 8  # type: ignore[index]
    assert np.array_equal(model.parameters.flat, at_8)


def test_lines_that_a_full_disk_refuses_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    assert journal.append("one\n") is None
    write = os.write

    def partial(fd: int, data: bytes) -> int:
        if len(data) > 2:
            return write(fd, bytes(data[:2]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", partial)
    problem = journal.append("second\n")
    assert problem is not None and "no space left on device" in problem
    assert (tmp_path / "metrics.jsonl").read_text() == "one\n", "no half line"
    monkeypatch.setattr(os, "write", write)
    assert journal.append("third\n") is None
    assert (tmp_path / "metrics.jsonl").read_text() == "one\nsecond\nthird\n"
    journal.cut(6)
    assert (tmp_path / "metrics.jsonl").read_text() == "one\n" and journal.size == 4


def test_lines_that_waited_when_a_run_was_killed_come_when_it_goes_on(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may have room for a save and none for the journals: what they lack is in the save."""
    whole, parts = corpus.parent / "whole.bin", corpus.parent / "parts.bin"
    list(run.start(request(corpus, out=str(whole))))
    monkeypatch.setattr(training_run.TrainingRun, "_is_save_due", lambda self: True)
    append = Journal.append

    def refuse(journal: Journal, line: str) -> str:
        journal._backlog += line.encode()
        return "no space left on device"

    events = run.start(request(corpus, out=str(parts)))
    for event in events:
        if isinstance(event, StepFinished):
            monkeypatch.setattr(Journal, "append", refuse if event.step >= 5 else append)
            if event.step == 20:
                break
    events.close()  # type: ignore[attr-defined]
    assert len(metrics(parts)) < 10
    monkeypatch.setattr(Journal, "append", append)
    list(run.resume(parts))
    assert metrics(parts) == metrics(whole)


def test_what_a_killed_process_was_writing_is_swept_at_the_start(tmp_path: Path) -> None:
    begun = RunDirectory(tmp_path / "m.bin")
    begun.write_settings({})
    begun.close()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = tmp_path / "m.bin.run"
    for name in ("last", "best", "settings.json", "result.json"):
        folder.joinpath(f".{name}.{dead.pid}-{'0' * 16}.slim-tmp").touch()
    RunDirectory(tmp_path / "m.bin").close()
    assert sorted(os.listdir(folder)) == ["lock", "settings.json"]


def test_a_lock_whose_close_fails_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path / "m.bin")
    directory.write_settings({})
    with monkeypatch.context() as patched:
        patched.setattr(run_directory, "os", Failing(1, errno.EIO, ("close",)))
        directory.close()
    RunDirectory(tmp_path / "m.bin").close()


RUN_CALLS = ("open", "write", "pwrite", "fsync", "close", "link", "unlink", "replace", "lstat",
             "ftruncate")  # fmt: skip


@pytest.mark.parametrize(
    ("code", "every"),
    [
        (errno.ENOSPC, 41),
        *(
            pytest.param(code, 1, marks=pytest.mark.soak)
            for code in (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
        ),
    ],
)
def test_every_call_of_a_run_that_can_fail(
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    every: int,
    record_property: Callable[[str, object], None],
) -> None:
    """What was there is whole, the losses are the same, and so is the end, at once or after going on, unless it is told."""
    monkeypatch.setattr(training_run.TrainingRun, "_is_save_due", lambda self: True)
    whole = corpus.parent / "whole.bin"
    list(run.start(request(corpus, out=str(whole))))
    expected = weights(whole), weights(Path(f"{whole}.run/last")), metrics(whole)
    ended_early = 0
    for k in range(1, 2000, every):
        out = corpus.parent / f"{k}.bin"
        fake = Failing(k, code, RUN_CALLS)
        events: list[Event] = []
        problem: str | None = None
        with monkeypatch.context() as patched:
            patched.setattr(atomic_file, "os", fake)
            patched.setattr(run_directory, "os", fake)
            try:
                for event in run.start(request(corpus, out=str(out))):
                    events.append(event)
            except SlimError as caught:
                problem = str(caught)
                ended_early += 1
        if not fake.failed:
            break
        assert problem is None or os.strerror(code).lower() in problem, k
        for path in (out, Path(f"{out}.run/last"), Path(f"{out}.run/best")):
            if path.exists():
                checkpoint.read(path)
        if not events or not isinstance(events[-1], TrainFinished):
            saved = Path(f"{out}.run/last").exists()
            list(run.resume(out) if saved else run.start(request(corpus, out=str(out), force=True)))
        assert metrics(out) == expected[2], f"call {k}, {fake.failed}"
        # Better weights that could not be saved, which is told, do not replace those that could.
        told = any(os.strerror(code).lower() in note.text for note in of_kind(events, Note))
        found = weights(out), weights(Path(f"{out}.run/last"))
        assert told or found == expected[:2], f"call {k}, {fake.failed}"
        shutil.rmtree(f"{out}.run")
    record_property("calls", k - 1)
    assert k > 100 and ended_early < k / 4, "most failures do not end a training"


def spoil(monkeypatch: pytest.MonkeyPatch, bad) -> None:  # type: ignore[no-untyped-def]
    """Losses that are not finite, where `bad(batch number)` says so."""
    compute = Trainer.compute_gradients

    def spoilt(self: Trainer, step: int) -> tuple[float, float]:
        loss, norm = compute(self, step)
        return (math.nan, norm) if bad(self.state.first_batch + step) else (loss, norm)

    monkeypatch.setattr(Trainer, "compute_gradients", spoilt)


def test_bad_batches_are_skipped_then_left_out(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run.TrainingRun, "_is_save_due", lambda self: True)
    spoil(monkeypatch, lambda batch: batch in (3, 10, 11, 12))
    events = list(run.start(request(corpus)))
    assert [event.step for event in of_kind(events, StepSkipped)] == [4, 11, 12, 13]
    (note,) = [event for event in of_kind(events, Note) if "back to step" in event.text]
    assert note.level == "warning" and "back to step 8" in note.text and "0.5 times" in note.text
    steps = [event.step for event in of_kind(events, StepFinished)]
    assert steps == [1, 2, 3, *range(5, 11), *range(9, STEPS + 1)]
    again = [event for event in of_kind(events, StepFinished) if event.step == 9]
    assert again[1].learning_rate == pytest.approx(again[0].learning_rate / 2)
    assert again[1].loss != again[0].loss, "other batches"
    log = Path(f"{request(corpus).out}.run/log.txt").read_text()
    assert "back to step 8" in log
    assert events[-1].reason == "finished"  # type: ignore[union-attr]


def test_a_rollback_survives_a_resume(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda batch: batch in (10, 11, 12))
    whole, parts = corpus.parent / "whole.bin", corpus.parent / "parts.bin"
    list(run.start(request(corpus, out=str(whole))))
    control = RunControl()
    events = run.start(request(corpus, out=str(parts)), control)
    for event in events:
        control.stop = control.stop or (isinstance(event, Note) and "back to step" in event.text)
    list(run.resume(parts))
    assert weights(parts) == weights(whole)


def test_training_that_cannot_be_saved_gives_up(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda batch: batch >= 12)
    events: list[Event] = []
    with pytest.raises(
        DivergedError, match=r"training diverged: .*learning_rate=0\.0025"
    ) as caught:
        events.extend(run.start(request(corpus)))
    assert caught.value.exit_code == 4
    assert (
        len([event for event in of_kind(events, Note) if "back to step" in event.text])
        == recipe.ROLLBACKS
    )
    _, _, metadata = load_model(request(corpus).out)
    assert metadata["history"][-1]["best_step"] == 8, "OUT holds the best from before"  # type: ignore[index]
    assert "training diverged" in Path(f"{request(corpus).out}.run/log.txt").read_text()


def test_weights_that_are_not_finite_replace_nothing(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if all guards before it failed, the file of good weights is left alone."""
    out = Path(request(corpus).out)
    kept: list[bytes] = []
    events = run.start(request(corpus, settings={"sample_tokens": 0}), control := RunControl())

    def watch() -> None:
        for event in events:
            if isinstance(event, StepFinished) and event.step == 12:
                kept.append(out.read_bytes())
                control.model.parameters.flat[5] = np.nan  # type: ignore[attr-defined]
                control.model.pack()  # type: ignore[attr-defined]

    with contextlib.suppress(SlimError):
        watch()
    assert kept
    load_model(out)  # refuses weights that are not whole
    for path in (out, Path(f"{out}.run/last"), Path(f"{out}.run/best")):
        tensors, _ = checkpoint.read(path)
        assert all(np.isfinite(array).all() for array in tensors.values())


def test_a_second_trainer_is_refused(corpus: Path) -> None:
    first = run.start(request(corpus))
    while not isinstance(next(first), StepFinished):
        pass
    for second in (
        run.start(request(corpus)),
        run.start(request(corpus, force=True)),
        run.resume(request(corpus).out),
    ):
        with pytest.raises(
            SlimError, match=rf"process {os.getpid()} is training here|exists"
        ) as caught:
            list(second)
        assert isinstance(caught.value, (BusyError, UsageError))
    assert list(first)[-1].reason == "finished"  # type: ignore[union-attr]


def test_a_lock_whose_folder_disappears_is_taken_anew(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "m.bin")
    first.close()
    assert list(tmp_path.iterdir()) == [], "a folder in which nothing was saved disappears"
    second = RunDirectory(tmp_path / "m.bin")
    with pytest.raises(BusyError):
        RunDirectory(tmp_path / "m.bin")
    second.close()


# ---- bad input -------------------------------------------------------------------------------------------------------


def refused(asked: Request, kind: type[SlimError], words: str) -> None:
    folder = Path(asked.out).parent
    before = (
        {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        if folder.is_dir()
        else {}
    )
    with pytest.raises(kind, match=words):
        list(run.start(asked))
    if folder.is_dir():
        after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        assert after == before, "nothing is left behind and nothing is lost"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be opened: no such file"),
        (b"", "is empty"),
        (b" \n\n ", "holds no text"),
        (b"\x1f\x8b" + bytes(100), "is gzip-compressed"),
        (bytes(range(256)) * 40, "is binary"),
        (b"a few words", "too short"),
    ],
)
def test_bad_texts(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    refused(request(path, settings={"seq_len": 0}), DataError, words)


def test_a_text_shorter_than_a_sequence(corpus: Path) -> None:
    corpus.write_text("only some words in here, and they are not many at all\n" * 3)
    settings = {"seq_len": 500, "max_seq_len": 512, "batch_tokens": 4096}
    refused(
        request(corpus, settings=settings),
        DataError,
        r"the text is too short: .* a sequence has 500",
    )


def test_a_single_document(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("the fox saw a bird and sang to it all day. " * 100)
    events = list(run.start(request(path)))
    assert any("is for validation" in event.text for event in of_kind(events, Note))
    assert events[-1].best_loss is not None  # type: ignore[union-attr]


def test_nothing_held_out(corpus: Path) -> None:
    events = list(run.start(request(corpus, settings={"validation_share": 0.0})))
    assert any("nothing is validated" in event.text for event in of_kind(events, Note))
    assert not of_kind(events, EvalFinished) and events[-1].best_loss is None  # type: ignore[union-attr]
    load_model(request(corpus).out)


def test_bad_places_for_the_result(corpus: Path) -> None:
    folder = corpus.parent
    other = folder / "letter.txt"
    other.write_text("Dear all")
    refused(request(corpus, out=str(other)), UsageError, "exists: choose another OUT")
    refused(
        request(corpus, out=str(other), force=True), UsageError, "is no model, so --force does not"
    )
    refused(
        request(corpus, out=str(corpus), force=True), UsageError, "OUT must not be the text itself"
    )
    refused(request(corpus, out=str(folder / "no" / "m.bin")), SaveError, "there is no folder")
    refused(request(corpus, out=str(folder)), UsageError, "exists")
    asked = Request("finetune", str(corpus), 1.0, str(folder / "x.bin"), str(folder / "x.bin"))
    refused(asked, UsageError, "OUT must not be BASE itself")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": 250, "n_heads": 8}, "dim must be divisible by n_heads, but 250 % 8"),
        ({"dim": 16_384, "n_layers": 256, "n_heads": 64, "hidden_dim": 65_536}, "GB of memory"),
        ({"seq_len": 33}, "seq_len must be at most max_seq_len, .* but 33 > 32"),
        ({"seq_len": 65, "max_seq_len": 128}, "batch_tokens must hold at least one sequence"),
        ({"vocab_size": 100}, "vocab_size must be from 260"),
        ({"threads": 1000}, "threads must be at most"),
    ],
)
def test_bad_settings(corpus: Path, settings: dict[str, object], words: str) -> None:
    refused(request(corpus, settings=settings), ConfigError, words)


def test_a_foreign_or_damaged_base(corpus: Path) -> None:
    base = corpus.parent / "base.bin"
    for content in (b"GGUF" + bytes(100), b"hello", bytes(1000)):
        base.write_bytes(content)
        refused(
            Request("finetune", str(corpus), 1.0, str(corpus.parent / "o.bin"), str(base)),
            ModelFileError,
            "base.bin",
        )


@pytest.mark.parametrize("name", ["settings.json", "last"])
def test_a_damaged_run_directory(corpus: Path, name: str) -> None:
    control = RunControl()
    interrupt(run.start(request(corpus), control), control, 5)
    path = Path(f"{request(corpus).out}.run/{name}")
    data = bytearray(path.read_bytes())
    for place in (0, len(data) // 2, len(data) - 2):
        damaged = bytearray(data)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(SlimError, match=name) as caught:
            list(run.resume(request(corpus).out))
        assert caught.value.exit_code == 3
        if name == "last":
            words = str(caught.value)
            assert "start again with --force, or build on what was learnt: `slim finetune" in words


def test_a_calibration_that_is_cut_short_is_made_when_the_run_goes_on(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps are done, but whoever interrupts is told so, and nothing of the result is lost."""
    from slim import training_run

    def interrupted(*rest: Any, **named: Any) -> Iterator[object]:
        control.stop = True
        yield Progress("calibrating", 0, 1)

    control, out = RunControl(), Path(request(corpus).out)
    with monkeypatch.context() as patched:
        patched.setattr(training_run, "calibrate", interrupted)
        (finished,) = of_kind(list(run.start(request(corpus), control)), TrainFinished)
    assert (finished.reason, finished.step) == ("interrupted", STEPS)
    tensors, metadata = checkpoint.read(out)
    assert metadata["calibration"] is None

    events = list(run.resume(out))
    assert not losses(events) and of_kind(events, TrainFinished)[0].reason == "finished"
    after, metadata = checkpoint.read(out)
    assert metadata["calibration"] is not None
    assert all(np.array_equal(tensors[name], after[name]) for name in tensors)


def test_the_calibration_at_the_end_tells_what_it_is_made_from_and_may_be_left_out(
    corpus: Path,
) -> None:
    events = list(run.start(request(corpus)))
    notes = [event.text for event in of_kind(events, Note)]
    assert sum(text.startswith("confidence calibrated in ") for text in notes) == 1
    metadata, _ = checkpoint.read_metadata(corpus.parent / "model.bin")
    calibration = Calibration.from_record(metadata["calibration"])
    assert calibration is not None and calibration.prompted and calibration.held_out is not None
    assert calibration.held_out.documents >= 2 and not calibration.held_out.enough
    out = str(corpus.parent / "other.bin")
    list(run.start(request(corpus, out=out, settings={"calibrate": False})))
    assert checkpoint.read_metadata(out)[0]["calibration"] is None


# ---- text of other kinds ---------------------------------------------------------------------------------------------


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    words = ["fox", "bird", "cat", "dog"]
    lines = []
    for _ in range(60):
        one, other = rng.choice(words, 2)
        messages = [
            {"role": "user", "content": f"Who saw the {one}?"},
            {"role": "assistant", "content": f"The {other} saw the {one}."},
        ]
        lines.append(json.dumps({"messages": messages}))
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_only_answers_are_learnt_and_resume_is_exact(talk: Path) -> None:
    """Loss and validation are those of the answers; the mask on disk survives a stop and a damaged file."""
    whole, parts = talk.parent / "whole.bin", talk.parent / "parts.bin"
    expected = list(run.start(request(talk, out=str(whole))))
    control = RunControl()
    interrupt(run.start(request(talk, out=str(parts)), control), control, 5)
    mask = Path(f"{parts}.run/tokens/train.counted")
    counted = np.fromfile(mask, np.bool_)
    assert 0.3 < counted.mean() < 0.8
    mask.write_bytes(bytes(counted.size))  # as if nothing were to be learnt
    events = list(run.resume(parts))
    assert any("train.counted is damaged" in note.text for note in of_kind(events, Note))
    assert metrics(parts) == metrics(whole) and weights(parts) == weights(whole)
    _, tokenizer, metadata = load_model(whole)
    assert knows_roles(metadata)
    assert tokenizer.special_tokens["<|user|>"] in np.fromfile(mask.with_name("train"), np.uint16)
    # Questions are not learnt: what they cost stays out of the loss, so the same words as plain text cost more.
    text = talk.with_name("plain.txt")
    records = [json.loads(line)["messages"] for line in talk.read_text().splitlines()]
    text.write_text("\n<|endoftext|>\n".join("\n".join(m["content"] for m in r) for r in records))
    plain = list(run.start(request(text, out=str(talk.parent / "plain.bin"))))
    assert of_kind(expected, EvalFinished)[-1].loss != of_kind(plain, EvalFinished)[-1].loss
    assert not knows_roles(load_model(talk.parent / "plain.bin")[2])


def test_conversations_need_a_vocabulary_with_roles(
    talk: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = talk.parent / "base.bin"
    list(run.start(request(corpus, out=str(base))))
    without = {"<|endoftext|>": 0}
    monkeypatch.setattr(run.Tokenizer, "special_tokens", property(lambda self: without))
    asked = Request(
        *("finetune", str(talk), 1.0, str(talk.parent / "tuned.bin"), str(base)),
        settings=Settings({"max_steps": 2, "seq_len": 16, "batch_tokens": 64, "precision": "fp32"}),
    )
    refused(asked, DataError, "holds conversations, but the vocabulary of the model has no")


def test_a_folder_and_its_own_result(corpus: Path) -> None:
    """A folder in which a run leaves its work is the same text for the next run."""
    folder = corpus.parent
    asked = request(folder, out=str(folder / "model.bin"))
    list(run.start(asked))
    again = list(run.start(dataclasses.replace(asked, force=True)))
    assert again[-1].reason == "finished"  # type: ignore[union-attr]
    control = RunControl()
    interrupt(run.start(dataclasses.replace(asked, force=True), control), control, 5)
    assert list(run.resume(folder / "model.bin"))[-1].reason == "finished"  # type: ignore[union-attr]
    (folder / "more.txt").write_text("one more text " * 40)
    control = RunControl()
    interrupt(run.start(dataclasses.replace(asked, force=True), control), control, 5)
    (folder / "more.txt").unlink()
    with pytest.raises(DataError, match="is not the text that this run was begun with"):
        list(run.resume(folder / "model.bin"))


def test_standard_input_is_kept(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = corpus.parent / "whole.bin", corpus.parent / "model.bin"
    list(run.start(request(corpus, out=str(whole))))
    control = RunControl()
    asked = dataclasses.replace(request(corpus), data="-")
    before = os.dup(0)
    try:
        with corpus.open("rb") as file:
            os.dup2(file.fileno(), 0)
        interrupt(run.start(asked, control), control, 5)
    finally:
        os.dup2(before, 0)
        os.close(before)
    list(run.resume(out))
    assert weights(out) == weights(whole) and metrics(out) == metrics(whole)
    Path(f"{out}.run/result.json").unlink()
    Path(f"{out}.run/stdin.txt").unlink()
    with pytest.raises(DataError, match="standard input: what was kept of it"):
        list(run.resume(out))


def test_another_vocabulary_on_resume_is_refused_with_a_choice(corpus: Path) -> None:
    control, out = RunControl(), corpus.parent / "model.bin"
    interrupt(run.start(request(corpus), control), control, 5)
    settings = Path(f"{out}.run/settings.json")
    record = json.loads(settings.read_text())
    settings.write_text(json.dumps({**record, "tokenizer_sha256": "0" * 64}))
    with pytest.raises(DataError, match=r"has another vocabulary than this run.*--force"):
        list(run.resume(out))


def test_a_sampled_vocabulary_is_said(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "SAMPLE_BYTES", 2000)
    events = list(run.start(request(corpus)))
    (note,) = [n.text for n in of_kind(events, Note) if "sample" in n.text]
    assert note.startswith("the vocabulary is built on a sample: one of 3 pieces of the text")


def test_a_refused_run_leaves_nothing(corpus: Path) -> None:
    """Tokens are written before a run begins: they go again when it does not."""
    refused(
        request(corpus, settings={"seq_len": 16, "max_seq_len": 8}), ConfigError, "seq_len must"
    )
    control = RunControl()
    control.stop = True
    list(run.start(request(corpus), control))
    assert sorted(path.name for path in corpus.parent.iterdir()) == ["stories.txt"]
