"""What a step or a token costs: floating-point operations and bytes, from the sizes alone.

A product of (M, K) and (K, N) counts 2 M N K. Attention counts the causal half only: token t looks at t keys. Norms,
softmax and the like are left out, as everywhere: what they take shows as distance to the ceiling.
"""

from __future__ import annotations

from slim.config import ModelConfig

OUR_MODES = ("fp32", "bf16", "int8")  # int8: of the weights that decoding reads
# Ours, and those of GGUF: 32 weights of Q8_0 and Q4_0 share a scale of 2 bytes.
BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0}
BYTES_PER_WEIGHT |= {"F32": 4.0, "BF16": 2.0, "Q8_0": 34 / 32, "Q4_0": 18 / 32}


def matrix_parameters(config: ModelConfig) -> int:
    """Weights that every token is multiplied with: all matrices, an untied embedding table not among them."""
    layer = 2 * config.n_heads + 2 * config.n_kv_heads
    per_layer = config.dim * config.head_dim * layer + 3 * config.dim * config.hidden_dim
    return config.n_layers * per_layer + config.vocab_size * config.dim


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """Forward and backward of one token in sequences of `length`: 6 per weight, and attention."""
    seen = (length + 1) / 2
    attention = 4 * config.dim * seen * config.n_layers
    return 6 * matrix_parameters(config) + 3 * attention


def prefill_flops(config: ModelConfig, length: int) -> float:
    """Reading `length` tokens from an empty cache, with the logits of the last one only."""
    head = config.vocab_size * config.dim
    layers = matrix_parameters(config) - head
    attention = 2 * config.dim * length * (length + 1) * config.n_layers
    return 2 * layers * length + 2 * head + attention


def decode_bytes(config: ModelConfig, weights: str, seen: float) -> float:
    """What one decoded token reads: every weight once, and keys and values of the `seen` tokens before it.

    Ours keeps keys and values like its weights, int8 like bf16; llama.cpp always in 16 bits.
    """
    cached = 4 if weights == "fp32" else 2
    keys_and_values = 2 * config.n_kv_heads * config.head_dim * seen * config.n_layers * cached
    return matrix_parameters(config) * BYTES_PER_WEIGHT[weights] + keys_and_values
