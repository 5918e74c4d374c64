"""The decoder: forward, backward and single-token decode as lists of kernel calls.

    x = embedding(tokens)
    per layer:   x = x + attention(rope(rmsnorm(x) Wqkv)) Wo
                 x = x + (silu(gate) * up) Wdown,   gate, up = rmsnorm(x) Wgate_up
    logits = rmsnorm(x) Wemb^T

(Touvron et al. 2023.) Everything below runs in the engine thread; all buffers of a (B, T) shape are allocated once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numba
import numpy as np

from slim.aligned import empty, zeros
from slim.config import ModelConfig
from slim.errors import ConfigError
from slim.kernels.attention import (
    attention_backward,
    attention_forward,
    attention_scratch_sizes,
    pack_keys_values,
    panel_sizes,
)
from slim.kernels.board import new_board
from slim.kernels.cross_entropy import cross_entropy
from slim.kernels.decode import (
    ATTENTION_NORM,
    ATTENTION_OUT,
    DOWN,
    FFN_NORM,
    GATE_UP,
    PER_LAYER,
    QKV,
    decode_rows,
    decode_work_sizes,
    most_together,
)
from slim.kernels.embedding import embedding_backward, embedding_forward
from slim.kernels.int8 import HAS_INT8, pack8, packed_size8
from slim.kernels.matmul import (
    gradient_scratch_size,
    matmul,
    matmul_add,
    matmul_weight_gradient,
    pack,
    packed_size,
    product_scratch_size,
)
from slim.kernels.operand import operand_dtype
from slim.kernels.rmsnorm import partial_rows, rmsnorm_backward, rmsnorm_forward
from slim.kernels.rope import rope, rope_tables
from slim.kernels.swiglu import swiglu_backward, swiglu_forward
from slim.kernels.tile import BF16_IS_FASTER, HAS_BF16
from slim.kv_cache import KVCache
from slim.parameters import Layer, Parameters

HEAD_ROWS = 256  # rows of logits that exist at a time
MOST_TOGETHER = 4  # threads that decode the same texts: a few read as fast as the memory is
FORWARD, BACKWARD = np.float32(1.0), np.float32(-1.0)


class Panels:
    """Every matrix packed for the micro-kernel: turned over for the forward pass, as it is for input gradients."""

    def __init__(self, parameters: Parameters, dtype: type) -> None:
        self.matrices = [w for layer in parameters.layers for w in _matrices(layer)] + [parameters.lm_head]
        self.dtype = dtype
        self.flat, self.forward, starts = self._buffers(transposed=True)
        self.starts = np.array(starts[:-1], np.int64).reshape(-1, 4)
        self.head_start = starts[-1]
        nothing: np.ndarray = np.empty(0, dtype)
        self.backward = [nothing] * len(self.forward)

    def _buffers(self, transposed: bool) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
        """Room for all panels in one array, the panels of each matrix, and where they begin."""
        shapes = [w.shape if transposed else w.shape[::-1] for w in self.matrices]
        sizes = [packed_size(columns, k, self.dtype) for columns, k in shapes]
        starts = [0, *np.cumsum(sizes).tolist()]
        flat = zeros(starts[-1], self.dtype)
        return flat, [flat[start:stop] for start, stop in pairwise(starts)], starts[:-1]

    def add_backward(self) -> None:
        """Panels for the backward pass too, from now on."""
        if len(self.backward[0]) == 0:
            _, self.backward, _ = self._buffers(transposed=False)
            self.pack()

    def pack(self) -> None:
        """Copy the weights as they are now."""
        for forward, backward, weight in zip(self.forward, self.backward, self.matrices, strict=True):
            pack(forward, backward, weight)

    @staticmethod
    def of_layer(panels: list[np.ndarray], layer: int) -> list[np.ndarray]:
        """wqkv, wo, w_gate_up, w_down of a layer."""
        return panels[4 * layer : 4 * layer + 4]


class Int8Panels:
    """Every matrix in 8 bits, for decoding; laid out like the forward panels of `Panels`."""

    def __init__(self, panels: Panels) -> None:
        self.matrices = panels.matrices
        sizes = [packed_size8(*w.shape) for w in self.matrices]
        starts: list[int] = [0, *np.cumsum(sizes).tolist()]
        size = starts.pop()
        self._starts = starts
        self.flat = zeros(size, np.int8)
        self.starts = np.array(starts[:-1], np.int64).reshape(-1, 4)
        self.head_start = starts[-1]

    def pack(self) -> None:
        """Round the weights as they are now."""
        for start, weight in zip(self._starts, self.matrices, strict=True):
            pack8(self.flat, start, weight)


def _matrices(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return layer.wqkv, layer.wo, layer.w_gate_up, layer.w_down


class Workspace:
    """The activations of a (B, T) batch. With train=False all layers share one layer's buffers.

    What goes into a matrix product has the operands' dtype; the residual stream and its gradient are float32.
    """

    def __init__(self, config: ModelConfig, B: int, T: int, train: bool, dtype: type = np.float32) -> None:
        if T > config.max_seq_len:  # noqa: SIM300 (T is not a constant)
            raise ValueError(f"T must be at most max_seq_len, but {T} > {config.max_seq_len}")
        self.B, self.T, self.train, self.dtype = B, T, train, dtype
        N, C, F, V = B * T, config.dim, config.hidden_dim, config.vocab_size
        L, H, D = config.n_layers, config.n_heads, config.head_dim
        qkv_columns = (H + 2 * config.n_kv_heads) * D
        f32 = np.float32
        self.x = _per_layer(L + 1, (N, C), f32, train)
        self.rstd_attn = _per_layer(L, (N,), f32, train)
        self.qkv = _per_layer(L, (N, qkv_columns), dtype, train)
        self.attended = _per_layer(L, (N, C), dtype, train)
        self.lse = _per_layer(L, (B, H, T), f32, train)
        self.x_mid = _per_layer(L, (N, C), f32, train)
        self.rstd_ffn = _per_layer(L, (N,), f32, train)
        self.gate_up = _per_layer(L, (N, 2 * F), dtype, train)
        self.normed = empty((N, C), dtype)
        self.hidden = empty((N, F), dtype)
        self.rstd_final = empty(N, f32)
        self.losses = empty(N, f32)
        self.logits = empty((min(N, HEAD_ROWS), V), f32)
        # As an operand a row is a whole number of units.
        separate = train and dtype != f32
        self.dlogits = empty((min(N, HEAD_ROWS), V + V % 2), dtype) if separate else self.logits
        workers = numba.get_num_threads()
        key_size, value_size = panel_sizes(T, D)
        self.keys = empty((B, config.n_kv_heads, key_size), dtype)
        self.values = empty((B, config.n_kv_heads, value_size), dtype)
        sums, operands = attention_scratch_sizes(T, D)
        self.attention_scratch = (empty((workers, sums), f32), empty((workers, operands), dtype))
        scratch_sizes = [product_scratch_size(dtype)]
        if train:
            self.dx = empty((N, C), f32)
            self.dx_operand = self.dx if dtype == f32 else empty((N, C), dtype)
            self.dnormed = empty((N, C), f32)
            self.dattended = empty((N, C), dtype)
            self.dqkv = empty((N, qkv_columns), dtype)
            self.dgate_up = empty((N, 2 * F), dtype)
            self.dhidden = empty((N, F), dtype)
            self.partial = empty((partial_rows(N), C), f32)
            shapes = [(V, C), (qkv_columns, C), (2 * F, C), (C, F)]
            scratch_sizes += [gradient_scratch_size(*shape, workers, dtype) for shape in shapes]
        self.product_scratch = empty((workers, max(scratch_sizes)), dtype)

    def release(self) -> None:
        """Give the memory back: what is left is the shape."""
        shape = self.B, self.T
        vars(self).clear()
        self.B, self.T = shape


def _per_layer(count: int, shape: tuple[int, ...], dtype: type, distinct: bool) -> list[np.ndarray]:
    if distinct:
        return [empty(shape, dtype) for _ in range(count)]
    return [empty(shape, dtype)] * count


def choose_precision(asked: str, config: ModelConfig) -> str:
    """What "auto" means on this machine for such a model; ConfigError when bf16 is asked for and cannot be had."""
    even = config.dim % 2 == 0 and config.hidden_dim % 2 == 0
    if asked == "int8" and not HAS_INT8:
        raise ConfigError("weights in int8 need a CPU with AVX-512 VNNI or AVX-VNNI, which this one is not: use fp32")
    if asked == "auto":
        return "bf16" if BF16_IS_FASTER and even else "fp32"
    if asked == "bf16" and not HAS_BF16:
        raise ConfigError("precision bf16 needs a CPU with AVX-512 BF16, which this one is not: use fp32")
    if operand_dtype(asked) == np.uint16 and not even:
        raise ConfigError(
            f"precision {asked} needs an even dim and hidden_dim, but they are {config.dim} and {config.hidden_dim}"
        )
    return asked


def workspace_bytes(config: ModelConfig, B: int, T: int, train: bool, precision: str = "fp32") -> int:
    """Bytes of a Workspace, without the scratch of attention and of weight gradients."""
    N, C, F, size = B * T, config.dim, config.hidden_dim, 2 if precision == "bf16" else 4
    qkv = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    layer = 4 * (2 * C + config.n_heads + 2) + size * (C + qkv + 2 * F)
    shared = 4 * (C + 2) + size * (C + F)
    if train:
        shared += 4 * 2 * C + size * (C + qkv + 3 * F) + (size * C if size == 2 else 0)
    layers = config.n_layers if train else 1
    products = numba.get_num_threads() * product_scratch_size(operand_dtype(precision)) * size
    return products + N * (layers * layer + shared) + min(N, HEAD_ROWS) * config.vocab_size * (4 + size if train else 4)


class Model:
    """A model that runs: parameters, their packed copies and the RoPE tables. Call `pack()` after changing weights.

    precision   "fp32", or "bf16": operands of matrix products are rounded to bfloat16, all else stays float32; or "int8":
                like the better of these two, but decoding reads the weights in 8 bits. Not for training.
    """

    def __init__(self, config: ModelConfig, parameters: Parameters, precision: str = "fp32") -> None:
        self.config = config
        self.parameters = parameters
        self.precision = precision
        self.dtype = operand_dtype(precision)
        self.cos, self.sin = rope_tables(config.max_seq_len, config.head_dim, config.rope_theta)
        self.eps = np.float32(config.norm_eps)
        self.panels = Panels(parameters, self.dtype)
        self.decode_panels = Int8Panels(self.panels) if precision == "int8" else self.panels
        self._decode_layers = np.zeros((config.n_layers, PER_LAYER), np.int64)
        self._decode_layers[:, [QKV, ATTENTION_OUT, GATE_UP, DOWN]] = self.decode_panels.starts
        for layer, begins in enumerate(self._decode_layers):
            begins[ATTENTION_NORM] = parameters.offsets[f"model.layers.{layer}.input_layernorm.weight"]
            begins[FFN_NORM] = parameters.offsets[f"model.layers.{layer}.post_attention_layernorm.weight"]
        qkv_columns = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        self._work_sizes = decode_work_sizes(config.dim, qkv_columns, config.hidden_dim, config.max_seq_len)
        self._board, self._no_board = new_board(), np.zeros(0, np.int64)
        self._room = 0
        self._make_room(1)
        self.pack()

    def pack(self) -> None:
        """Bring the packed copies up to date with `parameters`."""
        self.panels.pack()
        if self.decode_panels is not self.panels:
            self.decode_panels.pack()

    def workspace(self, B: int, T: int, train: bool) -> Workspace:
        """Buffers for batches of B sequences of T tokens, made once and used for every step."""
        return Workspace(self.config, B, T, train, self.dtype)

    def new_cache(self, capacity: int | None = None, rows: int = 1) -> KVCache:
        """An empty cache for `capacity` tokens (the context length if None) of each of `rows` texts."""
        return KVCache(self.config, self.config.max_seq_len if capacity is None else capacity, self.dtype, rows)

    # ---- forward ----------------------------------------------------------------------------------------------

    def _forward(self, w: Workspace, tokens: np.ndarray, cache: KVCache | None = None) -> None:
        """Fill w.x[L] and w.normed (after the final norm); with a cache, after its `length` tokens and into it."""
        config = self.config
        H, G, D = config.n_heads, config.n_kv_heads, config.head_dim
        start = 0 if cache is None else cache.length
        embedding_forward(w.x[0], tokens, self.parameters.tok_emb)
        for i, layer in enumerate(self.parameters.layers):
            wqkv, wo, w_gate_up, w_down = self.panels.of_layer(self.panels.forward, i)
            rmsnorm_forward(w.normed, w.rstd_attn[i], w.x[i], layer.attn_norm, self.eps)
            matmul(w.qkv[i], w.normed, wqkv, w.product_scratch)
            rope(w.qkv[i], self.cos, self.sin, H + G, w.T, start, FORWARD)
            keys, values = (w.keys, w.values) if cache is None else (cache.keys[i], cache.values[i])
            pack_keys_values(keys, values, w.qkv[i], w.T, H, D, start)
            attention_forward(w.attended[i], w.lse[i], w.qkv[i], keys, values, w.T, H, D, start, *w.attention_scratch)
            matmul_add(w.x_mid[i], w.x[i], w.attended[i], wo, w.product_scratch)
            rmsnorm_forward(w.normed, w.rstd_ffn[i], w.x_mid[i], layer.ffn_norm, self.eps)
            matmul(w.gate_up[i], w.normed, w_gate_up, w.product_scratch)
            swiglu_forward(w.hidden, w.gate_up[i])
            matmul_add(w.x[i + 1], w.x_mid[i], w.hidden, w_down, w.product_scratch)
        rmsnorm_forward(w.normed, w.rstd_final, w.x[-1], self.parameters.final_norm, self.eps)

    def _head_chunks(self, w: Workspace) -> list[slice]:
        N = w.B * w.T
        return [slice(first, min(first + HEAD_ROWS, N)) for first in range(0, N, HEAD_ROWS)]

    def token_losses(self, w: Workspace, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Nats of every target, (B, T) float32, 0 where the target is -1. tokens, targets (B, T) int32."""
        tokens, targets = _rows(tokens, w), _rows(targets, w)
        self._forward(w, tokens)
        for rows in self._head_chunks(w):
            logits = w.logits[: rows.stop - rows.start]
            matmul(logits, w.normed[rows], self.panels.forward[-1], w.product_scratch)
            cross_entropy(w.losses[rows], logits, logits, targets[rows], np.float32(0.0))
        return w.losses.reshape(w.B, w.T)

    def logits_in_chunks(self, w: Workspace, tokens: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows of the flattened (B, T) batch and their logits (rows, V) float32, which are overwritten by the next."""
        self._forward(w, _rows(tokens, w))
        for rows in self._head_chunks(w):
            logits = w.logits[: rows.stop - rows.start]
            matmul(logits, w.normed[rows], self.panels.forward[-1], w.product_scratch)
            yield rows, logits

    def logits(self, w: Workspace, tokens: np.ndarray) -> np.ndarray:
        """All logits, (B, T, V) float32: for small batches."""
        self._forward(w, _rows(tokens, w))
        logits = empty((w.B * w.T, self.config.vocab_size), np.float32)
        matmul(logits, w.normed, self.panels.forward[-1], w.product_scratch)
        return logits.reshape(w.B, w.T, -1)

    # ---- backward ---------------------------------------------------------------------------------------------

    def loss_and_gradients(
        self, w: Workspace, tokens: np.ndarray, targets: np.ndarray, gradients: Parameters, scale: float = 1.0
    ) -> float:
        """Add scale * d(mean loss)/dw to `gradients`; return the mean loss in nats over targets that are not -1."""
        self.panels.add_backward()
        tokens, targets = _rows(tokens, w), _rows(targets, w)
        self._forward(w, tokens)
        counted = max(int(np.count_nonzero(targets >= 0)), 1)
        for rows in self._head_chunks(w):
            logits, dlogits = w.logits[: rows.stop - rows.start], w.dlogits[: rows.stop - rows.start]
            matmul(logits, w.normed[rows], self.panels.forward[-1], w.product_scratch)
            cross_entropy(w.losses[rows], dlogits, logits, targets[rows], np.float32(scale / counted))
            matmul(w.dnormed[rows], dlogits, self.panels.backward[-1], w.product_scratch)
            matmul_weight_gradient(gradients.lm_head, dlogits, w.normed[rows], w.product_scratch)
        self._backward(w, tokens, gradients)
        return float(np.sum(w.losses, dtype=np.float64)) / counted

    def _backward(self, w: Workspace, tokens: np.ndarray, gradients: Parameters) -> None:
        """From w.dnormed, the gradient at the final norm, to every weight. Each group names the line it inverts."""
        config, parameters, scratch = self.config, self.parameters, w.product_scratch
        H, G, D = config.n_heads, config.n_kv_heads, config.head_dim
        w.dx.fill(0.0)
        # normed = rmsnorm(x[L], final_norm)
        rmsnorm_backward(
            w.dx, w.dx_operand, gradients.final_norm, w.partial, w.dnormed, w.x[-1], w.rstd_final, parameters.final_norm
        )
        for i in reversed(range(config.n_layers)):
            layer, dlayer = parameters.layers[i], gradients.layers[i]
            wqkv, wo, w_gate_up, w_down = self.panels.of_layer(self.panels.backward, i)
            # x[i + 1] = x_mid + swiglu(gate_up) w_down
            matmul(w.dhidden, w.dx_operand, w_down, w.product_scratch)
            swiglu_backward(w.dgate_up, w.hidden, w.dhidden, w.gate_up[i])
            matmul_weight_gradient(dlayer.w_down, w.dx_operand, w.hidden, scratch)
            # gate_up = rmsnorm(x_mid, ffn_norm) w_gate_up; normed is cheaper to compute again than to keep
            rmsnorm_forward(w.normed, w.rstd_ffn[i], w.x_mid[i], layer.ffn_norm, self.eps)
            matmul_weight_gradient(dlayer.w_gate_up, w.dgate_up, w.normed, scratch)
            matmul(w.dnormed, w.dgate_up, w_gate_up, w.product_scratch)
            rmsnorm_backward(
                w.dx, w.dx_operand, dlayer.ffn_norm, w.partial, w.dnormed, w.x_mid[i], w.rstd_ffn[i], layer.ffn_norm
            )
            # x_mid = x[i] + attended wo
            matmul_weight_gradient(dlayer.wo, w.dx_operand, w.attended[i], scratch)
            matmul(w.dattended, w.dx_operand, wo, w.product_scratch)
            # attended = attention(rope(qkv))
            pack_keys_values(w.keys, w.values, w.qkv[i], w.T, H, D, 0)
            attention_backward(
                w.dqkv, w.dattended, w.attended[i], w.lse[i], w.qkv[i], w.keys, w.T, H, D, *w.attention_scratch
            )
            rope(w.dqkv, self.cos, self.sin, H + G, w.T, 0, BACKWARD)
            # qkv = rmsnorm(x[i], attn_norm) wqkv
            rmsnorm_forward(w.normed, w.rstd_attn[i], w.x[i], layer.attn_norm, self.eps)
            matmul_weight_gradient(dlayer.wqkv, w.dqkv, w.normed, scratch)
            matmul(w.dnormed, w.dqkv, wqkv, w.product_scratch)
            rmsnorm_backward(
                w.dx, w.dx_operand, dlayer.attn_norm, w.partial, w.dnormed, w.x[i], w.rstd_attn[i], layer.attn_norm
            )
        # x[0] = embedding(tokens)
        embedding_backward(gradients.tok_emb, w.dx, tokens)

    # ---- generation -------------------------------------------------------------------------------------------

    def prefill(self, cache: KVCache, ids: np.ndarray) -> np.ndarray:
        """Append all `ids` to a cache of one row in one pass; logits (V,) after the last, valid until the next call."""
        ids = np.ascontiguousarray(ids, np.int32)
        _check_room(cache, len(ids))
        w = self.workspace(1, len(ids), train=False)
        self._forward(w, ids, cache)
        cache.length += len(ids)
        matmul(self._next_logits[:1], w.normed[-1:], self.panels.forward[-1], w.product_scratch)
        return self._next_logits[0]

    def decode(self, cache: KVCache, token_id: int) -> np.ndarray:
        """Append one token to a cache of one row; logits (V,) of the next, valid until the next call."""
        self._next_tokens[0] = token_id
        return self.decode_rows(cache, self._next_tokens[:1])[0]

    def decode_rows(self, cache: KVCache, tokens: np.ndarray) -> np.ndarray:
        """Append to each row of the cache one of `tokens` (R,) int32; logits (R, V), valid until the next call."""
        _check_room(cache, 1)
        config, offsets, R = self.config, self.parameters.offsets, cache.rows
        if tokens.shape != (R,):
            raise ValueError(f"the cache has {R} rows, but got tokens of shape {tokens.shape}")
        self._make_room(R)
        threads = numba.get_num_threads()
        together = threads > 1 and most_together(self.decode_panels.flat) >= R
        decode_rows(
            self._next_logits[:R], cache.keys, cache.values, *self._work, tokens, cache.length,
            self.parameters.flat, offsets["model.embed_tokens.weight"], offsets["model.norm.weight"],
            self.decode_panels.flat, self._decode_layers, self.decode_panels.head_start, self.cos, self.sin,
            config.n_heads, config.n_kv_heads, config.head_dim, config.hidden_dim, self.eps,
            self._board if together else self._no_board, min(threads, MOST_TOGETHER) if together else threads,
        )  # fmt: skip
        cache.length += 1
        return self._next_logits[:R]

    def _make_room(self, rows: int) -> None:
        """Buffers for decoding so many texts at once, kept for the next time."""
        if rows > self._room:
            self._room = rows
            floats, operands, bytes_ = self._work_sizes
            work_rows = max(rows, MOST_TOGETHER)
            self._work = (
                empty((work_rows, floats), np.float32),
                empty((work_rows, operands), self.dtype),
                empty((work_rows, bytes_), np.uint8),
                empty(work_rows, np.float32),
            )
            self._next_logits = empty((rows, self.config.vocab_size), np.float32)
            self._next_tokens = empty(rows, np.int32)


def _rows(ids: np.ndarray, w: Workspace) -> np.ndarray:
    if ids.shape != (w.B, w.T):
        raise ValueError(f"the workspace is for {(w.B, w.T)} ids, but got {ids.shape}")
    return np.ascontiguousarray(ids, np.int32).reshape(-1)


def _check_room(cache: KVCache, count: int) -> None:
    if count < 1 or cache.length + count > cache.capacity:
        raise ValueError(f"the cache holds {cache.length} of {cache.capacity} tokens: no room for {count} more")
