"""The rival in generation: llama.cpp, called through its C interface. A program of its own.

    python llama_cpp.py JOB.json

SLiM never imports this file, and this file imports nothing of SLiM. The job names a GGUF file and token ids. It answers
with JSON lines: first the logits of all ids (on disk) and what the library says of itself; then, for each line on
stdin, the seconds of prefills of all ids and of decoding them one by one, each from an empty cache. This is what
llama.cpp's own `llama-bench` measures as pp and tg: no sampling, no text.

The library is the one inside the `xllamacpp` wheel, or the one that the job names.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_uint32, c_void_p
from pathlib import Path

import numpy as np
from answer import say

CONTEXT = (
    0  # where the first fields of llama_context_params lie, in uint32: n_ctx, n_batch, n_ubatch
)
BATCH, MICRO_BATCH = 1, 2
LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)


class Opaque(ctypes.Structure):
    """A parameter record whose fields change between versions: larger than any of them, passed on as it came."""

    _fields_ = [("words", c_uint32 * 256)]


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = [
        ("n_tokens", c_int32),
        *((name, c_void_p) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")),
    ]


SIGNATURES = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LOG, c_void_p]),
    "llama_print_system_info": (c_char_p, []),
    "llama_model_default_params": (Opaque, []),
    "llama_context_default_params": (Opaque, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, Opaque]),
    "llama_init_from_model": (c_void_p, [c_void_p, Opaque]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_batch_get_one": (Batch, [POINTER(c_int32), c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_synchronize": (None, [c_void_p]),
    "llama_get_logits_ith": (POINTER(c_float), [c_void_p, c_int32]),
    "llama_free": (None, [c_void_p]),
    "llama_model_free": (None, [c_void_p]),
}


@LOG
def silent(level: int, text: bytes, data: object) -> None:
    """llama.cpp tells a lot; an error is told by its return value."""


class Llama:
    """A model, a context, and the two things that are measured."""

    def __init__(self, library: str, model: str, context: int, threads: int) -> None:
        self.lib = ctypes.CDLL(library)
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments
        lib = self.lib
        lib.llama_log_set(silent, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(
            model.encode(), lib.llama_model_default_params()
        )
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {model}")
        parameters = lib.llama_context_default_params()
        parameters.words[CONTEXT] = context
        parameters.words[BATCH] = parameters.words[MICRO_BATCH] = max(context, 512)
        self.context = lib.llama_init_from_model(self.model, parameters)
        if not self.context or lib.llama_n_ctx(self.context) < context:
            raise SystemExit("llama.cpp makes no context of the size that was asked for")
        lib.llama_set_n_threads(self.context, threads, threads)
        self.memory = lib.llama_get_memory(self.context)
        self.n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    def clear(self) -> None:
        """An empty cache."""
        self.lib.llama_memory_clear(self.memory, False)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Append ids (int32) to the cache; the logits after the last one, valid until the next call."""
        pointer = ids.ctypes.data_as(POINTER(c_int32))
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(pointer, len(ids))):
            raise SystemExit("llama_decode failed")
        self.lib.llama_synchronize(self.context)
        return np.ctypeslib.as_array(
            self.lib.llama_get_logits_ith(self.context, -1), (self.n_vocab,)
        )

    def seconds(self, ids: np.ndarray) -> tuple[float, float]:
        """Of a prefill of all ids, and of decoding them one by one."""
        self.clear()
        started = time.perf_counter()
        self.read(ids)
        prefill = time.perf_counter() - started
        self.clear()
        singles = [ids[i : i + 1] for i in range(len(ids))]
        started = time.perf_counter()
        for single in singles:
            self.read(single)
        return prefill, time.perf_counter() - started


def find_library() -> str:
    """The shared library inside the xllamacpp wheel."""
    import importlib.util

    spec = importlib.util.find_spec("xllamacpp")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        for path in sorted(Path(folder).glob("xllamacpp*.so")):
            return str(path)
    raise SystemExit("llama.cpp is not installed: pip install 'slim-lm[rivals]'")


def main() -> None:
    """Prepare, check, then measure on demand."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    ids = np.fromfile(job["ids"], np.int32)
    llama = Llama(job["library"] or find_library(), job["gguf"], len(ids), job["threads"])
    rows = [llama.read(ids[i : i + 1]).copy() for i in range(len(ids))]
    np.array(rows, np.float32).tofile(job["results"])
    for _ in range(job["warmup"]):
        llama.seconds(ids)
    info = llama.lib.llama_print_system_info().decode(errors="replace").strip(" |")
    say(about=f"llama.cpp, {info}, {job['threads']} threads")
    for _ in sys.stdin:
        pairs = [llama.seconds(ids) for _ in range(job["repeats"])]
        say(
            values={
                "prefill_seconds": [prefill for prefill, _ in pairs],
                "decode_seconds": [decode for _, decode in pairs],
            }
        )


if __name__ == "__main__":
    main()
