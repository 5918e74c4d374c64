"""A training run: text becomes tokens, then steps, validation, samples and saved files follow each other as events.

`start` and `resume` are generators: whoever reads them drives the training, and whoever stops reading stops it. They hold
the run directory and nothing else of the world. `RunControl` is how a shell asks for an end or for a file between two
steps, and where it finds the live model. All of it runs in the engine thread.

Order matters: what is needed to go on is saved before anything else is done at a step, so a process that is killed while
it validates or writes a sample does that again, and no step is lost or made twice.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slim import checkpoint, recipe
from slim.atomic_file import check_writable
from slim.calibrate import Calibration, calibrate
from slim.compute import set_threads, warm_up
from slim.config import GenerateConfig, ModelConfig, TrainConfig, as_dict
from slim.corpus import Corpus, read_corpus
from slim.data import TokenData, choose_seq_len, prepare, steps_per_epoch
from slim.errors import ConfigError, DataError, DivergedError, ModelFileError, SaveError, UsageError
from slim.evaluate import Evaluation, evaluate
from slim.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    GenerateFinished,
    Note,
    Progress,
    RunStarted,
    SampleFinished,
    SampleStarted,
    TokenGenerated,
    TrainFinished,
)
from slim.generate import generate
from slim.kernels.table import kernels_of
from slim.memory import PROGRAM_BYTES, check_fits
from slim.model import Model, Workspace, choose_precision, workspace_bytes
from slim.model_file import (
    OPTIMIZER_PREFIX,
    load_model,
    model_config,
    model_metadata,
    model_tokenizer,
)
from slim.optim import AdamW
from slim.parameters import Parameters, parameter_shapes
from slim.request import Request, RunControl
from slim.run_directory import RunDirectory, read_settings
from slim.tokenizer import Tokenizer, build_tokenizer, choose_vocab_size
from slim.train import TrainingState, UnstableError, train

SAVE_SECONDS = 120.0  # between two saves of `last`, at most
FAILED_SAVES = 3  # in a row that end a run
ROLLBACKS = 3  # before a run is given up
TIMED_STEPS = 20  # from which the speed of a run with --minutes is measured ...
TIMED_SHARE = 0.02  # ... unless they would take more than this share of it
SAVE_RESERVE_SECONDS = 2.0  # of a run with --minutes, for its last files
FORWARD_SHARE = 0.4  # of the time of a training step, for the same tokens
SAMPLE_SECONDS = 0.3  # that a sample takes, as far as the plan of a run with --minutes goes


@dataclass(slots=True)
class _Best:
    """The best evaluation so far, and how long it has been the best."""

    loss: float = math.inf
    bits_per_byte: float = math.inf
    step: int = 0
    since: int = 0  # evaluations without a better one


@dataclass(slots=True)
class _Run:
    """Everything that a run holds while it goes."""

    request: Request
    directory: RunDirectory
    control: RunControl
    config: TrainConfig
    model: Model
    tokenizer: Tokenizer
    data: TokenData
    corpus_digest: str
    optimizer: AdamW
    workspace: Workspace
    history: list[dict[str, object]]
    total_steps: int
    state: TrainingState = field(default_factory=TrainingState)
    best: _Best = field(default_factory=_Best)
    evaluated_step: int = 0
    sampled_step: int = 0
    rollbacks: int = 0
    failed_saves: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.monotonic)


# ---- from a request to a run -----------------------------------------------------------------------------------------


def start(request: Request, control: RunControl | None = None) -> Generator[Event, None, None]:
    """A run from its beginning. UsageError when OUT or its run is there already and `force` is not set."""
    control = RunControl() if control is None else control
    began = time.monotonic()
    out = Path(request.out)
    if out.exists() and not request.force:
        raise UsageError(
            f"{out}: exists: add --resume to go on with its run, or --force to replace it"
        )
    if request.base is not None and Path(request.base).resolve() == out.resolve():
        raise UsageError(f"OUT must not be BASE itself, which is {request.base}")
    config = recipe.train_config(request)
    check_writable(out)
    directory = RunDirectory(out)
    try:
        if directory.last.exists() and not request.force:
            raise UsageError(
                f"{directory.path}: a run was begun there: add --resume to go on with it, or --force to start again"
            )
        set_threads(config.threads)
        base = load_model(request.base, "fp32") if request.base is not None else None
        corpus = _read(request)
        directory.clear()
        yield from _recorded(directory, corpus.notes)
        if base is None:
            tokenizer = yield from build_tokenizer(corpus.documents, _vocab_size(request, corpus))
            sizes = recipe.model_config(request, tokenizer.vocab_size, corpus.n_bytes)
            history: list[dict[str, object]] = []
        else:
            tokenizer, sizes = base[1], base[0].config
            history = _history_of(base[2])
        data = yield from prepare(corpus, tokenizer, config.validation_share)
        seq_len = config.seq_len or choose_seq_len(
            data.train.size, min(recipe.SEQ_LEN, sizes.max_seq_len)
        )
        B, T = recipe.batch_shape(config, sizes, seq_len)
        precision = choose_precision(config.precision, sizes)
        memory = memory_bytes(sizes, B, T, precision)
        check_fits(sizes, memory)
        yield from _warm_up(precision)
        parameters = Parameters(sizes)
        if base is None:
            parameters.initialise(config.seed)
        else:
            parameters.flat[:] = base[0].parameters.flat
            base = None
        model = Model(sizes, parameters, precision)
        run = _Run(
            request, directory, control, config, model, tokenizer, data, corpus.digest,
            AdamW(parameters, config), model.workspace(B, T, train=True), history, total_steps=0, started_at=began,
        )  # fmt: skip
        del corpus
        if data.n_validation_tokens == 0:
            yield from _noted(
                run, "nothing is held out for validation: OUT will hold the last weights", "warning"
            )
        run.total_steps = yield from _plan(run)
        run.config = recipe.with_schedule(config, run.total_steps)
        directory.write_settings(_settings(run))
        yield from _go(run, memory, resumed=False)
    finally:
        control.model = control.tokenizer = None
        directory.close()


def resume(
    out: str | Path, control: RunControl | None = None, threads: int | None = None
) -> Generator[Event, None, None]:
    """Go on with the run of `out` from its last save, to the byte as if it had never stopped."""
    control = RunControl() if control is None else control
    began = time.monotonic()
    record = read_settings(out)
    directory = RunDirectory(out)
    try:
        request, config, total_steps, B, T, precision = _from_settings(
            record, directory.path / "settings.json"
        )
        if threads is not None:
            config = dataclasses.replace(config, threads=threads)
        set_threads(config.threads)
        if not directory.last.exists():
            raise UsageError(
                f"{directory.path}: nothing was saved there yet: start again with --force"
            )
        with checkpoint.ModelFile(directory.last) as file:
            sizes = model_config(file.metadata, directory.last)
            tokenizer = model_tokenizer(file.metadata, sizes, directory.last)
            memory = memory_bytes(sizes, B, T, precision)
            check_fits(sizes, memory)
            parameters = Parameters(sizes)
            optimizer = AdamW(parameters, config)
            file.read_into(_checkpoint_arrays(parameters, optimizer))
            metadata = file.metadata
        saved = metadata.get("run")
        if not isinstance(saved, dict):
            raise ModelFileError(f"{directory.last}: holds no run to go on with")
        corpus = _read(request)
        if corpus.digest != saved.get("corpus_digest"):
            raise DataError(
                f"{request.data}: is not the text that this run began with: put that back, or start a new run from it "
                f"with --force (or `slim finetune {out} {request.data} ...` to go on from what was learnt)"
            )
        data = yield from prepare(corpus, tokenizer, config.validation_share)
        digest = corpus.digest
        del corpus
        yield from _warm_up(precision)
        model = Model(sizes, parameters, precision)
        run = _Run(
            request, directory, control, config, model, tokenizer, data, digest, optimizer,
            model.workspace(B, T, train=True), _history_of(metadata)[:-1], total_steps, started_at=began,
        )  # fmt: skip
        _restore_numbers(run, saved)
        directory.cut_back(run.state.step, run.evaluated_step, run.sampled_step)
        yield from _go(run, memory, resumed=True)
    finally:
        control.model = control.tokenizer = None
        directory.close()


def memory_bytes(config: ModelConfig, B: int, T: int, precision: str) -> int:
    """The peak memory of a run: weights, gradients, two moments and packed copies, activations, and the program."""
    operand = 2 if precision == "bf16" else 4
    return (
        PROGRAM_BYTES
        + config.n_parameters * (4 * 4 + 2 * operand)
        + workspace_bytes(config, B, T, True, precision)
    )


def _warm_up(precision: str) -> Iterator[Progress]:
    """Compile the kernels of a model, or load them."""
    yield from warm_up(kernels_of(precision, training=True))


def _read(request: Request) -> Corpus:
    return read_corpus(
        request.data, split=request.settings.split or "file", max_bytes=request.max_bytes
    )


def _vocab_size(request: Request, corpus: Corpus) -> int:
    asked = request.settings.model.get("vocab_size")
    return asked if isinstance(asked, int) else choose_vocab_size(corpus.n_bytes)


def _plan(run: _Run) -> Generator[Event, None, int]:
    """How many steps the run has: the epochs, the steps asked for, or what fits the minutes, whichever is least."""
    config, w = run.config, run.workspace
    limits = []
    if config.epochs is not None:
        per_epoch = steps_per_epoch(run.data.train.size, w.B, w.T) / config.accumulate
        limits.append(max(1, math.ceil(config.epochs * per_epoch - 1e-9)))
    if config.max_steps is not None:
        limits.append(config.max_steps)
    if config.minutes is not None:
        seconds = yield from _time_steps(run)
        left = 60.0 * config.minutes - (time.monotonic() - run.started_at) - SAVE_RESERVE_SECONDS
        validation = min(run.data.n_validation_tokens, recipe.VALIDATION_TOKENS) / (w.B * w.T)
        evaluations = recipe.EVALUATIONS * (validation * seconds * FORWARD_SHARE + SAMPLE_SECONDS)
        left -= min(evaluations, 0.5 * left)
        left -= min(recipe.CALIBRATION_SHARE * left, recipe.CALIBRATION_SECONDS)
        limits.append(max(1, int(left / (seconds * config.accumulate))))
    if not limits:
        raise ConfigError("a run needs an end: EPOCHS, --minutes or --max-steps")
    return min(limits)


def _time_steps(run: _Run) -> Generator[Event, None, float]:
    """Seconds of a training pass: the median of some that change nothing."""
    from slim.data import batch

    w, gradients = run.workspace, Parameters(run.model.config)
    tokens, targets = batch(run.data, run.config.seed, 0, w.B, w.T)
    assert run.config.minutes is not None
    deadline = time.monotonic() + 60.0 * run.config.minutes * TIMED_SHARE
    times: list[float] = []
    while len(times) < TIMED_STEPS and (len(times) < 3 or time.monotonic() < deadline):
        yield Progress("timing", len(times), TIMED_STEPS)
        began = time.perf_counter()
        run.model.loss_and_gradients(w, tokens, targets, gradients)
        run.optimizer.gradient_norm(gradients)
        run.model.pack()
        times.append(time.perf_counter() - began)
    yield Progress("timing", TIMED_STEPS, TIMED_STEPS)
    return sorted(times[1:])[len(times[1:]) // 2]


# ---- the run itself --------------------------------------------------------------------------------------------------


def _go(run: _Run, memory: int, resumed: bool) -> Iterator[Event]:
    """From RunStarted to TrainFinished."""
    import numba

    run.control.model, run.control.tokenizer = run.model, run.tokenizer
    w, data = run.workspace, run.data
    yield from _recorded(
        run.directory,
        [
            RunStarted(
                step=run.state.step,
                total_steps=run.total_steps,
                tokens_per_step=w.B * w.T * run.config.accumulate,
                n_parameters=run.model.config.n_parameters,
                train_tokens=data.train.size,
                validation_tokens=data.n_validation_tokens,
                bytes_per_token=data.bytes_per_token,
                threads=numba.get_num_threads(),
                memory_bytes=memory,
                resumed=resumed,
            )
        ],
    )
    if not resumed:
        yield from _save_last(run)
        yield from _sample(run)
    reason = yield from _steps(run)
    yield from _save_last(run)
    if reason == "interrupted":
        if run.best.step == 0:
            yield from _save_out(run, None)
    else:
        yield from _finish(run)
    known = math.isfinite(run.best.loss)
    yield from _recorded(
        run.directory,
        [
            TrainFinished(
                reason=reason,
                step=run.state.step,
                best_loss=run.best.loss if known else None,
                best_bits_per_byte=run.best.bits_per_byte if known else None,
                best_step=run.best.step if known else None,
                elapsed_seconds=run.state.elapsed_seconds,
            )
        ],
    )


def _steps(run: _Run) -> Generator[Event, None, str]:
    """Updates with everything between them, until the end; the reason for it."""
    while True:
        if run.state.step > run.evaluated_step and _due(run, run.config.eval_every):
            yield from _between(run)
            if 0 < run.config.patience <= run.best.since:
                return "early_stop"
        elif run.state.step > run.sampled_step and _due(run, run.config.sample_every):
            yield from _sample(run)
        if run.state.step >= run.total_steps:
            return "finished"
        if run.control.stop_requested():
            return "interrupted"
        try:
            yield from _steps_until_due(run)
        except UnstableError as problem:
            yield from _roll_back(run, str(problem))


def _steps_until_due(run: _Run) -> Iterator[Event]:
    """Updates until something else is to be done."""
    updates = train(
        run.model, run.optimizer, run.data, run.config, run.state, run.total_steps, run.workspace
    )
    for event in updates:
        run.directory.record(event)
        yield event
        if run.control.save_now or time.monotonic() - run.saved_at > SAVE_SECONDS:
            run.control.save_now = False
            if run.state.bad_steps == 0:
                yield from _save_last(run)
        if (
            run.control.stop_requested()
            or _due(run, run.config.eval_every)
            or _due(run, run.config.sample_every)
        ):
            return


def _due(run: _Run, every: int) -> bool:
    return run.state.step % every == 0 or run.state.step >= run.total_steps


def _between(run: _Run) -> Iterator[Event]:
    """Save, validate, save the best, write a sample."""
    if run.state.bad_steps == 0:
        yield from _save_last(run)
    result = yield from _validate(run)
    run.evaluated_step = run.state.step
    better = result is None or result.nats_per_token < run.best.loss
    if result is not None:
        run.best.since = 0 if better else run.best.since + 1
        if better:
            run.best.loss, run.best.bits_per_byte = result.nats_per_token, result.bits_per_byte
            run.best.step = run.state.step
        yield from _recorded(
            run.directory,
            [
                EvalFinished(
                    run.state.step,
                    result.nats_per_token,
                    result.bits_per_byte,
                    better,
                    run.state.elapsed_seconds,
                )
            ],
        )
    if better:
        yield from _save_out(run, None)
    yield from _sample(run)


def _validate(run: _Run) -> Generator[Event, None, Evaluation | None]:
    """The loss on held-out text, on the same part of it every time; None where nothing is held out."""
    documents, n_bytes, n_tokens = [], 0, 0
    for ids, size in zip(run.data.validation, run.data.validation_bytes, strict=True):
        if n_tokens >= recipe.VALIDATION_TOKENS:
            break
        ids = ids[: recipe.VALIDATION_TOKENS - n_tokens]
        whole = ids.size < recipe.VALIDATION_TOKENS - n_tokens
        documents.append(ids)
        n_bytes += size if whole else len(run.tokenizer.decode_bytes(ids))
        n_tokens += ids.size
    if n_tokens == 0:
        return None
    return (yield from evaluate(run.model, documents, n_bytes, run.tokenizer.eos_id))


def _sample(run: _Run) -> Iterator[Event]:
    """Let the model write from the fixed prompts, token by token."""
    run.sampled_step = run.state.step
    if run.config.sample_tokens == 0:
        return
    for number, prompt in enumerate(_prompts(run)):
        yield SampleStarted(run.state.step, number, prompt)
        room = run.model.config.max_seq_len - 1 - run.tokenizer.encode(prompt).size
        if room < 1:
            continue
        config = GenerateConfig(
            max_tokens=min(run.config.sample_tokens, room), seed=run.config.seed
        )
        finished: GenerateFinished | None = None
        for event in generate(
            run.model, run.tokenizer, prompt, config, should_stop=run.control.stop_requested
        ):
            if isinstance(event, TokenGenerated):
                yield dataclasses.replace(event, sample=number)
            elif isinstance(event, GenerateFinished):
                finished = event
        assert finished is not None
        yield from _recorded(
            run.directory,
            [SampleFinished(run.state.step, number, prompt, finished.text, finished.typical_p)],
        )


def _prompts(run: _Run) -> tuple[str, ...]:
    """What samples begin with: as asked for, else the first words of a held-out document, else of a known one."""
    if run.config.sample_prompts:
        return run.config.sample_prompts
    if run.data.validation:
        ids = run.data.validation[0][:64]
    else:
        ids = run.data.train[1:65]
    words = run.tokenizer.decode(ids).split()
    return (" ".join(words[: recipe.PROMPT_WORDS]),)


def _roll_back(run: _Run, problem: str) -> Iterator[Event]:
    """Back to the last save, past the batches since, at half the learning rate; DivergedError when that did not help."""
    run.rollbacks += 1
    if run.rollbacks > ROLLBACKS:
        raise DivergedError(
            f"training diverged: {problem}, and going back {ROLLBACKS} times did not help; "
            f"try a lower learning rate, such as --set learning_rate={run.config.learning_rate / 4:g}"
        )
    reached = run.state.step
    with checkpoint.ModelFile(run.directory.last) as file:
        file.read_into(_checkpoint_arrays(run.model.parameters, run.optimizer))
        saved = file.metadata["run"]
    assert isinstance(saved, dict)
    factor, rollbacks = run.state.rate_factor, run.rollbacks
    _restore_numbers(run, saved)
    run.rollbacks = rollbacks
    run.state.rate_factor = factor / 2
    run.state.first_batch += (reached - run.state.step) * run.config.accumulate
    run.state.spikes = run.state.bad_steps = 0
    run.model.pack()
    run.directory.cut_back(run.state.step, run.evaluated_step, run.sampled_step)
    yield from _noted(
        run,
        f"{problem}: back to step {run.state.step}, with half the learning rate, and past the batches since",
        "warning",
    )
    yield from _save_last(run)


def _finish(run: _Run) -> Iterator[Event]:
    """The best weights, calibrated, become the result."""
    if run.best.step not in (0, run.state.step):
        with checkpoint.ModelFile(run.directory.best) as file:
            file.read_into(run.model.parameters.views)
        run.model.pack()
    limit = min(
        recipe.CALIBRATION_SECONDS, recipe.CALIBRATION_SHARE * run.state.elapsed_seconds + 1.0
    )
    calibration: Calibration | None = None
    for event in calibrate(run.model, run.tokenizer, seconds=limit, seed=run.config.seed):
        if isinstance(event, Calibration):
            calibration = event
        elif run.control.stop_requested():
            break
        else:
            yield event
    yield from _save_out(run, calibration)


# ---- files -----------------------------------------------------------------------------------------------------------


def _save_last(run: _Run) -> Iterator[Event]:
    """Everything needed to go on. A failure is shown; three in a row end the run."""
    metadata = {
        **_metadata(run, None),
        "run": {
            "state": run.state.as_dict(),
            "best": dataclasses.asdict(run.best) if run.best.step else None,
            "evaluated_step": run.evaluated_step,
            "sampled_step": run.sampled_step,
            "rollbacks": run.rollbacks,
            "corpus_digest": run.corpus_digest,
        },
    }
    arrays = _checkpoint_arrays(run.model.parameters, run.optimizer)
    run.saved_at = time.monotonic()
    yield from _save(run, run.directory.last, "last", arrays, metadata)


def _save_out(run: _Run, calibration: Calibration | None) -> Iterator[Event]:
    """The weights as they are, as the result and as `best`."""
    arrays, metadata = dict(run.model.parameters.views), _metadata(run, calibration)
    yield from _save(run, run.directory.best, "best", arrays, metadata)
    yield from _save(run, Path(run.request.out), "out", arrays, metadata)


def _save(
    run: _Run, path: Path, kind: str, arrays: dict[str, np.ndarray], metadata: dict[str, object]
) -> Iterator[Event]:
    try:
        size = checkpoint.write(path, arrays, metadata)
    except SaveError as problem:
        run.failed_saves += 1
        if run.failed_saves >= FAILED_SAVES:
            raise
        yield from _noted(
            run, f"{problem}; what was saved before is whole, and training goes on", "warning"
        )
        return
    run.failed_saves = 0
    yield from _recorded(run.directory, [CheckpointSaved(run.state.step, str(path), kind, size)])


def _metadata(run: _Run, calibration: Calibration | None) -> dict[str, object]:
    entry: dict[str, object] = {
        "command": run.request.command,
        "data": Path(run.request.data).name,
        "corpus_sha256": run.corpus_digest,
        "steps": run.state.step,
        "tokens_seen": run.state.tokens_seen,
        "seconds": round(run.state.elapsed_seconds, 1),
        "precision": run.model.precision,
        "best_step": run.best.step,
    }
    if run.state.smoothed_loss is not None:
        entry["loss"] = run.state.smoothed_loss
    if math.isfinite(run.best.loss):
        entry |= {"validation_loss": run.best.loss, "bits_per_byte": run.best.bits_per_byte}
    return model_metadata(
        run.model.config,
        run.tokenizer,
        [*run.history, entry],
        calibration.as_dict() if calibration is not None else None,
    )


def _history_of(metadata: dict[str, object]) -> list[dict[str, object]]:
    history = metadata.get("history")
    return (
        [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    )


def _checkpoint_arrays(parameters: Parameters, optimizer: AdamW) -> dict[str, np.ndarray]:
    """The arrays of `last` by their names in the file."""
    arrays = dict(parameters.views)
    for name in parameter_shapes(parameters.config):
        arrays[f"{OPTIMIZER_PREFIX}m.{name}"] = optimizer.m.views[name]
        arrays[f"{OPTIMIZER_PREFIX}v.{name}"] = optimizer.v.views[name]
    return arrays


def _restore_numbers(run: _Run, saved: dict[str, object]) -> None:
    """The numbers of a run from `last`, checked for their types."""
    try:
        run.state = TrainingState(**saved["state"])  # type: ignore[arg-type]
        best = saved["best"]
        run.best = _Best(**best) if best is not None else _Best()  # type: ignore[arg-type]
        run.evaluated_step, run.sampled_step = (
            int(saved["evaluated_step"]),
            int(saved["sampled_step"]),
        )  # type: ignore[call-overload]
        run.rollbacks = int(saved["rollbacks"])  # type: ignore[call-overload]
        if not 0 <= run.state.step <= run.total_steps:
            raise ValueError(f"step {run.state.step} of {run.total_steps}")
    except (KeyError, TypeError, ValueError) as problem:
        raise ModelFileError(
            f"{run.directory.last}: its record of the run is damaged: {problem}"
        ) from problem


def _settings(run: _Run) -> dict[str, object]:
    """settings.json: the request, and what was decided once for the whole run."""
    request = run.request
    return {
        "command": request.command,
        "data": str(Path(request.data).resolve()),
        "epochs": request.epochs,
        "out": str(Path(request.out).resolve()),
        "base": request.base,
        "max_bytes": request.max_bytes,
        "asked": dict(request.settings.values),
        "train": as_dict(run.config),
        "model": as_dict(run.model.config),
        "total_steps": run.total_steps,
        "B": run.workspace.B,
        "T": run.workspace.T,
        "precision": run.model.precision,
    }


def _from_settings(
    record: dict[str, object], path: Path
) -> tuple[Request, TrainConfig, int, int, int, str]:
    """What settings.json says, checked like anybody's."""
    from slim.settings import Settings

    try:
        asked = record["asked"]
        train_values = dict(record["train"])  # type: ignore[call-overload]
        train_values["sample_prompts"] = tuple(train_values["sample_prompts"])
        request = Request(
            command=str(record["command"]),
            data=str(record["data"]),
            epochs=float(record["epochs"]),  # type: ignore[arg-type]
            out=str(record["out"]),
            base=record["base"],  # type: ignore[arg-type]
            max_bytes=record["max_bytes"],  # type: ignore[arg-type]
            settings=Settings(dict(asked)),  # type: ignore[call-overload]
        )
        numbers = [record[name] for name in ("total_steps", "B", "T")]
        if not all(isinstance(n, int) and 0 < n < 2**40 for n in numbers):
            raise ValueError("total_steps, B and T must be whole numbers above 0")
        config = TrainConfig(**train_values)
        sizes = ModelConfig(**record["model"])  # type: ignore[arg-type]
        precision = choose_precision(str(record["precision"]), sizes)
    except (KeyError, TypeError, ValueError, ConfigError) as problem:
        raise DataError(
            f"{path}: makes no sense ({problem}): start again with --force"
        ) from problem
    total_steps, B, T = numbers
    return request, config, total_steps, B, T, precision  # type: ignore[return-value]


def _recorded(directory: RunDirectory, events: object) -> Iterator[Event]:
    for event in events:  # type: ignore[attr-defined]
        directory.record(event)
        yield event


def _noted(run: _Run, text: str, level: str = "info") -> Iterator[Event]:
    yield from _recorded(run.directory, [Note(text, level)])
