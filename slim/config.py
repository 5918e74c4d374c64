"""The sizes of a model, the recipe of a run, the settings of a generation: checked at the door."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from slim.errors import ConfigError

LIMITS = {
    "vocab_size": 262_144,  # of imported models; tokenizer.MOST_TOKENS is what SLiM builds
    "dim": 16_384,
    "n_layers": 256,
    "n_heads": 256,
    "n_kv_heads": 256,
    "hidden_dim": 65_536,
    "max_seq_len": 65_536,
}
SCHEDULES = ("cosine", "constant", "wsd")
PRECISIONS = ("auto", "fp32", "bf16")
OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of a Llama-style decoder. `n_kv_heads=0` means as many as `n_heads`."""

    vocab_size: int = 4096
    dim: int = 256
    n_layers: int = 6
    n_heads: int = 8
    n_kv_heads: int = 0
    hidden_dim: int = 1024
    max_seq_len: int = 512
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        for name, largest in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
                raise ConfigError(
                    f"{name} must be a whole number from 1 to {largest:,}, but is {value!r}"
                )
        if self.dim % self.n_heads:
            raise ConfigError(
                f"dim must be divisible by n_heads, but {self.dim} % {self.n_heads} != 0"
            )
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_heads must be divisible by n_kv_heads, "
                f"but {self.n_heads} % {self.n_kv_heads} != 0"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"dim / n_heads must be even (RoPE turns pairs), "
                f"but {self.dim} / {self.n_heads} = {self.head_dim}"
            )
        _check_number("rope_theta", self.rope_theta, 1.0, 1e9)
        _check_number("norm_eps", self.norm_eps, 1e-12, 0.1)
        if not isinstance(self.tie_embeddings, bool):
            raise ConfigError(
                f"tie_embeddings must be true or false, but is {self.tie_embeddings!r}"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def n_parameters(self) -> int:
        """Trained numbers in the model; a tied head counts once."""
        attention = self.dim * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        layer = attention + 3 * self.dim * self.hidden_dim + 2 * self.dim
        heads = 1 if self.tie_embeddings else 2
        return heads * self.vocab_size * self.dim + self.n_layers * layer + self.dim


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The recipe of a run: whichever of `epochs`, `minutes`, `max_steps` comes first ends it."""

    epochs: float | None = None
    minutes: float | None = None
    max_steps: int | None = None
    seed: int = 0
    threads: int = 0  # 0: all cores
    precision: str = "auto"  # auto | fp32 | bf16: of the operands of matrix products; auto: bf16 where the CPU is fast at it
    batch_tokens: int = 2048  # tokens of one forward and backward pass
    seq_len: int = 0  # 0: the model's max_seq_len, shorter when the text is short
    accumulate: int = 1  # passes per update
    optimizer: str = "muon"  # adamw | muon: of the matrices in the layers; the rest is always AdamW's
    learning_rate: float = 2e-3
    min_lr_ratio: float = 0.1
    warmup_steps: int = 100
    schedule: str = "cosine"  # cosine | constant | wsd
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95  # of Muon
    adam_eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    eval_every: int = 0  # steps; 0: chosen from the length of the run
    sample_every: int = 0  # steps; 0: chosen from the length of the run
    sample_tokens: int = 60
    sample_prompts: tuple[str, ...] = ()  # empty: from a validation document; see run_samples
    validation_share: float = 0.05
    patience: int = 0  # evaluations without a better loss before stopping; 0: never
    calibrate: bool = True  # confidence, at the end

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("seed", 0, 2**63 - 1),
            ("threads", 0, 1024),
            ("batch_tokens", 1, 2**26),
            ("seq_len", 0, LIMITS["max_seq_len"]),
            ("accumulate", 1, 2**16),
            ("warmup_steps", 0, 2**40),
            ("eval_every", 0, 2**40),
            ("sample_every", 0, 2**40),
            ("sample_tokens", 0, LIMITS["max_seq_len"]),
            ("patience", 0, 2**40),
        ):
            _check_whole(name, getattr(self, name), lowest, highest)
        for name, smallest, largest in (
            ("learning_rate", 1e-12, 10.0),
            ("min_lr_ratio", 0.0, 1.0),
            ("beta1", 0.0, 0.99999),
            ("beta2", 0.0, 0.99999),
            ("momentum", 0.0, 0.99999),
            ("adam_eps", 1e-16, 1.0),
            ("weight_decay", 0.0, 10.0),
            ("clip_norm", 0.0, 1e9),
            ("validation_share", 0.0, 0.5),
        ):
            _check_number(name, getattr(self, name), smallest, largest)
        for name in ("epochs", "minutes"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 1e-6, 1e6)
        if self.max_steps is not None:
            _check_whole("max_steps", self.max_steps, 1, 2**40)
        for name, choices in (
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("optimizer", OPTIMIZERS),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, "
                    f"but is {getattr(self, name)!r}"
                )
        if self.seq_len > self.batch_tokens:
            raise ConfigError(
                f"batch_tokens must hold at least one sequence, "
                f"but batch_tokens is {self.batch_tokens} and seq_len {self.seq_len}"
            )
        if not isinstance(self.calibrate, bool):
            raise ConfigError(f"calibrate must be true or false, but is {self.calibrate!r}")
        prompts = self.sample_prompts
        if not isinstance(prompts, tuple) or not all(isinstance(text, str) for text in prompts):
            raise ConfigError(f"sample_prompts must be a list of texts, but is {prompts!r}")


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """How text is drawn from the model and when it ends."""

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repeat_penalty: float = 1.1
    repeat_window: int = 64
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_confidence: str | float = "off"  # off | auto | a mean expected log-probability (below 0)
    min_tokens: int = 24

    def __post_init__(self) -> None:
        for name, smallest in (
            ("max_tokens", 1),
            ("top_k", 0),
            ("repeat_window", 0),
            ("min_tokens", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ConfigError(
                    f"{name} must be a whole number from {smallest}, but is {value!r}"
                )
        for name, lowest, highest in (
            ("temperature", 0.0, 100.0),
            ("top_p", 1e-6, 1.0),
            ("min_p", 0.0, 1.0),
            ("repeat_penalty", 0.1, 10.0),
        ):
            _check_number(name, getattr(self, name), lowest, highest)
        seed = self.seed
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ConfigError(f"seed must be a whole number, but is {seed!r}")
        if not all(isinstance(stop, str) and stop for stop in self.stop):
            raise ConfigError(
                f"a stop string must have at least one character, but stop is {self.stop!r}"
            )
        rule = self.stop_confidence
        if isinstance(rule, (int, float)) and not isinstance(rule, bool):
            known = -100.0 <= rule < 0.0
        else:
            known = rule in ("off", "auto")
        if not known:
            raise ConfigError(
                f"stop_confidence must be off, auto or a mean log-probability from -100 to below 0 "
                f"(such as -3.5), but is {rule!r}"
            )


PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"dim": 128, "n_layers": 4, "n_heads": 4, "hidden_dim": 384},
    "small": {"dim": 192, "n_layers": 6, "n_heads": 6, "hidden_dim": 512},
    "default": {"dim": 256, "n_layers": 6, "n_heads": 8, "hidden_dim": 1024},
    "large": {"dim": 512, "n_layers": 8, "n_heads": 8, "hidden_dim": 1408},
}


def _check_whole(name: str, value: object, lowest: int, highest: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not lowest <= value <= highest:  # type: ignore[operator]
        raise ConfigError(
            f"{name} must be a whole number from {lowest:,} to {highest:,}, but is {value!r}"
        )


def _check_number(name: str, value: object, lowest: float, highest: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not lowest <= value <= highest:  # type: ignore[operator]
        raise ConfigError(
            f"{name} must be a number from {lowest:g} to {highest:g}, but is {value!r}"
        )


def as_dict(config: ModelConfig | TrainConfig | GenerateConfig) -> dict[str, object]:
    """The fields of a config in declaration order, ready for JSON."""
    return dataclasses.asdict(config)
