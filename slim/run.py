"""The door to a training run: from what was asked for to a run that goes, fresh or where it stopped.

`start` and `resume` are generators of events, to be read in the engine thread:

    control = RunControl()
    job = slim.compute.submit(start(Request("train", "notes.txt", 50, "quick.bin"), control))
    job.poll()                          the events since the last call
    job.pause(), job.resume()           at once, between two events
    control.save_now = True             between two steps
    control.stop = True                 finish the step, save, end with TrainFinished("interrupted"): read on until then
    submit(generate(control.model, control.tokenizer, ...))      what it writes now, while it goes on training

Whoever closes the generator instead ends the run without a save; what was saved before is whole, and `resume` goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

from slim import checkpoint, recipe
from slim.atomic_file import check_writable
from slim.compiling import warm_up
from slim.compute import set_threads, usable_cores
from slim.config import ModelConfig, TrainConfig
from slim.corpus import Corpus, survey
from slim.data import TokenData, choose_seq_len
from slim.errors import ConfigError, DataError, ModelFileError, SlimError, UsageError
from slim.evaluate import evaluate
from slim.events import Event, Note, Progress, TrainFinished
from slim.input_file import HEAD_BYTES
from slim.kernels.table import kernels_of
from slim.memory import PROGRAM_BYTES, check_fits
from slim.model import Model, choose_precision, workspace_bytes
from slim.model_file import model_config, model_tokenizer, open_source, read_weights
from slim.optim import moment_bytes
from slim.parameters import Parameters
from slim.plan import Plan, with_threads
from slim.request import Request, RunControl
from slim.run_checkpoint import read_last
from slim.run_directory import RunDirectory, directory_of, read_settings
from slim.text_files import STDIN, find_files, keep_stdin, stdin_file, total_size
from slim.token_files import load_tokens, tokenizer_digest
from slim.tokenizer import (
    LARGEST_VOCAB_SIZE,
    Tokenizer,
    build_tokenizer,
    choose_vocab_size,
    compile_tokenizer,
)
from slim.trainer import Trainer
from slim.training_run import TrainingRun, held_out_part
from slim.wording import duration

SILENT_SECONDS = 0.5  # of a stage, before its progress is told
T = TypeVar("T")


class _StoppedError(Exception):
    """The person asked for an end before the first step."""


def start(request: Request, control: RunControl | None = None) -> Iterator[Event]:
    """A run from its beginning, or with `request.resume` one that goes on. UsageError, DataError, ConfigError."""
    control = RunControl() if control is None else control
    began = time.monotonic()
    _check_paths(request)
    if request.resume and directory_of(request.out).joinpath("settings.json").exists():
        yield from resume(request.out, control, _threads_of(request), request)
        return
    config = recipe.train_config(request)
    _check_sizes(request, config)
    check_writable(request.out)
    with _open_directory(request.out, control) as directory:
        if directory.last.exists() and not request.force:
            raise UsageError(
                f"{directory.path}: holds a run that was begun: `slim resume {request.out}` goes on "
                f"with it, --force starts again"
            )
        try:
            run, memory, threads = yield from _begin(request, config, directory, control, began)
        except _StoppedError:
            yield _stopped(0)
            return
        yield from run.events(memory, threads)


def resume(
    out: str | Path,
    control: RunControl | None = None,
    threads: int | None = None,
    request: Request | None = None,
) -> Iterator[Event]:
    """Go on with the run of `out` from its last save: to the byte as if it had never stopped.

    request: what is asked for now, which must be what the run was begun with
    """
    control = RunControl() if control is None else control
    plan = Plan.from_record(read_settings(out), directory_of(out) / "settings.json")
    if request is not None:
        plan.check_same(request)
    plan = with_threads(
        plan, min(plan.config.threads, usable_cores()) if threads is None else threads
    )
    plan = dataclasses.replace(plan, request=dataclasses.replace(plan.request, out=str(out)))
    check_writable(out)
    with _open_directory(out, control) as directory:
        if not directory.last.exists():
            raise UsageError(f"{directory.path}: nothing was saved there: start again with --force")
        result = directory.read_result()
        if result is not None and Path(out).exists():
            yield Note(
                f"{out}: its run has come to its end; `slim finetune {out} ...` goes further"
            )
            yield result
            return
        try:
            run, memory, used = yield from _reopen(plan, directory, control)
        except _StoppedError:
            yield _stopped(_saved_step(directory))
            return
        except ModelFileError as problem:
            advice = "start again with --force"
            if Path(out).exists():
                advice += (
                    f", or build on what was learnt: `slim finetune {out} {plan.request.data} "
                    f"EPOCHS NEW_OUT`"
                )
            raise ModelFileError(f"{problem}: {advice}") from problem
        directory.write_result(None)
        yield from run.events(memory, used)


# ---- a run that begins -----------------------------------------------------------------------------------------------


def _begin(
    request: Request,
    config: TrainConfig,
    directory: RunDirectory,
    control: RunControl,
    began: float,
) -> Generator[Event, None, tuple[TrainingRun, int, int]]:
    """The run, its peak memory in bytes and its threads."""
    threads = set_threads(config.threads)
    base = (yield from _read_base(request.base)) if request.base is not None else None
    if request.data == STDIN:
        keep_stdin(directory.stdin_text)
        _check_stop(control)
    corpus = yield from _told(_read_text(request, directory), control)
    yield from corpus.notes
    if base is None:
        asked = request.settings.model.get("vocab_size")
        wanted = asked if isinstance(asked, int) else choose_vocab_size(corpus.n_bytes)
        yield from _sample_note(corpus.n_bytes)
        yield from compile_tokenizer()
        _check_stop(control)
        steps = build_tokenizer(corpus.texts(), wanted, corpus.n_bytes)
        tokenizer = yield from _told(steps, control)
        if isinstance(asked, int) and tokenizer.vocab_size < asked:
            yield Note(
                f"the text has too little that repeats for {asked:,} tokens: "
                f"the vocabulary has {tokenizer.vocab_size:,}"
            )
        sizes = recipe.model_config(request, tokenizer.vocab_size, corpus.n_bytes)
        parameters = Parameters(sizes).initialise(config.seed)
        history: list[dict[str, object]] = []
    else:
        parameters, tokenizer, history = base
        sizes = parameters.config
    precision = choose_precision(config.precision, sizes)
    tokens = load_tokens(directory.tokens, corpus, tokenizer, config.validation_share)
    data = yield from _told(tokens, control)
    digest = corpus.digest
    del corpus
    B, T = recipe.batch_shape(config, _seq_len(config, sizes, data))
    memory = memory_bytes(sizes, B, T, precision, config.optimizer)
    check_fits(memory, sizes.n_parameters)
    yield from _compiled(precision, config.optimizer, control)
    trainer = Trainer(Model(sizes, parameters, precision), data, config, B, T)
    if base is not None:
        trainer.config = yield from _with_rate_for(trainer, tokenizer, request, control)

    directory.clear()
    total_steps = yield from _count_steps(trainer, control, began)
    config = recipe.with_intervals(trainer.config, total_steps, trainer.steps_per_epoch)
    trainer.config = config
    plan = Plan(
        request=request,
        config=config,
        model=sizes,
        precision=precision,
        B=B,
        T=T,
        total_steps=total_steps,
        validation_tokens=recipe.validation_tokens(config.eval_every, trainer.tokens_per_step),
        corpus_digest=digest,
        tokenizer_digest=tokenizer_digest(tokenizer),
    )
    directory.write_settings(plan.as_record())
    trainer.start_clock(began)
    return TrainingRun(plan, directory, control, trainer, tokenizer, history), memory, threads


def _with_rate_for(
    trainer: Trainer, tokenizer: Tokenizer, request: Request, control: RunControl
) -> Generator[Event, None, TrainConfig]:
    """What the base makes of the held-out text is told, and decides on the learning rate where nobody asked for one."""
    part = held_out_part(trainer.data, tokenizer, recipe.BASE_TOKENS)
    if not part.documents:
        return trainer.config
    steps = evaluate(trainer.model, part.documents, part.n_bytes, tokenizer.start_id, part.counted)
    found = yield from _told(steps, control)
    words = f"without training the base has {found.bits_per_byte:.3f} bits/byte on held-out text"
    if "learning_rate" in request.settings.train:
        yield Note(words)
        return trainer.config
    rate = recipe.finetune_rate(trainer.config.learning_rate, found.bits_per_byte)
    yield Note(f"{words}: the learning rate is {rate:g}")
    return dataclasses.replace(trainer.config, learning_rate=rate)


def _count_steps(
    trainer: Trainer, control: RunControl, began: float
) -> Generator[Event, None, int]:
    """How many steps a run has: its epochs, the steps asked for, or what fits the minutes, whichever is least."""
    config = trainer.config
    limits = []
    if config.epochs is not None:
        limits.append(max(1, math.ceil(config.epochs * trainer.steps_per_epoch - 1e-9)))
    if config.max_steps is not None:
        limits.append(config.max_steps)
    if config.minutes is not None:
        seconds = 60.0 * config.minutes
        step_seconds = yield from _time_steps(trainer, control, seconds)
        gone = time.monotonic() - began
        left = max(seconds - gone, recipe.LEAST_SHARE * seconds)
        if left > seconds - gone:
            yield Note(
                f"preparing took {duration(gone)}: training goes on for {duration(left)} all the same, "
                f"which is more than {config.minutes:g} minutes together",
                "warning",
            )
        save_seconds = trainer.model.config.n_parameters * 20 / 4e8
        limits.append(recipe.steps_in(left, step_seconds, save_seconds))
    if not limits:
        raise ConfigError("a run needs an end: EPOCHS, --minutes or --max-steps")
    return min(limits)


def _time_steps(
    trainer: Trainer, control: RunControl, seconds: float
) -> Generator[Event, None, float]:
    """Seconds of a step: the median of some that change nothing. The first one is not counted: it warms caches."""
    deadline = time.monotonic() + recipe.TIMED_SHARE * seconds
    trainer.rehearse()
    times: list[float] = []
    while len(times) < recipe.TIMED_STEPS and (len(times) < 3 or time.monotonic() < deadline):
        times.append(trainer.rehearse())
        yield Progress("timing", len(times), recipe.TIMED_STEPS)
        _check_stop(control)
    if len(times) < recipe.TIMED_STEPS:
        yield Progress("timing", recipe.TIMED_STEPS, recipe.TIMED_STEPS)
    return statistics.median(times)


def _seq_len(config: TrainConfig, sizes: ModelConfig, data: TokenData) -> int:
    recipe.check_seq_len(config, sizes)
    if config.seq_len == 0:
        wanted = min(recipe.SEQ_LEN, sizes.max_seq_len, config.batch_tokens)
        return choose_seq_len(data.train.size, wanted)
    if config.seq_len > data.train.size:
        raise DataError(
            f"the text is too short: without its validation part it has {data.train.size:,} tokens, "
            f"but a sequence has {config.seq_len:,} (--seq-len)"
        )
    return config.seq_len


def _read_base(
    path: str,
) -> Generator[Event, None, tuple[Parameters, Tokenizer, list[dict[str, object]]]]:
    """Weights, vocabulary and history of the model that finetuning starts from."""
    with open_source(path) as source:
        yield from source.notes
        sizes = source.config
        check_fits(memory_bytes(sizes, 1, 1, "fp32"), sizes.n_parameters)
        parameters = yield from read_weights(source)
        return parameters, source.tokenizer, _history_of(source.metadata)


# ---- a run that goes on ----------------------------------------------------------------------------------------------


def _reopen(
    plan: Plan, directory: RunDirectory, control: RunControl
) -> Generator[Event, None, tuple[TrainingRun, int, int]]:
    """The run where it was saved last, its peak memory in bytes and its threads."""
    threads = set_threads(plan.config.threads)
    sizes = plan.model
    check_fits(memory_bytes(sizes, plan.B, plan.T, plan.precision, plan.config.optimizer), sizes.n_parameters)
    with checkpoint.ModelFile(directory.last) as file:
        if model_config(file.metadata, directory.last) != sizes:
            raise DataError(
                f"{directory.last}: is a model of other sizes than settings.json speaks of: "
                f"start again with --force"
            )
        tokenizer = model_tokenizer(file.metadata, sizes, directory.last)
        history = _history_of(file.metadata)[:-1]
        if tokenizer_digest(tokenizer) != plan.tokenizer_digest:
            raise DataError(
                f"{directory.last}: has another vocabulary than this run was begun with: put back the file "
                f"that belongs there to go on; or start again with --force"
            )
        corpus = yield from _told(_read_text(plan.request, directory), control)
        if corpus.digest != plan.corpus_digest:
            out, text = plan.request.out, plan.request.data
            raise DataError(
                f"{text}: is not the text that this run was begun with: put that back to go on; or start "
                f"again with --force; or `slim finetune {out} {text} EPOCHS NEW_OUT` to build on what was learnt"
            )
        yield from corpus.notes
        tokens = load_tokens(directory.tokens, corpus, tokenizer, plan.config.validation_share)
        data = yield from _told(tokens, control)
        memory = memory_bytes(sizes, plan.B, plan.T, plan.precision, plan.config.optimizer)
        del corpus
        yield from _compiled(plan.precision, plan.config.optimizer, control)
        model = Model(sizes, Parameters(sizes), plan.precision)
        trainer = Trainer(model, data, plan.config, plan.B, plan.T)
        standing = read_last(file, trainer.optimizer, plan.total_steps)
    model.pack()
    directory.cut_back(standing.journal_sizes, standing.unwritten)
    run = TrainingRun(plan, directory, control, trainer, tokenizer, history, standing)
    trainer.start_clock()
    return run, memory, threads


# ---- both ------------------------------------------------------------------------------------------------------------


def memory_bytes(sizes: ModelConfig, B: int, T: int, precision: str, optimizer: str = "muon") -> int:
    """The peak memory of a run: program, weights, gradients, moments, packed copies and activations.

    The text is on disk, and little of it in memory at any time.
    """
    operand = 2 if precision == "bf16" else 4
    total = PROGRAM_BYTES + sizes.n_parameters * (2 * 4 + 2 * operand)
    total += moment_bytes(sizes, optimizer, operand, usable_cores())
    return total + workspace_bytes(sizes, B, T, True, precision)


@contextlib.contextmanager
def _open_directory(out: str | Path, control: RunControl) -> Iterator[RunDirectory]:
    """The locked run directory; what ends the run is logged in it."""
    directory = RunDirectory(out)
    try:
        yield directory
    except SlimError as problem:
        directory.log(f"ended: {problem}")
        raise
    except Exception:
        directory.log(f"ended: {traceback.format_exc()}")
        raise
    finally:
        control.model = control.tokenizer = None
        directory.close()


def _told(events: Generator[Event, None, T], control: RunControl) -> Generator[Event, None, T]:
    """A stage whose progress is told once it has taken a while; its result."""
    began = time.monotonic()
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value
        if not isinstance(event, Progress) or time.monotonic() - began > SILENT_SECONDS:
            yield event
        _check_stop(control)


def _compiled(precision: str, optimizer: str, control: RunControl) -> Iterator[Event]:
    """Compile what a run needs, or load it."""
    for event in warm_up(kernels_of(precision, True, optimizer)):
        yield event
        _check_stop(control)


def _check_stop(control: RunControl) -> None:
    if control.stop:
        raise _StoppedError


def _stopped(step: int) -> TrainFinished:
    return TrainFinished("interrupted", step, None, None, None, 0.0)


def _check_paths(request: Request) -> None:
    """UsageError when OUT would take the place of something that is still needed."""
    out = Path(request.out)
    for name, path in (("the text", request.data), ("BASE", request.base)):
        if path is not None and _is_same(out, Path(path)):
            raise UsageError(f"OUT must not be {name} itself, but both are {request.out}")
    if request.resume or not out.exists():
        return
    if not request.force:
        raise UsageError(
            f"{out}: exists: choose another OUT, or add --resume to go on with its run, "
            f"or --force to replace it"
        )
    if out.is_file() and not _may_be_model(out):
        raise UsageError(f"{out}: is no model, so --force does not replace it: remove it yourself")


def _saved_step(directory: RunDirectory) -> int:
    """The step of the last save."""
    run = checkpoint.read_metadata(directory.last)[0].get("run")
    training = run.get("training") if isinstance(run, dict) else None
    step = training.get("step") if isinstance(training, dict) else None
    return step if isinstance(step, int) else 0


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def _may_be_model(path: Path) -> bool:
    """Whether a file begins like a model, or is empty or not readable, which leaves nothing to be lost."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return True
    return not head or head[8:9] == b"{"


def _check_sizes(request: Request, config: TrainConfig) -> None:
    """ConfigError for sizes that make no sense or do not fit, before anything is read."""
    asked = request.settings.model
    if request.command == "finetune":
        if asked:
            raise UsageError(
                f"finetune keeps the sizes of its base, so {next(iter(asked))} cannot be set"
            )
        return
    n_bytes = total_size(request.data)
    if n_bytes is None:
        return  # what is wrong with it is said when it is read
    vocab_size = asked.get("vocab_size", LARGEST_VOCAB_SIZE)
    sizes = recipe.model_config(request, vocab_size, n_bytes)  # type: ignore[arg-type]
    recipe.check_seq_len(config, sizes)
    T = config.seq_len or min(recipe.SEQ_LEN, sizes.max_seq_len)
    precision = choose_precision(config.precision, sizes)
    needed = memory_bytes(sizes, *recipe.batch_shape(config, T), precision, config.optimizer)
    check_fits(needed, sizes.n_parameters)


def _read_text(request: Request, directory: RunDirectory) -> Generator[Progress, None, Corpus]:
    """The text of a run as it is on disk now."""
    settings = request.settings
    files, notes = (
        ([stdin_file(directory.stdin_text)], [])
        if request.data == STDIN
        else find_files(request.data)
    )
    return (
        yield from survey(
            *(files, notes),
            split=settings.split or "file",
            max_bytes=request.max_bytes,
            plain=settings.plain,
        )
    )


def _sample_note(n_bytes: int) -> Iterator[Note]:
    """Said when a vocabulary is built on a part of the text."""
    from slim.vocabulary import sample_stride

    stride = sample_stride(n_bytes)
    if stride > 1:
        yield Note(
            f"the vocabulary is built on a sample: one of {stride} pieces of the text, "
            f"{n_bytes / stride / 1e6:,.0f} of {n_bytes / 1e6:,.0f} MB"
        )


def _threads_of(request: Request) -> int | None:
    threads = request.settings.train.get("threads")
    return threads if isinstance(threads, int) else None


def _history_of(metadata: dict[str, object]) -> list[dict[str, object]]:
    history = metadata.get("history")
    return (
        [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    )
