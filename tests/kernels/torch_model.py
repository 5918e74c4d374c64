"""The whole model in torch and float64: an independent derivation of every gradient at once."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from slim.config import ModelConfig

Array = np.ndarray
Tensor = torch.Tensor


def logits_and_gradients(
    weights: dict[str, Array], config: ModelConfig, tokens: Array, targets: Array
) -> tuple[Array, dict[str, Array]]:
    """Logits (B, T, V), and the gradient of the mean loss over targets that are not -1 at every weight."""
    tensors = {
        name: torch.tensor(w, dtype=torch.float64, requires_grad=True)
        for name, w in weights.items()
    }
    logits = _logits(tensors, config, torch.tensor(tokens, dtype=torch.long))
    expected = torch.tensor(targets, dtype=torch.long).flatten()
    F.cross_entropy(logits.flatten(0, 1), expected, ignore_index=-1).backward()
    return logits.detach().numpy(), {name: w.grad.numpy() for name, w in tensors.items()}


def _logits(weights: dict[str, Tensor], config: ModelConfig, tokens: Tensor) -> Tensor:
    B, T = tokens.shape
    C, D = config.dim, config.head_dim
    angles = torch.arange(T, dtype=torch.float64)[:, None] * config.rope_theta ** (
        -torch.arange(0, D, 2, dtype=torch.float64) / D
    )
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.complex(*x.chunk(2, dim=-1)) * turn
        return torch.cat((pairs.real, pairs.imag), dim=-1)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (C,), weights[name], config.norm_eps)

    x = F.embedding(tokens, weights["model.embed_tokens.weight"])
    for i in range(config.n_layers):
        layer = f"model.layers.{i}."
        normed = norm(x, layer + "input_layernorm.weight")
        q, k, v = (
            F.linear(normed, weights[f"{layer}self_attn.{part}_proj.weight"]).view(B, T, -1, D).transpose(1, 2)
            for part in "qkv"
        )  # fmt: skip
        attended = F.scaled_dot_product_attention(
            rotated(q),
            rotated(k),
            v,
            is_causal=True,
            enable_gqa=config.n_heads != config.n_kv_heads,
        )
        x = x + F.linear(
            attended.transpose(1, 2).reshape(B, T, C), weights[layer + "self_attn.o_proj.weight"]
        )
        normed = norm(x, layer + "post_attention_layernorm.weight")
        gate = F.silu(F.linear(normed, weights[layer + "mlp.gate_proj.weight"]))
        hidden = gate * F.linear(normed, weights[layer + "mlp.up_proj.weight"])
        x = x + F.linear(hidden, weights[layer + "mlp.down_proj.weight"])
    head = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
    return F.linear(norm(x, "model.norm.weight"), weights[head])
