"""AdamW with decoupled decay (Loshchilov and Hutter 2019), and the learning rate over a run."""

from __future__ import annotations

import math

import numpy as np

from slim.config import TrainConfig
from slim.kernels.adamw import adamw, norm_chunks, sum_of_squares
from slim.parameters import Parameters

WSD_DECAY_SHARE = 0.2  # of the run, at the end of the warmup-stable-decay schedule


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """The rate of update `step` (from 1): a linear warmup, then cosine, constant or warmup-stable-decay.

    A run shorter than ten warmups warms up for a tenth of it.
    """
    warmup = min(config.warmup_steps, max(total_steps // 10, 1))
    if step <= warmup:
        return config.learning_rate * step / warmup
    lowest = config.learning_rate * config.min_lr_ratio
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "wsd":
        decay = max(int(total_steps * WSD_DECAY_SHARE), 1)
        done = min(max(step - (total_steps - decay), 0) / decay, 1.0)
        return config.learning_rate - (config.learning_rate - lowest) * done
    done = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    return lowest + (config.learning_rate - lowest) * 0.5 * (1.0 + math.cos(math.pi * done))


class AdamW:
    """The optimizer of one set of parameters: moments m and v, and the number of updates so far."""

    def __init__(self, parameters: Parameters, config: TrainConfig) -> None:
        self.parameters = parameters
        self.config = config
        self.m = Parameters(parameters.config)
        self.v = Parameters(parameters.config)
        self.step_count = 0
        self._partial = np.empty(norm_chunks(len(parameters.flat)), np.float32)

    def gradient_norm(self, gradients: Parameters) -> float:
        """The Euclidean norm of all gradients; not finite if any of them is not."""
        sum_of_squares(self._partial, gradients.flat)
        return math.sqrt(float(np.sum(self._partial, dtype=np.float64)))

    def step(self, gradients: Parameters, learning_rate: float, grad_norm: float) -> None:
        """One update with gradients scaled down to `clip_norm` if their norm is larger; gradients become zero."""
        config = self.config
        self.step_count += 1
        clip = min(1.0, config.clip_norm / (grad_norm + 1e-6)) if config.clip_norm > 0 else 1.0
        f = np.float32
        adamw(
            self.parameters.flat, self.m.flat, self.v.flat, gradients.flat, self.parameters.n_decayed,
            f(clip), f(learning_rate), f(config.beta1), f(config.beta2),
            f(1.0 - config.beta1**self.step_count), f(1.0 - config.beta2**self.step_count),
            f(config.adam_eps), f(config.weight_decay),
        )  # fmt: skip
