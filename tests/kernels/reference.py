"""Every op and the whole model in float64 NumPy, written from the formulas and not from the kernels.

Forward only: gradients are checked against central differences of these, so that no derivation of ours can be wrong
on both sides. Arrays are float64; shapes use the letters of slim/kernels/__init__.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slim.config import ModelConfig

Array = np.ndarray


def embedding(tokens: Array, table: Array) -> Array:
    """(..., C) for tokens (...) and a table (V, C)."""
    return table[tokens]


def rmsnorm(x: Array, weight: Array, eps: float) -> Array:
    """x (..., C) over its root mean square, times weight (C,)."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def linear(x: Array, weight: Array) -> Array:
    """(..., N) for x (..., K) and a weight (N, K)."""
    return x @ weight.T


def rope(x: Array, positions: Array, theta: float) -> Array:
    """x (..., T, heads, D): dimensions i and i + D/2 as a complex number, turned by position * theta^(-2i/D)."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * theta ** (-2.0 * np.arange(half) / x.shape[-1])
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def attention(q: Array, k: Array, v: Array) -> Array:
    """(B, T, H, D) for q (B, T, H, D) and k, v (B, S, G, D): the last query stands at the last key."""
    return np.einsum("bhts,bshd->bthd", attention_weights(q, k), _per_query_head(v, q))


def attention_weights(q: Array, k: Array) -> Array:
    """softmax(Q K^T / sqrt(D)) over the keys that a query sees, (B, H, T, S)."""
    scores = _visible_scores(q, k)
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_normaliser(q: Array, k: Array) -> Array:
    """log sum e^score over the keys that a query sees, (B, H, T)."""
    scores = _visible_scores(q, k)
    largest = scores.max(axis=-1)
    return largest + np.log(np.exp(scores - largest[..., None]).sum(axis=-1))


def _visible_scores(q: Array, k: Array) -> Array:
    scores = np.einsum("bthd,bshd->bhts", q, _per_query_head(k, q)) / np.sqrt(q.shape[-1])
    T, S = scores.shape[-2:]
    after = np.arange(S)[None, :] > np.arange(S - T, S)[:, None]
    return np.where(after, -np.inf, scores)


def _per_query_head(x: Array, q: Array) -> Array:
    """Keys or values (B, S, G, D), each head repeated for the query heads that share it."""
    return np.repeat(x, q.shape[2] // x.shape[2], axis=2)


def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) * up."""
    return gate * sigmoid(gate) * up


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), for any x."""
    return np.exp(-np.logaddexp(0.0, -x))


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Nats of each target (N,) under logits (N, V); 0 where the target is -1."""
    largest = logits.max(axis=-1, keepdims=True)
    normaliser = largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=-1))
    losses = normaliser - logits[np.arange(len(targets)), np.maximum(targets, 0)]
    return np.where(targets < 0, 0.0, losses)


def gradient_norm(gradients: Array) -> float:
    """The Euclidean norm."""
    return float(np.sqrt(np.sum(gradients.astype(np.float64) ** 2)))


def adamw(
    parameters: Array,
    m: Array,
    v: Array,
    gradients: Array,
    decayed: Array,
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
) -> tuple[Array, Array, Array]:
    """Parameters and moments after update number `step` (from 1); weight decay where `decayed` is true."""
    m = beta1 * m + (1.0 - beta1) * gradients
    v = beta2 * v + (1.0 - beta2) * gradients**2
    update = (m / (1.0 - beta1**step)) / (np.sqrt(v / (1.0 - beta2**step)) + eps)
    shrunk = parameters * (1.0 - np.where(decayed, learning_rate * decay, 0.0))
    return shrunk - learning_rate * update, m, v


def muon(
    weight: Array,
    m: Array,
    gradient: Array,
    *,
    learning_rate: float,
    momentum: float,
    decay: float,
    rms: float,
    polynomials: Sequence[tuple[float, float, float]],
) -> tuple[Array, Array]:
    """A matrix and its momentum after an update."""
    m = momentum * m + (1.0 - momentum) * gradient
    ahead = momentum * m + (1.0 - momentum) * gradient
    step = through_singular_values(ahead, polynomials)
    shrunk = (1.0 - learning_rate * decay) * weight
    return shrunk - learning_rate * rms * np.sqrt(max(weight.shape)) * step, m


def through_singular_values(x: Array, polynomials: Sequence[tuple[float, float, float]]) -> Array:
    """x with each singular value s replaced by what a s + b s^3 + c s^5, one after the other, make of s / |x|."""
    left, values, right = np.linalg.svd(x, full_matrices=False)
    values = values / max(np.linalg.norm(x), 1e-30)
    for a, b, c in polynomials:
        values = a * values + b * values**3 + c * values**5
    return (left * values) @ right


def model_logits(weights: Mapping[str, Array], config: ModelConfig, tokens: Array) -> Array:
    """Logits (B, T, V) for tokens (B, T), from weights under their Hugging Face names."""
    B, T = tokens.shape
    D, eps, theta = config.head_dim, config.norm_eps, config.rope_theta
    positions = np.arange(T)

    def heads(x: Array, name: str) -> Array:
        return linear(x, weights[name]).reshape(B, T, -1, D)

    x = embedding(tokens, weights["model.embed_tokens.weight"])
    for i in range(config.n_layers):
        layer = f"model.layers.{i}."
        normed = rmsnorm(x, weights[layer + "input_layernorm.weight"], eps)
        q = rope(heads(normed, layer + "self_attn.q_proj.weight"), positions, theta)
        k = rope(heads(normed, layer + "self_attn.k_proj.weight"), positions, theta)
        v = heads(normed, layer + "self_attn.v_proj.weight")
        attended = attention(q, k, v).reshape(B, T, config.dim)
        x = x + linear(attended, weights[layer + "self_attn.o_proj.weight"])
        normed = rmsnorm(x, weights[layer + "post_attention_layernorm.weight"], eps)
        gate = linear(normed, weights[layer + "mlp.gate_proj.weight"])
        up = linear(normed, weights[layer + "mlp.up_proj.weight"])
        x = x + linear(swiglu(gate, up), weights[layer + "mlp.down_proj.weight"])
    head = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
    return linear(rmsnorm(x, weights["model.norm.weight"], eps), weights[head])


def model_loss(
    weights: Mapping[str, Array], config: ModelConfig, tokens: Array, targets: Array
) -> float:
    """Mean nats of the targets (B, T) that are not -1."""
    logits = model_logits(weights, config, tokens).reshape(-1, config.vocab_size)
    losses = cross_entropy(logits, targets.reshape(-1))
    return float(losses.sum() / max(np.count_nonzero(targets >= 0), 1))
