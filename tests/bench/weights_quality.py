"""What shorter weights cost: perplexity through the decoder, token by token, next to float32's.

python tests/bench/weights_quality.py MODEL TEXT
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from slim.kernels.int8 import HAS_INT8
from slim.kernels.tile import HAS_BF16
from slim.model import Model
from slim.model_file import load_model

DOCUMENTS, TOKENS, TOGETHER = 96, 128, 8


def mean_nats(model: Model, documents: np.ndarray) -> float:
    """Nats per token of documents (N, TOKENS + 1), each read from its start mark."""
    nats = 0.0
    for first in range(0, len(documents), TOGETHER):
        rows = documents[first : first + TOGETHER]
        cache = model.new_cache(TOKENS, len(rows))
        for place in range(TOKENS):
            logits = model.decode_rows(cache, np.ascontiguousarray(rows[:, place]))
            largest = logits.max(axis=1, keepdims=True)
            exact = (logits - largest).astype(np.float64)
            targets = exact[np.arange(len(rows)), rows[:, place + 1]]
            nats += float((np.log(np.exp(exact).sum(axis=1)) - targets).sum())
    return nats / documents[:, 1:].size


def main(model_path: str, text_path: str) -> None:
    """A line for every kind of weights."""
    text = Path(text_path).read_text(encoding="utf-8")
    baseline: float | None = None
    for weights in ("fp32", *(["bf16"] * HAS_BF16), *(["int8"] * HAS_INT8)):
        model, tokenizer, _ = load_model(model_path, weights)
        encoded = [tokenizer.encode(part.strip()) for part in text.split("<|endoftext|>")]
        long_enough = [ids[:TOKENS] for ids in encoded if ids.size >= TOKENS][:DOCUMENTS]
        starts = np.full((len(long_enough), 1), tokenizer.start_id, np.int32)
        nats = mean_nats(model, np.hstack([starts, long_enough]).astype(np.int32))
        baseline = nats if baseline is None else baseline
        ratio = math.exp(nats - baseline) - 1.0
        tokens = len(long_enough) * TOKENS
        print(f"{weights}: {nats:.5f} nats/token of {tokens:,}, perplexity {ratio:+.3%}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tests/bench/weights_quality.py MODEL TEXT")
    main(*sys.argv[1:])
