"""The rivals compute what SLiM computes, so that their speeds may be compared. Skipped where they are not installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slim.bench import suite
from slim.bench.check import Referee
from slim.bench.contest import BenchError, Contestant, Entry
from slim.bench.report import Comparison, Finding
from slim.config import ModelConfig
from slim.kernels.tile import HAS_BF16

SMALL = ModelConfig(vocab_size=320, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=96)
UNTIED = dataclasses.replace(SMALL, n_kv_heads=4, tie_embeddings=False)


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def bench(config: ModelConfig, folder: Path, threads: int = 1) -> suite._Bench:
    settings = suite.BenchSettings(config, threads, rounds=1)
    return suite._Bench(settings, suite.describe_machine(), folder)


def meet(entries: list[Entry], folder: Path) -> dict[str, list[float]]:
    """Let the referee see all of them, then measure each once: the median of its numbers."""
    referee = Referee()
    found = {}
    for entry in entries:
        with Contestant(entry, folder) as contestant:
            referee(entry, contestant.ready)
            measured = contestant.measure()
            assert measured.peak_memory_bytes is None or measured.peak_memory_bytes > 10**7
            found[entry.name] = [float(np.median(v)) for v in measured.values.values()]
    return found


@needs("torch")
@pytest.mark.parametrize("config", [SMALL, UNTIED], ids=["grouped, tied", "untied"])
def test_torch_has_the_same_loss_and_gradients(config: ModelConfig, tmp_path: Path) -> None:
    trial = bench(config, tmp_path)
    found = meet([trial._ours("fp32"), trial._torch("eager")], tmp_path)
    assert len(found) == 2 and all(seconds > 0 for (seconds,) in found.values())


@needs("torch")
def test_a_torch_with_other_weights_is_found_out(tmp_path: Path) -> None:
    trial = bench(SMALL, tmp_path)
    ours, rival = trial._ours("fp32"), trial._torch("eager")
    other = np.fromfile(rival.job.weights, np.float32)
    other[0] *= 1.5
    other.tofile(tmp_path / "other")
    rival = dataclasses.replace(
        rival, job=dataclasses.replace(rival.job, weights=str(tmp_path / "other"))
    )
    with pytest.raises(BenchError, match="gradients of PyTorch eager fp32 differ"):
        meet([ours, rival], tmp_path)


@pytest.mark.soak
@needs("torch")
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("mode", ["compile", "compile-bf16"])
def test_compiled_torch_has_the_same_gradients(mode: str, tmp_path: Path) -> None:
    trial = bench(SMALL, tmp_path)
    meet([trial._ours("fp32"), trial._torch(mode)], tmp_path)


@needs("gguf", "xllamacpp")
@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0"])
@pytest.mark.parametrize("config", [SMALL, UNTIED], ids=["grouped, tied", "untied"])
def test_llama_cpp_has_the_same_logits(config: ModelConfig, kind: str, tmp_path: Path) -> None:
    trial = bench(config, tmp_path)
    found = meet([trial._generates(config, "fp32"), trial._llama(config, kind)], tmp_path)
    assert [len(seconds) for seconds in found.values()] == [
        3,
        2,
    ]  # prefill, decoding, and ours of several texts together


@needs("tokenizers")
def test_tokenizers_has_the_same_ids(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Once upon a time.\n<|endoftext|>\nThere was a füchslein, in 1823!\n" * 20)
    trial = bench(dataclasses.replace(SMALL, vocab_size=300), tmp_path)
    trial.settings = dataclasses.replace(trial.settings, text=text)
    findings = [f for f in trial.tokenizer() if not isinstance(f, str)]
    assert len(findings) == 2
    trial.settings = dataclasses.replace(trial.settings, against=("tokenizers",))
    findings = [f for f in trial.tokenizer() if not isinstance(f, str)]
    assert sum(isinstance(f, Comparison) for f in findings) == 2


def kinds(findings: Iterator[str | Finding]) -> dict[str, int]:
    """How many findings of each kind."""
    found: dict[str, int] = {}
    for finding in findings:
        if not isinstance(finding, str):
            name = type(finding).__name__
            found[name] = found.get(name, 0) + 1
    return found


def test_slim_alone_is_measured_from_end_to_end(tmp_path: Path) -> None:
    """Real processes, all sections but start-up, on a model that takes no time."""
    settings = suite.BenchSettings(
        dataclasses.replace(SMALL, vocab_size=300, max_seq_len=256),
        threads=1,
        sections=("training", "generation", "tokenizer"),
        rounds=1,
        quick=True,
        profile=True,
    )
    found = kinds(suite.measure(settings))
    assert found["Ceiling"] >= 3 and found["Measurement"] >= 5 and found["Part"] >= 15
    # Of several texts with one, for every kind of weights, and of nobody else.
    assert found["Comparison"] == 1 + HAS_BF16 + suite.HAS_INT8
