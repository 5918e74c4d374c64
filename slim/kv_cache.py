"""The keys and values of the tokens that a generation has read so far."""

from __future__ import annotations

import numpy as np

from slim.config import ModelConfig
from slim.kernels.attention import panel_sizes


class KVCache:
    """keys, values (L, 1, G, ...): rotated, in the panels that attention reads; `length` tokens of `capacity` are there."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: type = np.float32) -> None:
        key_size, value_size = panel_sizes(capacity, config.head_dim)
        heads = (config.n_layers, 1, config.n_kv_heads)
        self.keys = np.zeros((*heads, key_size), dtype)
        self.values = np.zeros((*heads, value_size), dtype)
        self.capacity = capacity
        self.length = 0

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens and cannot be cut to {length}")
        self.length = length
