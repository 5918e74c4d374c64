"""What a measuring process of ours does: prepare, compute something that can be checked, measure on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from slim.bench import ceilings
from slim.bench.job import (
    CeilingsJob,
    GenerationJob,
    Job,
    Measured,
    Part,
    ProfileJob,
    Ready,
    TokenizerJob,
    TrainingJob,
)
from slim.bench.machine import peak_memory_bytes
from slim.compute import set_threads
from slim.config import ModelConfig, TrainConfig
from slim.data import TokenData
from slim.errors import SlimError
from slim.events import StepSkipped
from slim.model import Model
from slim.parameters import Parameters
from slim.trainer import Trainer, train

LEARNING_RATE = 1e-5
ENDLESS = 2**40  # updates
BATCHES = 4  # of a profile
SEPARATOR = b"<|endoftext|>"
Clock = Callable[[], float]


class Work(Protocol):
    """A prepared job."""

    loss: float | None

    def measure(self) -> dict[str, list[float]]:
        """Measure once: lists of numbers by a name that says their unit."""


class TrainingWork:
    """Whole updates, made by the loop of a training run."""

    def __init__(self, job: TrainingJob, clock: Clock = time.perf_counter) -> None:
        self.job, self.clock = job, clock
        tokens = np.fromfile(job.tokens, np.int32)
        first = tokens.reshape(job.batches, job.batch, job.length + 1)[0]
        self.model = make_model(job.model, job.weights, job.mode)
        trainer = make_trainer(self.model, job.batch, job.length, tokens)
        self.loss: float | None = self.model.loss_and_gradients(
            trainer.workspace, first[:, :-1], first[:, 1:], trainer.gradients
        )
        trainer.gradients.flat.tofile(job.results)
        trainer.gradients.flat.fill(0.0)
        self.updates = updates(trainer)
        for _ in range(job.warmup):
            next(self.updates)

    def measure(self) -> dict[str, list[float]]:
        """Seconds of some steps."""
        seconds = []
        for _ in range(self.job.steps):
            started = self.clock()
            next(self.updates)
            seconds.append(self.clock() - started)
        return {"step_seconds": seconds}


class GenerationWork:
    """A prefill, and single tokens of one text or several: the logits are computed, nothing is drawn from them."""

    def __init__(self, job: GenerationJob, clock: Clock = time.perf_counter) -> None:
        self.job, self.clock = job, clock
        self.loss: float | None = None
        self.ids = np.fromfile(job.ids, np.int32)
        self.model = make_model(job.model, job.weights, job.mode)
        self.cache = self.model.new_cache(len(self.ids))
        rows = [self.model.prefill(self.cache, self.ids[:1]).copy()]
        rows += [self.model.decode(self.cache, int(i)).copy() for i in self.ids[1:]]
        np.array(rows, np.float32).tofile(job.results)
        self.several = self.model.new_cache(len(self.ids), job.together)
        for _ in range(job.warmup):
            self._seconds()
            self._seconds_together()

    def _seconds(self) -> tuple[float, float]:
        model, cache, ids = self.model, self.cache, self.ids
        cache.truncate(0)
        started = self.clock()
        model.prefill(cache, ids)
        prefill = self.clock() - started
        cache.truncate(0)
        singles = ids.tolist()
        started = self.clock()
        model.prefill(cache, ids[:1])
        for token in singles[1:]:
            model.decode(cache, token)
        return prefill, self.clock() - started

    def measure(self) -> dict[str, list[float]]:
        """Seconds of a whole prefill, and of decoding as many tokens."""
        pairs = [self._seconds() for _ in range(self.job.repeats)]
        return {
            "prefill_seconds": [prefill for prefill, _ in pairs],
            "decode_seconds": [decode for _, decode in pairs],
            "together_seconds": [self._seconds_together() for _ in range(self.job.repeats)],
        }

    def _seconds_together(self) -> float:
        """Of decoding as many tokens of each of several texts."""
        model, cache = self.model, self.several
        cache.truncate(0)
        tokens = np.repeat(self.ids[:, None], cache.rows, axis=1)
        started = self.clock()
        for column in tokens:
            model.decode_rows(cache, column)
        return self.clock() - started


class TokenizerWork:
    """A vocabulary built from a text, and the text encoded with it by an encoder that has seen nothing yet."""

    def __init__(self, job: TokenizerJob, clock: Clock = time.perf_counter) -> None:
        from slim.tokenizer import Tokenizer, train_tokenizer

        self.job, self.clock = job, clock
        self.loss: float | None = None
        set_threads(job.threads)
        text = Path(job.text).read_bytes()
        self.documents = [part for part in text.split(SEPARATOR) if part.strip()]
        self._build = train_tokenizer
        self.vocabulary = train_tokenizer(self.documents, job.vocab_size).to_json()
        Path(job.vocabulary).write_text(self.vocabulary, encoding="utf-8")
        self._new = Tokenizer.from_json
        self._new(self.vocabulary).encode_documents(self.documents)[0].tofile(job.results)

    def measure(self) -> dict[str, list[float]]:
        """Seconds of building and of encoding."""
        started = self.clock()
        self._build(self.documents, self.job.vocab_size)
        build = self.clock() - started
        fresh = self._new(self.vocabulary)
        started = self.clock()
        fresh.encode_documents(self.documents)
        return {"build_seconds": [build], "encode_seconds": [self.clock() - started]}


class CeilingsWork:
    """The limits of the machine."""

    def __init__(self, job: CeilingsJob) -> None:
        self.job = job
        self.loss: float | None = None

    def measure(self) -> dict[str, list[float]]:
        """GFLOP/s of products by precision, GB/s of a copy, and of reading by size, on one thread and on all."""
        values = {"copy": ceilings.copy_gb_per_second(self.job.copy_bytes, self.job.threads)}
        for precision in ceilings.measurable_precisions():
            values[f"products {precision}"] = ceilings.matmul_gflops(precision, self.job.threads)
        for size in self.job.read_bytes:
            for threads in sorted({1, self.job.threads}):
                values[f"read {size} {threads}"] = ceilings.read_gb_per_second(size, threads)
        return values


class ProfileWork:
    """Where the time of a step and of a token goes."""

    def __init__(self, job: ProfileJob) -> None:
        self.job = job
        self.loss: float | None = None

    def measure(self) -> dict[str, list[float]]:
        """Nothing but the parts."""
        return {}

    def parts(self) -> tuple[Part, ...]:
        """Every part of a step and of a token."""
        from slim.bench.step_profile import profile_step
        from slim.bench.token_profile import profile_token

        job = self.job
        model = make_model(job.model, job.weights, job.mode)
        count = BATCHES * job.batch * (job.length + 1)
        ids = np.random.default_rng(0).integers(0, job.model.vocab_size, count).astype(np.int32)
        steps = updates(make_trainer(model, job.batch, job.length, ids))
        return (
            *profile_step(lambda: next(steps), job.mode, job.steps),
            *profile_token(model, job.tokens),
        )


def make_trainer(model: Model, batch: int, length: int, tokens: np.ndarray) -> Trainer:
    """What trains a model on ids (n,) int32, at a rate that leaves it as it is."""
    data = TokenData(tokens, n_train_bytes=tokens.size)
    return Trainer(model, data, TrainConfig(learning_rate=LEARNING_RATE, optimizer="adamw"), batch, length)


def updates(trainer: Trainer) -> Iterator[float]:
    """Endless updates: the loss of each."""
    for event in train(trainer, ENDLESS):
        if isinstance(event, StepSkipped):
            raise SlimError(f"the step was skipped: {event.reason}")
        yield event.loss


def make_model(config: ModelConfig, weights: str, mode: str) -> Model:
    """A model with the weights of a raw file; an empty name gives it fresh ones.

    mode: fp32 or bf16
    """
    parameters = Parameters(config)
    if weights:
        parameters.flat[:] = np.fromfile(weights, np.float32)
    else:
        parameters.initialise(0)
    return Model(config, parameters, mode)


def prepare(job: Job) -> tuple[Work, Ready]:
    """Whatever is needed before a measurement, with one thread count for all that follows in this thread."""
    set_threads(job.threads)
    work: Work
    match job:
        case TrainingJob():
            work = TrainingWork(job)
        case GenerationJob():
            work = GenerationWork(job)
        case TokenizerJob():
            work = TokenizerWork(job)
        case CeilingsJob():
            work = CeilingsWork(job)
        case ProfileJob():
            work = ProfileWork(job)
    threads = "1 thread" if job.threads == 1 else f"{job.threads} threads"
    return work, Ready(f"SLiM, {threads}", work.loss, peak_memory_bytes())


def measured(work: Work) -> Measured:
    """One measurement and the memory it took."""
    parts = work.parts() if isinstance(work, ProfileWork) else ()
    return Measured(work.measure(), peak_memory_bytes(), parts)
