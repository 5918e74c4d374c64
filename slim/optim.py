"""The optimizers, AdamW and Muon, and the learning rate over a run.

AdamW has decoupled decay (Loshchilov and Hutter 2019). Muon (Jordan et al. 2024) takes the matrices inside of the layers and
leaves embeddings, head and norms to AdamW; its step is so long that both share learning rate and decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np

from slim.aligned import empty
from slim.config import ModelConfig, TrainConfig
from slim.kernels.adamw import adamw, norm_chunks, sum_of_squares
from slim.kernels.muon import muon, muon_scratch_size
from slim.parameters import Parameters, parameter_shapes

WSD_DECAY_SHARE = 0.2  # of the run, at the end of the warmup-stable-decay schedule
# a, b, c of Muon's steps to an orthogonal matrix: each polynomial is the one nearest to 1 on the range in which the singular
# values are by then if they begin at 0.01 (Amsel et al. 2025), made 5 % wider, for outside of it they explode. They end
# between 0.65 and 1.35, smaller ones below.
NEWTON_SCHULZ = ((7.205, -18.6075, 12.3746), (3.7558, -2.8726, 0.5742), (2.7546, -1.9122, 0.3913))
# Of Muon's steps, in learning rates. 0.2 is about that of AdamW's (Liu et al. 2025), and learnt less in 400 steps.
UPDATE_RMS = 0.4


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

    def moments(self) -> dict[str, np.ndarray]:
        """All that an update reads beside weights and gradients: "m." or "v." and the name of a weight."""
        return {f"{key}.{name}": view for key, values in (("m", self.m), ("v", self.v)) for name, view in values}

    def restart(self) -> None:
        """Forget all updates."""
        for moment in self.moments().values():
            moment.fill(0.0)
        self.step_count = 0

    def gradient_norm(self, gradients: Parameters) -> float:
        """The Euclidean norm of all gradients; not finite if any of them is not."""
        sum_of_squares(self._partial, gradients.flat)
        return math.sqrt(float(np.sum(self._partial, dtype=np.float64)))

    def step(self, gradients: Parameters, learning_rate: float, grad_norm: float) -> None:
        """One update with gradients scaled down to `clip_norm` if their norm is larger; gradients become zero."""
        config = self.config
        self.step_count += 1
        clip = min(1.0, config.clip_norm / (grad_norm + 1e-6)) if config.clip_norm > 0 else 1.0
        self._update(gradients, np.float32(clip), np.float32(learning_rate))

    def _update(self, gradients: Parameters, clip: np.float32, learning_rate: np.float32) -> None:
        self._adamw(slice(0, None), gradients, clip, learning_rate)

    def _adamw(self, part: slice, gradients: Parameters, clip: np.float32, learning_rate: np.float32) -> None:
        """Update a part of the flat array."""
        config, f = self.config, np.float32
        adamw(
            *(values.flat[part] for values in (self.parameters, self.m, self.v, gradients)),
            self.parameters.n_decayed - part.start, clip, learning_rate, f(config.beta1), f(config.beta2),
            f(1.0 - config.beta1**self.step_count), f(1.0 - config.beta2**self.step_count),
            f(config.adam_eps), f(config.weight_decay),
        )  # fmt: skip


class Muon(AdamW):
    """Muon for the matrices inside of the layers, which have no v; AdamW for embeddings, head and norms."""

    def __init__(self, parameters: Parameters, config: TrainConfig, dtype: type) -> None:
        """dtype: of the operands of matrix products"""
        super().__init__(parameters, config)
        self._hidden = {n: shape for n, shape in parameters.shapes.items() if is_hidden(n, shape)}
        matrices = np.array([(parameters.offsets[n], *shape) for n, shape in self._hidden.items()], np.int64)
        start = int(matrices[0, 0])  # they are neighbours in the flat array
        self._rest = slice(0, start), slice(start + int(np.sum(matrices[:, 1] * matrices[:, 2])), None)
        # Threads take them in turn, the largest first, so that each has about as much to do.
        self._matrices = matrices[np.argsort(-matrices[:, 1] * matrices[:, 2], kind="stable")]
        size = max(muon_scratch_size(*shape) for shape in self._hidden.values())
        self._scratch = empty((min(numba.get_num_threads(), len(matrices)), size), dtype)
        self._first_scale, self._coefficients = monic(NEWTON_SCHULZ)

    def moments(self) -> dict[str, np.ndarray]:
        unused = {f"v.{name}" for name in self._hidden}
        return {name: view for name, view in super().moments().items() if name not in unused}

    def _update(self, gradients: Parameters, clip: np.float32, learning_rate: np.float32) -> None:
        config, f = self.config, np.float32
        for part in self._rest:
            self._adamw(part, gradients, clip, learning_rate)
        muon(
            self.parameters.flat, self.m.flat, gradients.flat, self._matrices, self._coefficients, self._scratch,
            self._first_scale, clip, learning_rate, f(config.momentum), f(config.weight_decay), f(UPDATE_RMS),
        )  # fmt: skip


def is_hidden(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is a matrix inside of a layer."""
    return len(shape) == 2 and ".layers." in name


def monic(polynomials: Sequence[tuple[float, float, float]]) -> tuple[np.float32, np.ndarray]:
    """The norm to begin with, and (steps, 2) float32: t and u of x = (x^2 (x^2 + t) + u) x.

    Those are a x + b x^3 + c x^5 with x scaled between the steps so that c = 1; after the last the scale is 1.
    """
    scale, rows = 1.0, []
    for a, b, c in reversed(polynomials):
        scale = (scale / c) ** 0.2  # c s^5 = the scale after the step, where x is s times what is multiplied
        rows.append((b / (c * scale**2), a / (c * scale**4)))
    return np.float32(1.0 / scale), np.array(rows[::-1], np.float32)


def moment_bytes(sizes: ModelConfig, optimizer: str, operand: int, threads: int) -> int:
    """Memory of an optimizer, its scratch included; operand: bytes of a number in a matrix product."""
    if optimizer == "adamw":
        return 8 * sizes.n_parameters
    shapes = [shape for name, shape in parameter_shapes(sizes).items() if is_hidden(name, shape)]
    workers = min(threads, len(shapes))
    scratch = workers * operand * max(muon_scratch_size(*shape) for shape in shapes)
    return 8 * sizes.n_parameters - 4 * sum(map(math.prod, shapes)) + scratch


def make_optimizer(parameters: Parameters, config: TrainConfig, dtype: type) -> AdamW:
    """The one that the config names; dtype: of the operands of matrix products."""
    return Muon(parameters, config, dtype) if config.optimizer == "muon" else AdamW(parameters, config)
