"""The numbers of a model: one flat float32 array with a named view for every weight."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from slim.aligned import zeros
from slim.config import ModelConfig

INITIAL_STD = 0.02


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Hugging Face's name and shape of every weight, in the order of the flat array: matrices first, then norms.

    q, k and v of a layer are neighbours, and so are gate and up: each group is one matrix to a kernel.
    """
    dim, hidden = config.dim, config.hidden_dim
    kv_dim = config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, dim)}
    for layer in range(config.n_layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "self_attn.q_proj.weight"] = (dim, dim)
        shapes[prefix + "self_attn.k_proj.weight"] = (kv_dim, dim)
        shapes[prefix + "self_attn.v_proj.weight"] = (kv_dim, dim)
        shapes[prefix + "self_attn.o_proj.weight"] = (dim, dim)
        shapes[prefix + "mlp.gate_proj.weight"] = (hidden, dim)
        shapes[prefix + "mlp.up_proj.weight"] = (hidden, dim)
        shapes[prefix + "mlp.down_proj.weight"] = (dim, hidden)
    if not config.tie_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, dim)
    for layer in range(config.n_layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (dim,)
        shapes[prefix + "post_attention_layernorm.weight"] = (dim,)
    shapes["model.norm.weight"] = (dim,)
    return shapes


class Layer:
    """Views of one layer's weights under the names used in code; wqkv and w_gate_up span neighbours."""

    __slots__ = ("wqkv", "wo", "w_gate_up", "w_down", "attn_norm", "ffn_norm")

    def __init__(self, wqkv, wo, w_gate_up, w_down, attn_norm, ffn_norm) -> None:  # type: ignore[no-untyped-def]
        self.wqkv: np.ndarray = wqkv
        self.wo: np.ndarray = wo
        self.w_gate_up: np.ndarray = w_gate_up
        self.w_down: np.ndarray = w_down
        self.attn_norm: np.ndarray = attn_norm
        self.ffn_norm: np.ndarray = ffn_norm


class Parameters:
    """Weights, gradients or moments of a model: `flat`, `views` by file name, `layers` by code name.

    flat[:n_decayed] are the matrices, which weight decay acts on; the norms follow.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.shapes = parameter_shapes(config)
        self.offsets: dict[str, int] = {}
        size = 0
        for name, shape in self.shapes.items():
            self.offsets[name] = size
            size += math.prod(shape)
        self.flat = zeros(size, np.float32)
        self.n_decayed = self.offsets["model.layers.0.input_layernorm.weight"]
        self.views = {name: self._view(name, shape) for name, shape in self.shapes.items()}
        self.tok_emb = self.views["model.embed_tokens.weight"]
        self.lm_head = self.views.get("lm_head.weight", self.tok_emb)
        self.final_norm = self.views["model.norm.weight"]
        self.layers = [self._layer(layer) for layer in range(config.n_layers)]

    def _view(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        start = self.offsets[name]
        return self.flat[start : start + math.prod(shape)].reshape(shape)

    def _layer(self, layer: int) -> Layer:
        config, prefix = self.config, f"model.layers.{layer}."
        qkv_rows = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        return Layer(
            wqkv=self._view(prefix + "self_attn.q_proj.weight", (qkv_rows, config.dim)),
            wo=self.views[prefix + "self_attn.o_proj.weight"],
            w_gate_up=self._view(prefix + "mlp.gate_proj.weight", (2 * config.hidden_dim, config.dim)),
            w_down=self.views[prefix + "mlp.down_proj.weight"],
            attn_norm=self.views[prefix + "input_layernorm.weight"],
            ffn_norm=self.views[prefix + "post_attention_layernorm.weight"],
        )

    def initialise(self, seed: int) -> Parameters:
        """Normal(0, 0.02) matrices, those that write to the residual stream scaled by 1/sqrt(2 L); norms are 1.

        Each weight draws from its own stream, keyed by the seed and its place, so sizes do not disturb each other.
        """
        residual = INITIAL_STD / math.sqrt(2 * self.config.n_layers)
        for index, (name, view) in enumerate(self.views.items()):
            if view.ndim == 1:
                view[:] = 1.0
                continue
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
            generator.standard_normal(out=view, dtype=np.float32)
            view *= residual if name.endswith(("o_proj.weight", "down_proj.weight")) else INITIAL_STD
        return self

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return iter(self.views.items())
