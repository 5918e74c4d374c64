"""Writing llama2.c's files: see llama2c_layout.py for what lies where."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slim.atomic_file import replace_file
from slim.config import ModelConfig
from slim.errors import UsageError
from slim.events import Progress
from slim.formats.llama2c_layout import KINDS, TOKENIZER, ids_in_order
from slim.formats.rope_rows import interleaved, rotated_heads
from slim.formats.stored_model import StoredModel
from slim.formats.tokenizer_json import piece_names, scores_of
from slim.imported_tokenizer import NO_MERGE, ImportedTokenizer
from slim.tokenizer import FIRST_MERGE_ID, SPECIAL_TOKENS, Tokenizer


def export_llama2c(model: StoredModel, out: str | Path, dtype: str = "f32") -> Iterator[Progress]:
    """Write the checkpoint `out` and tokenizer.bin in its folder; UsageError for what the format cannot carry."""
    check_carries(model.config, dtype)
    ids_in_order(model.tokenizer)
    vocabulary = tokenizer_bin(model.tokenizer)
    path = Path(out)
    yield Progress("exporting", 0, 1)
    replace_file(path.parent / TOKENIZER, [vocabulary])
    replace_file(path, _checkpoint(model))
    yield Progress("exporting", 1, 1)


def check_carries(config: ModelConfig, dtype: str) -> None:
    """UsageError naming what of a model llama2.c has no place for: it computes with constants."""
    if dtype != "f32":
        raise UsageError(f"a llama2.c checkpoint holds f32, not {dtype}")
    if config.rope_theta != 10_000.0:
        raise UsageError(
            f"llama2.c computes with rope_theta 10000, but this model has {config.rope_theta:g}"
        )
    if config.norm_eps != 1e-5:
        raise UsageError(
            f"llama2.c computes with norm_eps 1e-05, but this model has {config.norm_eps:g}"
        )


def tokenizer_bin(tokenizer: Tokenizer) -> bytes:
    """The vocabulary as run.c reads it."""
    if isinstance(tokenizer, ImportedTokenizer):
        known = tokenizer.vocabulary
        raw = known.byte_merges
        scores = list(known.scores) or scores_of(tokenizer)
        pieces = [
            known.pieces[i]
            if raw and i in known.byte_ids
            else name.replace("▁", " ").encode()
            if i in known.byte_ids or not known.pieces[i]
            else known.pieces[i]
            for i, name in enumerate(piece_names(tokenizer))
        ]
    else:
        order = ids_in_order(tokenizer).tolist()
        special = len(SPECIAL_TOKENS)
        pieces = [
            SPECIAL_TOKENS[i].encode() if i < special else tokenizer.token_bytes(i) for i in order
        ]
        scores = [
            NO_MERGE if i < special else -float(max(i - FIRST_MERGE_ID + 1, 0)) for i in order
        ]
    parts = [
        struct.pack("<fi", score, len(piece)) + piece
        for score, piece in zip(scores, pieces, strict=True)
    ]
    return struct.pack("<I", max(map(len, pieces))) + b"".join(parts)


def _checkpoint(model: StoredModel) -> Iterator[bytes | memoryview]:
    config, views = model.config, model.parameters.views
    order = ids_in_order(model.tokenizer)
    signed = config.vocab_size if config.tie_embeddings else -config.vocab_size
    sizes = (config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads)
    yield struct.pack("<7i", *sizes, signed, config.max_seq_len)
    yield _bytes_of(views["model.embed_tokens.weight"][order])
    for kind in KINDS:
        for layer in range(config.n_layers):
            name = f"model.layers.{layer}.{kind}.weight"
            heads = rotated_heads(name, config)
            yield _bytes_of(views[name] if heads is None else interleaved(views[name], heads))
    yield _bytes_of(views["model.norm.weight"])
    half = np.arange(0, config.head_dim, 2, dtype=np.float64)
    angles = np.outer(np.arange(config.max_seq_len), config.rope_theta ** (-half / config.head_dim))
    yield _bytes_of(np.cos(angles).astype(np.float32))
    yield _bytes_of(np.sin(angles).astype(np.float32))
    if not config.tie_embeddings:
        yield _bytes_of(views["lm_head.weight"][order])


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
