"""A training run from its first step to its last: updates, and between them saves, validation and samples.

Order matters. What is needed to go on is saved before anything else is done at a step, and a validation or a sample
that is cut short counts as not made: a process that is killed in the middle of one makes it again, and no step is lost
or made twice. What follows from the clock (when to save) does not touch what is computed.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slim import checkpoint, recipe
from slim.calibrate import calibrate
from slim.calibration import Calibration
from slim.config import GenerateConfig
from slim.data import TokenData
from slim.errors import DivergedError, SaveError
from slim.evaluate import Evaluation, evaluate
from slim.events import (
    MOST_SHADES,
    CheckpointSaved,
    EvalFinished,
    Event,
    GenerateFinished,
    Note,
    RunStarted,
    SampleFinished,
    SampleStarted,
    TokenGenerated,
    TrainFinished,
)
from slim.model_file import model_metadata
from slim.plan import Plan
from slim.request import RunControl
from slim.run_checkpoint import (
    Standing,
    history_entry,
    publish,
    read_best,
    read_last,
    recover_best,
    write_best,
    write_last,
)
from slim.run_directory import RunDirectory
from slim.run_samples import sample_prompts, shown_prompt, write_sample
from slim.safe_text import path_in_words
from slim.tokenizer import Tokenizer
from slim.trainer import Trainer, UnstableError, train

SILENT_SECONDS = 0.5  # of an evaluation or a calibration, before its progress is told
WORSE_THAN_GUESSING = 0.5  # nats: a model that has hardly begun may be some tenths above


class TrainingRun:
    """Everything that a run holds while it goes; `events` makes it go."""

    def __init__(
        self,
        plan: Plan,
        directory: RunDirectory,
        control: RunControl,
        trainer: Trainer,
        tokenizer: Tokenizer,
        history: Sequence[dict[str, object]],
        standing: Standing | None = None,
    ) -> None:
        """history: what the base's file remembers   standing: of a run that goes on"""
        self.plan = plan
        self.directory = directory
        self.control = control
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.history = history
        self.resumed = standing is not None
        self.standing = Standing(training=trainer.state) if standing is None else standing
        trainer.state = self.standing.training
        self.held_out = held_out_part(trainer.data, tokenizer, plan.validation_tokens)
        self.prompts = sample_prompts(trainer.data, tokenizer, plan.config.sample_prompts)
        self._failures: dict[str, int] = {}  # saves in a row that failed, by kind
        self._problem: SaveError | None = None  # of the last one
        self._unsaved_best: tuple[dict[str, np.ndarray], dict[str, object]] | None = None
        self._journal_works = True
        self._warned = False  # of a loss above that of guessing
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0  # that the last save of everything took

    @property
    def step(self) -> int:
        return self.standing.training.step

    def events(self, memory_bytes: int, threads: int) -> Iterator[Event]:
        """The whole run, from RunStarted to TrainFinished. DivergedError; SaveError after several in a row."""
        trainer, data = self.trainer, self.trainer.data
        self.control.model, self.control.tokenizer = trainer.model, self.tokenizer
        yield from self._record(
            RunStarted(
                step=self.step,
                total_steps=self.plan.total_steps,
                tokens_per_step=trainer.tokens_per_step,
                n_parameters=trainer.model.config.n_parameters,
                train_tokens=data.train.size,
                validation_tokens=data.n_validation_tokens,
                bytes_per_token=data.bytes_per_token,
                threads=threads,
                memory_bytes=memory_bytes,
                resumed=self.resumed,
            )
        )
        if not self.held_out.documents:
            yield from self._note(
                "no text is held out, so nothing is validated: OUT holds the latest weights, not the best",
                "warning",
            )
        if not self.resumed:
            yield from self.save_last()
        reason = yield from self._steps()
        yield from self.save_last()
        if reason == "interrupted":
            if self.standing.best_step is None and self.step > 0:
                yield from self._save_best()
        elif not (yield from self._finish()):
            reason = "interrupted"
        self._check_saved(finished=reason != "interrupted")
        standing = self.standing
        finished = TrainFinished(
            reason=reason,
            step=self.step,
            best_loss=standing.best_loss,
            best_bits_per_byte=standing.best_bits_per_byte,
            best_step=standing.best_step if standing.best_loss is not None else None,
            elapsed_seconds=trainer.read_clock(),
        )
        if reason != "interrupted":
            self.directory.write_result(finished)
        yield from self._record(finished)

    # ---- between saves -------------------------------------------------------------------------------------------

    def _steps(self) -> Generator[Event, None, str]:
        """Updates with everything between them; the reason for the end."""
        plan, control = self.plan, self.control
        updates = train(self.trainer, plan.total_steps)
        while True:
            standing = self.standing  # a rollback replaces it
            evaluation_due = self.step > standing.evaluated_step and self._is_due(
                plan.config.eval_every
            )
            sample_due = self.step > standing.sampled_step and self._is_due(
                plan.config.sample_every
            )
            if (evaluation_due or sample_due) and self._is_save_due():
                yield from self.save_last()
            if evaluation_due and not control.stop:
                yield from self._evaluate()
            if 0 < plan.config.patience <= standing.worse_evaluations:
                return "early_stop"
            if sample_due and not control.stop:
                yield from self._sample()
            if self.step >= plan.total_steps and standing.evaluated_step >= plan.total_steps:
                return "finished"
            if control.stop:
                return "interrupted"
            try:
                event = next(updates)
            except UnstableError as problem:
                yield from self._roll_back(str(problem))
                updates = train(self.trainer, plan.total_steps)
                continue
            yield from self._record(event)
            if control.save_now or self._is_overdue():
                control.save_now = False
                yield from self.save_last()

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step >= self.plan.total_steps

    def _evaluate(self) -> Iterator[Event]:
        """Validate; better weights become `best` and OUT."""
        standing = self.standing
        part = self.held_out
        if not part.documents:
            standing.evaluated_step = self.step
            yield from self._save_best()
            return
        began = time.monotonic()
        result: Evaluation | None = None
        steps = evaluate(
            self.trainer.model, part.documents, part.n_bytes, self.tokenizer.start_id, part.counted
        )
        while result is None:
            try:
                progress = next(steps)
            except StopIteration as stop:
                result = stop.value
                break
            if time.monotonic() - began > SILENT_SECONDS:
                yield progress
            if self.control.stop:
                return
        standing.evaluated_step = self.step
        better = standing.best_loss is None or result.nats_per_token < standing.best_loss
        standing.worse_evaluations = 0 if better else standing.worse_evaluations + 1
        yield from self._record(
            EvalFinished(
                step=self.step,
                loss=result.nats_per_token,
                bits_per_byte=result.bits_per_byte,
                best=better,
                elapsed_seconds=self.trainer.read_clock(),
            )
        )
        yield from self._compare_with_guessing(result)
        if better:
            standing.rollbacks = 0
            yield from self._save_best(result)

    def _compare_with_guessing(self, result: Evaluation) -> Iterator[Event]:
        """Say once that a model knows less than nothing: it can stay at a loss like that without a spike or a NaN."""
        guessing = math.log(self.plan.model.vocab_size)
        if self._warned or result.nats_per_token < guessing + WORSE_THAN_GUESSING:
            return
        self._warned = True
        rate = self.plan.config.learning_rate
        yield from self._note(
            f"loss {result.nats_per_token:.1f} on held-out text, where guessing has {guessing:.1f}: the learning rate, "
            f"{rate:g}, is too high; try a lower one, such as --set learning_rate={rate / 4:g}",
            "warning",
        )

    def _sample(self) -> Iterator[Event]:
        """Let the model write from the fixed prompts, or answer them, token by token."""
        model, config = self.trainer.model, self.plan.config
        roles = self.trainer.data.has_roles
        for number, prompt in enumerate(self.prompts if config.sample_tokens > 0 else ()):
            sampler = GenerateConfig(max_tokens=config.sample_tokens, seed=config.seed)
            events = write_sample(model, self.tokenizer, prompt, sampler, roles)
            if events is None:
                continue
            shown = shown_prompt(prompt, roles)
            yield SampleStarted(self.step, number, shown)
            finished: GenerateFinished | None = None
            shades: list[tuple[int, float]] = []
            for event in events:
                if isinstance(event, TokenGenerated):
                    shades.append((len(event.text), float(f"{event.p:.3g}")))
                    yield dataclasses.replace(event, sample=number)
                elif isinstance(event, GenerateFinished):
                    finished = event
                if self.control.stop:
                    return
            assert finished is not None
            text, typical_p = finished.text, finished.typical_p
            kept = tuple(shades[:MOST_SHADES])
            yield from self._record(
                SampleFinished(self.step, number, shown, text, typical_p, kept)
            )
        self.standing.sampled_step = self.step

    def _roll_back(self, problem: str) -> Iterator[Event]:
        """To the last save, past the batches since, at a lower rate; DivergedError when that has not helped before."""
        standing, reached = self.standing, dataclasses.replace(self.standing.training)
        rollbacks = standing.rollbacks + 1
        if rollbacks > recipe.ROLLBACKS:
            raise DivergedError(
                f"training diverged: {problem}, and going back {recipe.ROLLBACKS} times did not help; "
                f"try a lower learning rate, such as --set learning_rate={self.plan.config.learning_rate / 4:g}"
            )
        with checkpoint.ModelFile(self.directory.last) as file:
            restored = read_last(file, self.trainer.optimizer, self.plan.total_steps)
        restored.rollbacks = rollbacks
        training = restored.training
        left_out = (reached.step - training.step) * self.plan.config.accumulate
        training.first_batch = reached.first_batch + left_out
        training.rate_factor = reached.rate_factor * recipe.RATE_AFTER_ROLLBACK
        training.bad_steps = training.spikes = 0
        # What has been reached since stays true: the best weights are kept.
        if standing.best_loss is not None:
            restored.best_loss, restored.best_step = standing.best_loss, standing.best_step
            restored.best_bits_per_byte = standing.best_bits_per_byte
        training.elapsed_seconds = reached.elapsed_seconds
        self.standing = restored
        self.trainer.state = training
        self.trainer.gradients.flat.fill(0.0)
        self.trainer.model.pack()
        yield from self._note(
            f"{problem}: back to step {training.step}, past the {left_out} batches since, "
            f"and {training.rate_factor:g} times the learning rate from here",
            "warning",
        )
        yield from self.save_last()

    def _finish(self) -> Generator[Event, None, bool]:
        """The best weights, calibrated, become the result; False when the calibration is cut short.

        All steps are saved then, so a run that goes on from there has only this left to do.
        """
        yield from self._keep_directory()
        standing, model = self.standing, self.trainer.model
        if standing.best_step not in (None, self.step):
            if self._unsaved_best is not None:
                for name, weights in self._unsaved_best[0].items():
                    model.parameters.views[name][...] = weights
            else:
                read_best(self.directory.best, model.parameters)
            model.pack()
        calibration: Calibration | None = None
        if self.plan.config.calibrate:
            self.trainer.workspace.release()  # no step follows: the calibration needs room of its own
            calibration = yield from self._calibrate()
            if calibration is None:
                yield from self._note("the calibration was cut short: going on makes it up")
                return False
        yield from self._save_best(calibration=calibration)
        return True

    def _calibrate(self) -> Generator[Event, None, Calibration | None]:
        """Confidence, in a small part of the run's time; None when that is cut short."""
        began = time.monotonic()
        calibration: Calibration | None = None
        held_out = self.trainer.data.validation
        for event in calibrate(
            *(self.trainer.model, self.tokenizer, held_out),
            seconds=recipe.calibration_seconds(self.trainer.read_clock()),
            seed=self.plan.config.seed,
            counted=held_out.masks,
        ):
            if isinstance(event, Calibration):
                calibration = event
            elif self.control.stop:
                return None
            elif time.monotonic() - began > SILENT_SECONDS:
                yield event
        assert calibration is not None
        yield from self._note(calibration.in_words(time.monotonic() - began))
        return calibration

    # ---- files ---------------------------------------------------------------------------------------------------

    def save_last(self) -> Iterator[Event]:
        """Save everything that is needed to go on, unless the weights may be bad: then the older save is the better.

        It is so, too, while the best weights wait for the disk: a run that goes on from there finds them again.
        """
        training = self.standing.training
        if training.bad_steps > 0 or training.spikes > 0:
            return
        yield from self._keep_directory()
        if self._unsaved_best is not None:
            yield from self._write_best(*self._unsaved_best, kind="last")
            if self._unsaved_best is not None:
                self._saved_at = time.monotonic()
                return
        self.trainer.read_clock()
        self.standing.journal_sizes = self.directory.journal_sizes()
        self.standing.unwritten = self.directory.unwritten()
        path, began = self.directory.last, time.monotonic()
        try:
            size = write_last(path, self.trainer.optimizer, self._metadata(), self.standing)
        except SaveError as problem:
            yield from self._failed("last", problem)
        else:
            self._failures["last"] = 0
            yield from self._record(CheckpointSaved(self.step, str(path), "last", size))
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began

    def _save_best(
        self, result: Evaluation | None = None, calibration: Calibration | None = None
    ) -> Iterator[Event]:
        """Save the weights as the best ones, and make OUT a copy of them.

        result: the evaluation that says so
        """
        yield from self._keep_directory()
        standing = self.standing
        if result is not None:
            standing.best_loss, standing.best_step = result.nats_per_token, self.step
            standing.best_bits_per_byte = result.bits_per_byte
        elif standing.best_loss is None:
            standing.best_step = self.step
        self._unsaved_best = None  # these are better
        yield from self._write_best(
            self.trainer.model.parameters.views, self._metadata(calibration)
        )

    def _write_best(
        self, weights: Mapping[str, np.ndarray], metadata: dict[str, object], kind: str = "best"
    ) -> Iterator[Event]:
        """Write weights to `best` and OUT. Where that fails a copy waits, and every later save tries it first.

        kind: what has failed then
        """
        best, out = self.directory.best, Path(self.plan.request.out)
        try:
            size = write_best(best, weights, metadata)
        except SaveError as problem:
            if self._unsaved_best is None:
                self._unsaved_best = {name: w.copy() for name, w in weights.items()}, metadata
            yield from self._failed(kind, problem)
            return
        self._unsaved_best = None
        self._failures["best"] = 0
        step = self.step if self.standing.best_step is None else self.standing.best_step
        yield from self._record(CheckpointSaved(step, str(best), "best", size))
        try:
            size = publish(best, out)
        except SaveError as problem:
            yield from self._failed("out", problem)
            return
        self._failures["out"] = 0
        yield from self._record(CheckpointSaved(step, str(out), "out", size))

    def _keep_directory(self) -> Iterator[Event]:
        """When somebody has removed the run's folder: make it again, with all that is still known."""
        if not self.directory.restore():
            return
        standing, path = self.standing, self.directory.path
        try:
            self.directory.write_settings(self.plan.as_record())
            best_is_there = recover_best(
                self.directory.best, Path(self.plan.request.out), standing.best_step
            )
        except SaveError as problem:
            yield from self._failed("settings", problem)
            best_is_there = False
        if not (best_is_there or self._unsaved_best):  # what comes next is better than nothing
            standing.best_loss = standing.best_bits_per_byte = standing.best_step = None
        yield from self._note(
            f"{path}: was removed: it is made again, without the losses and samples so far",
            "warning",
        )

    def _failed(self, kind: str, problem: SaveError) -> Iterator[Event]:
        """Show a save that failed; several in a row of the same file end the run."""
        self._failures[kind] = self._failures.get(kind, 0) + 1
        self._problem = problem
        if self._failures[kind] >= recipe.FAILED_SAVES:
            raise SaveError(f"{problem}, {recipe.FAILED_SAVES} times in a row: {self._advice()}")
        yield from self._note(f"{problem}; what was saved before is whole", "warning")

    def _check_saved(self, finished: bool) -> None:
        """SaveError when the run ends with something unsaved: going on makes and saves it."""
        if any(self._failures.get(kind) for kind in ("best", "out", "last")):
            raise SaveError(f"{self._problem}: {self._advice()}")
        problem = self.directory.write_unwritten()
        if finished and problem is not None:  # what waits is in `last`, which nobody would read again
            raise SaveError(f"{problem}: {self._advice()}")

    def _advice(self) -> str:
        if not self.directory.last.exists():
            best = self.directory.best
            if best.exists():
                return f"there is nothing to go on with, but {best} holds the best model so far"
            return "nothing was saved before"
        out = self.plan.request.out
        return f"once it can be, `slim resume {out}` goes on from the last save"

    def _is_save_due(self) -> bool:
        """Whether saving now keeps saves a small part of the time."""
        pause = max(recipe.SAVE_SECONDS, self._save_seconds / recipe.SAVE_SHARE)
        return time.monotonic() - self._saved_at >= pause

    def _is_overdue(self) -> bool:
        """Whether the next evaluation is not worth waiting for."""
        pause = max(recipe.SAVE_SECONDS, self._save_seconds / recipe.SAVE_SHARE)
        return time.monotonic() - self._saved_at >= 2.0 * pause

    def _metadata(self, calibration: Calibration | None = None) -> dict[str, object]:
        request = self.plan.request
        run: dict[str, object] = {
            "command": request.command,
            "data": path_in_words(Path(request.data).name),
            "corpus_sha256": self.plan.corpus_digest,
        }
        if self.trainer.data.has_roles:
            run["chat"] = True  # see conversation.knows_roles
        entry = history_entry(run, self.standing, self.trainer.model.precision)
        return model_metadata(
            self.trainer.model.config,
            self.tokenizer,
            [*self.history, entry],
            calibration.as_dict() if calibration is not None else None,
        )

    def _record(self, event: Event) -> Iterator[Event]:
        """The event, once it is in the journal; a journal that begins to fail is spoken of once."""
        problem = self.directory.record(event)
        if isinstance(event, Note):
            self.directory.log(event.text)
        elif isinstance(event, (RunStarted, TrainFinished)):
            self.directory.log(repr(event))
        yield event
        if problem is not None and self._journal_works:
            yield Note(f"{problem}; it is tried again", "warning")
        self._journal_works = problem is None

    def _note(self, text: str, level: str = "info") -> Iterator[Event]:
        yield from self._record(Note(text, level))


@dataclass(frozen=True, slots=True)
class HeldOutPart:
    """Documents to be measured on, which of their ids are (None: all), and the bytes of the text that is."""

    documents: list[np.ndarray]
    counted: list[np.ndarray | None]
    n_bytes: int


def held_out_part(data: TokenData, tokenizer: Tokenizer, n_tokens: int) -> HeldOutPart:
    """Held-out documents, at most n_tokens of them together: evenly taken from all."""
    held_out = data.validation
    stride = max(1, data.n_validation_tokens // max(1, n_tokens))
    documents: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    n_bytes, left = 0, n_tokens
    for number in range(0, len(held_out), stride):
        ids, counted = held_out[number], held_out.counted_of(number)
        part, mask = ids[:left], None if counted is None else counted[:left]
        if mask is not None and not mask.any():
            continue
        if part.size:
            documents.append(part)
            masks.append(mask)
            whole = part.size == ids.size
            measured = part if mask is None else part[mask]
            n_bytes += (
                int(held_out.n_bytes[number]) if whole else len(tokenizer.decode_bytes(measured))
            )
            left -= part.size
        if left <= 0:
            break
    return HeldOutPart(documents, masks, n_bytes)
