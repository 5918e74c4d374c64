"""The rival in tokenizing: the `tokenizers` library. A program of its own.

    python tokenizers_bpe.py JOB.json

SLiM never imports this file, and this file imports nothing of SLiM. The job names a text, a vocabulary size and a
tokenizer.json. It answers with JSON lines: first the ids of the text (on disk); then, for each line on stdin, the
seconds of building a vocabulary of that size and of encoding the text with the tokenizer.json, each with nothing
remembered. The number of threads is RAYON_NUM_THREADS.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import tokenizers
from answer import say
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SPECIAL_TOKENS = 4


def build(documents: list[str], vocab_size: int) -> Tokenizer:
    """A vocabulary from the documents, with as many merges as SLiM's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def main() -> None:
    """Prepare, check, then measure on demand."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    text = Path(job["text"]).read_bytes()
    documents = [part.decode() for part in text.split(b"<|endoftext|>") if part.strip()]

    def encoder() -> Tokenizer:
        tokenizer = Tokenizer.from_file(job["vocabulary"])
        tokenizer.encode_special_tokens = True
        return tokenizer

    ids = [e.ids for e in encoder().encode_batch(documents, add_special_tokens=False)]
    np.concatenate([np.array(i, np.int32) for i in ids]).tofile(job["results"])
    about = f"tokenizers {tokenizers.__version__}, {job['threads']} threads"
    say(about=about)
    for _ in sys.stdin:
        started = time.perf_counter()
        build(documents, job["vocab_size"])
        built = time.perf_counter() - started
        tokenizer = encoder()
        started = time.perf_counter()
        tokenizer.encode_batch_fast(documents, add_special_tokens=False)
        encoded = time.perf_counter() - started
        say(values={"build_seconds": [built], "encode_seconds": [encoded]})


if __name__ == "__main__":
    main()
