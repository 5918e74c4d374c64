"""The keys and values of the tokens that a generation has read so far."""

from __future__ import annotations

import numpy as np

from slim.config import ModelConfig


class KVCache:
    """keys, values (L, capacity, G*D) operands, rotated; rows 0 .. length - 1 of each layer are filled."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: type = np.float32) -> None:
        shape = (config.n_layers, capacity, config.n_kv_heads * config.head_dim)
        self.keys = np.zeros(shape, dtype)
        self.values = np.zeros(shape, dtype)
        self.capacity = capacity
        self.length = 0

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens and cannot be cut to {length}")
        self.length = length
