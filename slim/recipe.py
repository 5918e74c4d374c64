"""Which model is made of a text and how it is trained, where nobody said otherwise. Every number was measured; the README
has the table.
"""

from __future__ import annotations

from dataclasses import replace

from slim.config import PRESETS, ModelConfig, TrainConfig
from slim.errors import ConfigError
from slim.request import Request

# `train` sizes the model to the text: the largest preset whose text is at least this long, in bytes.
TRAIN_PRESETS = ((3_000_000, "default"), (300_000, "small"), (0, "tiny"))
SEQ_LEN = 256  # tokens of a training sequence
FINETUNE_RATE = 5e-4  # peak learning rate of `finetune`
PATIENCE = 4  # evaluations without a better loss before `train` and `finetune` stop
EVALUATIONS = 15  # in a run, about
LONGEST_EVAL_STEPS = 1000  # between two evaluations
VALIDATION_TOKENS = 40_000  # of the held-out text are looked at in a run: the same ones every time
CALIBRATION_SHARE = 0.03  # of a run's time, at most, is spent on calibrating confidence
CALIBRATION_SECONDS = 20.0  # at most
PROMPT_WORDS = 3  # of a held-out document, which samples begin with


def model_config(request: Request, vocab_size: int, n_bytes: int) -> ModelConfig:
    """Sizes of the model that `pretrain` or `train` makes of a text of so many bytes."""
    sizes: dict[str, object] = {}
    if request.command == "train":
        preset = next(name for size, name in TRAIN_PRESETS if n_bytes >= size)
        sizes.update(PRESETS[preset])
    sizes.update(request.settings.model)
    sizes["vocab_size"] = vocab_size
    return ModelConfig(**sizes)  # type: ignore[arg-type]


def train_config(request: Request) -> TrainConfig:
    """The recipe of a run, as the command has it and as it was asked for."""
    values: dict[str, object] = {"epochs": request.epochs}
    if request.command != "pretrain":
        values["patience"] = PATIENCE
    if request.command == "finetune":
        values["learning_rate"] = FINETUNE_RATE
    values.update(request.settings.train)
    return TrainConfig(**values)  # type: ignore[arg-type]


def with_schedule(config: TrainConfig, total_steps: int) -> TrainConfig:
    """Evaluations and samples placed over a run of so many steps."""
    every = config.eval_every or min(max(total_steps // EVALUATIONS, 1), LONGEST_EVAL_STEPS)
    return replace(config, eval_every=every, sample_every=config.sample_every or every)


def batch_shape(config: TrainConfig, model: ModelConfig, seq_len: int) -> tuple[int, int]:
    """B and T of a pass: `batch_tokens` in sequences of `seq_len`."""
    if seq_len > model.max_seq_len:
        raise ConfigError(
            f"seq_len must be at most the model's context, but {seq_len} > {model.max_seq_len}"
        )
    return max(1, config.batch_tokens // seq_len), seq_len
