"""What a measuring process is told and what it answers: records that travel as JSON.

A process is started with the path of a job. It prepares, computes something that can be checked, and prints `Ready`.
For every line on stdin it then measures once and prints `Measured`; at the end of stdin it leaves. Our processes and
the programs in `rivals/` speak the same way, so anything can be measured against anything.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from slim.config import ModelConfig


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Training steps. `weights` float32 in the order of the flat array, `tokens` int32 (batches, B, T + 1): raw files.

    mode   ours: fp32, bf16; PyTorch: eager, compile, compile-bf16
    results   where the gradients of the first batch go, float32, in the order of the weights
    """

    model: ModelConfig
    weights: str
    tokens: str
    batches: int
    batch: int
    length: int
    mode: str
    threads: int
    results: str
    warmup: int = 2
    steps: int = 4  # of one measurement

    kind = "training"


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """A prefill of all `ids` (raw int32), and their decoding one by one, each from an empty cache.

    mode   ours: fp32, bf16, int8; llama.cpp: F32, BF16, Q8_0, which `gguf` holds
    results   where the logits after every id go, float32 (ids, V)
    """

    model: ModelConfig
    weights: str
    gguf: str
    ids: str
    mode: str
    threads: int
    results: str
    library: str = ""  # of llama.cpp; none: the one of the xllamacpp wheel
    together: int = 8  # texts that we decode at once, too
    warmup: int = 2
    repeats: int = 4  # of one measurement

    kind = "generation"


@dataclass(frozen=True, slots=True)
class TokenizerJob:
    """Building a vocabulary from a text, and encoding that text, documents apart at <|endoftext|>.

    vocabulary   a tokenizer.json: written by us, read by the rival, so that both encode with the same merges
    results   where the ids go, raw int32
    """

    text: str
    vocab_size: int
    vocabulary: str
    threads: int
    results: str

    kind = "tokenizer"


@dataclass(frozen=True, slots=True)
class CeilingsJob:
    """What the machine can do at most: the micro-kernel alone, a copy, reading arrays of these sizes."""

    threads: int
    read_bytes: tuple[int, ...]
    copy_bytes: int

    kind = "ceilings"


@dataclass(frozen=True, slots=True)
class ProfileJob:
    """The share of every kernel in a training step, and of every part in a decoded token."""

    model: ModelConfig
    weights: str
    batch: int
    length: int
    mode: str
    threads: int
    steps: int = 8
    tokens: int = 256

    kind = "profile"


Job = TrainingJob | GenerationJob | TokenizerJob | CeilingsJob | ProfileJob
KINDS: dict[str, type] = {
    kind.kind: kind for kind in (TrainingJob, GenerationJob, TokenizerJob, CeilingsJob, ProfileJob)
}


@dataclass(frozen=True, slots=True)
class Ready:
    """A process has prepared: what it is, and what can be checked at once."""

    about: str
    loss: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A kernel of a training step, or a part of a decoded token: how long it takes, and for what work."""

    of: str  # "training step" or "decoded token"
    name: str
    calls: int
    seconds: float  # of all calls
    work: float = 0.0  # of all calls: floating-point operations, or bytes read and written at least
    unit: str = ""  # of work per second: GFLOP/s or GB/s; none: nothing simple bounds it
    ceiling: float = 0.0  # the most work per second, measured in the same process


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: lists of numbers by a name that says their unit."""

    values: dict[str, list[float]]
    peak_memory_bytes: int | None = None
    parts: tuple[Part, ...] = field(default=())


def write_job(path: Path, job: Job) -> None:
    """A job as a file."""
    record = {"kind": job.kind, **dataclasses.asdict(job)}
    path.write_text(json.dumps(record, allow_nan=False), encoding="utf-8")


def read_job(path: Path) -> Job:
    """The job in a file of `write_job`."""
    record = json.loads(path.read_text(encoding="utf-8"))
    kind = KINDS[record.pop("kind")]
    if "model" in record:
        record["model"] = ModelConfig(**record["model"])
    if "read_bytes" in record:
        record["read_bytes"] = tuple(record["read_bytes"])
    return kind(**record)


def to_line(answer: Ready | Measured) -> str:
    """An answer as a line of JSON."""
    return json.dumps(dataclasses.asdict(answer))


def ready_from(line: str) -> Ready:
    """The `Ready` in a line."""
    return Ready(**json.loads(line))


def measured_from(line: str) -> Measured:
    """The `Measured` in a line."""
    record = json.loads(line)
    parts = tuple(Part(**part) for part in record.pop("parts", ()))
    return Measured(**record, parts=parts)
