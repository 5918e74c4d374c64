"""The keys and values of the tokens that a generation has read so far."""

from __future__ import annotations

import numpy as np

from slim.config import ModelConfig


class KVCache:
    """keys, values (L, capacity, G*D) float32, rotated; rows 0 .. length - 1 of each layer are filled."""

    def __init__(self, config: ModelConfig, capacity: int) -> None:
        shape = (config.n_layers, capacity, config.n_kv_heads * config.head_dim)
        self.keys = np.zeros(shape, np.float32)
        self.values = np.zeros(shape, np.float32)
        self.capacity = capacity
        self.length = 0

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens and cannot be cut to {length}")
        self.length = length
