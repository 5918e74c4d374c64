"""The keys and values of the tokens that a generation, or several of the same length, has read so far."""

from __future__ import annotations

import numpy as np

from slim.aligned import zeros
from slim.config import ModelConfig
from slim.kernels.attention import panel_sizes


class KVCache:
    """keys, values (L, R, G, ...): rotated, in the panels that attention reads; `length` tokens of `capacity` are there."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: type = np.float32, rows: int = 1) -> None:
        key_size, value_size = panel_sizes(capacity, config.head_dim)
        heads = (config.n_layers, rows, config.n_kv_heads)
        self.keys = zeros((*heads, key_size), dtype)
        self.values = zeros((*heads, value_size), dtype)
        self.rows = rows
        self.capacity = capacity
        self.length = 0

    def fill_from(self, one: KVCache) -> None:
        """Let every row hold what the only row of a cache of the same capacity holds."""
        self.keys[...] = one.keys
        self.values[...] = one.values
        self.length = one.length

    def fill_row_from(self, row: int, one: KVCache) -> None:
        """Let one row hold what the only row of a cache of the same capacity holds: as many tokens as in every row."""
        self.keys[:, row] = one.keys[:, 0]
        self.values[:, row] = one.values[:, 0]
        self.length = one.length

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens and cannot be cut to {length}")
        self.length = length
