"""The recipe: which model is made of a text, and how it is trained, where nobody said otherwise.

All numbers of that kind are here, or are defaults of ModelConfig and TrainConfig. The README lists the runs
that they come from; what it does not list is a first choice.

    vocabulary              choose_vocab_size(bytes of the text), in tokenizer.py
    model, pretrain         the defaults of ModelConfig
    model, train            the preset in TRAIN_PRESETS that fits the bytes of the text
    model, finetune         the base's; see finetune_rate
    training sequences      min(SEQ_LEN, the model's context), shorter for a text that has fewer than two of them
    evaluations             about EVALUATIONS in a run, MIN_EVAL_STEPS to MAX_EVAL_STEPS apart; where training may stop
                            early at least one per epoch
    held-out text           as many tokens of it as EVAL_SHARE of the run's time can read, within the two limits
"""

from __future__ import annotations

import math
from dataclasses import replace

from slim.config import PRESETS, ModelConfig, TrainConfig
from slim.errors import ConfigError
from slim.request import Request

SEQ_LEN = 256
# `train`: the first preset whose text is at least this long, in bytes.
TRAIN_PRESETS = ((3_000_000, "default"), (1_200_000, "small"), (0, "tiny"))
KNOWN_BITS = 1.3  # per byte of held-out text: a base that needs fewer has little to learn and something to lose ...
KNOWN_SHARE = 0.1  # ... and is finetuned at this share of the learning rate
BASE_TOKENS = 16_384  # of the held-out text that the base is judged on
PATIENCE = 4  # evaluations without a better loss before `train` and `finetune` stop

EVALUATIONS = 15
MIN_EVAL_STEPS, MAX_EVAL_STEPS = 10, 1000
EVAL_SHARE = 0.02  # of the time of a run, for reading held-out text
MIN_VALIDATION_TOKENS, MAX_VALIDATION_TOKENS = 8_192, 131_072
FORWARD_SHARE = 0.33  # of the time of a training step, for reading the same tokens
SAMPLE_SECONDS = 0.3  # that a sample takes, where a run is planned by the clock
PROMPT_WORDS = 3  # of a held-out document, which samples begin with
CALIBRATION_SHARE = 0.03  # of the time of a run, at most, goes into calibrating confidence ...
CALIBRATION_SECONDS = 1.0, 20.0  # ... within these limits

SAVE_SECONDS = 30.0  # between two saves of everything, at least ...
SAVE_SHARE = 0.02  # ... and so long that saving takes no more than this share of the time
FAILED_SAVES = 3  # of one file, in a row, end a run
ROLLBACKS = 3  # before a run is given up
RATE_AFTER_ROLLBACK = 0.5  # times the learning rate before
TIMED_STEPS = 20  # that plan a run by the clock ...
TIMED_SHARE = 0.02  # ... fewer where they would take more than this share of it
LEAST_SHARE = 1 / 3  # of the minutes asked for is trained, however long compiling took on a slow machine
MINUTES_USED = 0.98  # of what is asked for: speed varies


def model_config(request: Request, vocab_size: int, n_bytes: int) -> ModelConfig:
    """Sizes of the model that `pretrain` or `train` makes of a text of so many bytes."""
    sizes: dict[str, object] = {}
    if request.command == "train":
        sizes.update(PRESETS[next(name for size, name in TRAIN_PRESETS if n_bytes >= size)])
    sizes.update(request.settings.model)
    sizes["vocab_size"] = vocab_size
    return ModelConfig(**sizes)  # type: ignore[arg-type]


def train_config(request: Request) -> TrainConfig:
    """How a run is trained: what was asked for, and for the rest what suits the command."""
    values: dict[str, object] = {"epochs": request.epochs}
    if request.command in ("train", "finetune"):
        values["patience"] = PATIENCE
    if request.command == "finetune":
        values["optimizer"] = "adamw"
    values.update(request.settings.train)
    return TrainConfig(**values)  # type: ignore[arg-type]


def finetune_rate(rate: float, bits_per_byte: float) -> float:
    """The peak learning rate for a base that needs so many bits for a byte of held-out text, from that of pretraining.

    What a base knows nothing of is learnt like any text.
    """
    return KNOWN_SHARE * rate if bits_per_byte < KNOWN_BITS else rate


def batch_shape(config: TrainConfig, seq_len: int) -> tuple[int, int]:
    """B and T of a pass: `batch_tokens` in sequences of `seq_len`."""
    return max(1, config.batch_tokens // seq_len), seq_len


def check_seq_len(config: TrainConfig, model: ModelConfig) -> None:
    """ConfigError for sequences that are longer than the model's context."""
    if config.seq_len > model.max_seq_len:
        raise ConfigError(
            f"seq_len must be at most max_seq_len, the model's context, "
            f"but {config.seq_len} > {model.max_seq_len}"
        )


def with_intervals(config: TrainConfig, total_steps: int, steps_per_epoch: float) -> TrainConfig:
    """The config with evaluations and samples placed over a run of so many steps."""
    every = total_steps // EVALUATIONS
    if config.patience > 0:
        every = min(every, math.ceil(steps_per_epoch))
    every = config.eval_every or min(max(every, MIN_EVAL_STEPS), MAX_EVAL_STEPS, total_steps)
    return replace(config, eval_every=every, sample_every=config.sample_every or every)


def validation_tokens(eval_every: int, tokens_per_step: int) -> int:
    """How much held-out text an evaluation reads, one of which follows every `eval_every` steps."""
    affordable = EVAL_SHARE / FORWARD_SHARE * eval_every * tokens_per_step
    return min(max(int(affordable), MIN_VALIDATION_TOKENS), MAX_VALIDATION_TOKENS)


def calibration_seconds(run_seconds: float) -> float:
    """How long a run of so many seconds may calibrate confidence at its end."""
    least, most = CALIBRATION_SECONDS
    return min(max(CALIBRATION_SHARE * run_seconds, least), most)


def steps_in(seconds: float, step_seconds: float, save_seconds: float) -> int:
    """How many steps fit a time that evaluations, samples, saves and the calibration share, at least 1."""
    left = MINUTES_USED * seconds - calibration_seconds(seconds)
    left -= EVALUATIONS * (SAMPLE_SECONDS + save_seconds)
    return max(1, int(left / (step_seconds * (1.0 + EVAL_SHARE) + 1e-9)))
