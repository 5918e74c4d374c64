"""A program of the test suite: all that whole tiny models compute, as one hash for each number of threads.

python hash_of_models.py LAYER REPEATS     JSON on stdout: {"layer": ..., "hashes": {"1": [...], "2": [...], ...}}
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

MOST_THREADS = 4
os.environ["NUMBA_NUM_THREADS"] = str(MOST_THREADS)
os.environ["NUMBA_THREADING_LAYER"] = sys.argv[1]

import numba  # noqa: E402  (the environment comes first)
import numpy as np  # noqa: E402

from slim.config import TrainConfig  # noqa: E402
from slim.optim import AdamW, Muon  # noqa: E402
from slim.parameters import Parameters  # noqa: E402
from tiny_models import MODELS, tiny_batch, tiny_model  # noqa: E402


def hash_of(name: str, precision: str) -> bytes:
    """Losses and weights of some updates, an evaluation, logits, and decoding of one text and of several."""
    digest = hashlib.sha256()
    model = tiny_model(name, precision)
    optimizers = AdamW(model.parameters, TrainConfig()), Muon(model.parameters, TrainConfig(), model.dtype)
    gradients = Parameters(model.config)
    w = model.workspace(3, 70, train=True)
    for step in range(4):
        tokens, targets = tiny_batch(model.config, 3, 70, seed=step)
        loss = model.loss_and_gradients(w, tokens, targets, gradients)
        digest.update(np.float64(loss).tobytes() + gradients.flat.tobytes())
        optimizer = optimizers[step % 2]
        optimizer.step(gradients, 1e-3, optimizer.gradient_norm(gradients))
        model.pack()
    digest.update(model.parameters.flat.tobytes())
    digest.update(model.token_losses(w, tokens, targets).tobytes())
    digest.update(model.logits(w, tokens).tobytes())
    one, several, few = model.new_cache(), model.new_cache(rows=5), model.new_cache(rows=3)
    digest.update(model.prefill(one, tokens[0, :40]).tobytes())
    several.fill_from(one)
    few.fill_from(one)
    for token in tokens[0, 40:60]:  # heads are shared out from SHARED_FROM on
        digest.update(model.decode(one, int(token)).tobytes())
        together = model.decode_rows(several, np.full(5, token, np.int32)).tobytes()
        digest.update(together)
        assert together[: len(together) // 5 * 3] == model.decode_rows(few, np.full(3, token, np.int32)).tobytes()
    return digest.digest()


def main() -> None:
    """Print what each number of threads gives."""
    hashes: dict[int, list[str]] = {}
    for _ in range(int(sys.argv[2])):
        for threads in range(1, MOST_THREADS + 1):
            numba.set_num_threads(threads)
            found = b"".join(hash_of(name, precision) for name, precision in MODELS)
            hashes.setdefault(threads, []).append(hashlib.sha256(found).hexdigest())
    sys.stdout.write(json.dumps({"layer": numba.threading_layer(), "hashes": hashes}))


if __name__ == "__main__":
    main()
