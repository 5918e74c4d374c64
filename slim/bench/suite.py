"""What is measured, in which order, against whom: a generator of findings.

The model has fresh weights: how fast arithmetic is does not depend on the numbers. Every contest is between processes
that take turns (see contest.py), after what they compute has been compared with our float32 (see check.py).
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import datetime
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slim import __version__
from slim.bench import commands, counts
from slim.bench.check import Referee
from slim.bench.contest import Contestant, Entry, Result, Spread, contest, environment, ratio
from slim.bench.gguf_file import write_gguf
from slim.bench.job import CeilingsJob, GenerationJob, ProfileJob, TokenizerJob, TrainingJob
from slim.bench.machine import Machine, describe_machine
from slim.bench.report import Ceiling, Comparison, Conditions, Finding, Measurement
from slim.config import PRESETS, ModelConfig
from slim.demo_text import STORIES, demo_text
from slim.errors import UsageError
from slim.kernels.int8 import HAS_INT8
from slim.parameters import Parameters

SECTIONS = ("training", "generation", "tokenizer", "startup")
RIVALS = ("torch", "llama.cpp", "tokenizers")
SEQUENCES, LENGTH, LONG = (
    8,
    256,
    1024,
)  # of a training step; a longer text with as many tokens a step
TOKENS = 256  # of a prefill, and of a decoding
BATCHES = 4  # of tokens that steps take in turn
LARGEST_MODEL = 250_000_000  # parameters, of the one that does not fit the cache
_MEMORY = 2**28  # bytes: more than most caches
GGUF_OF = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0"}  # what llama.cpp is given for our modes


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What somebody wants to know."""

    config: ModelConfig
    threads: int
    sections: tuple[str, ...] = SECTIONS
    against: tuple[str, ...] = ()
    rounds: int = 5
    quick: bool = False
    profile: bool = False
    text: Path | None = None  # for the tokenizer; None: the stories that ship
    library: str = ""  # of llama.cpp


def check_rivals(settings: BenchSettings) -> None:
    """UsageError when a rival that is asked for is not there: what to install."""
    advice = "pip install 'slim-lm[rivals]'"
    needed = {
        "torch": ("torch",),
        "llama.cpp": ("gguf", "xllamacpp"),
        "tokenizers": ("tokenizers",),
    }
    for rival in settings.against:
        for package in needed[rival]:
            if package == "xllamacpp" and settings.library:
                continue
            if importlib.util.find_spec(package) is None:
                raise UsageError(f"--against {rival} needs the package {package}: {advice}")
        if rival == "torch" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            raise UsageError("--against torch needs a C++ compiler for torch.compile: install g++")
    if settings.library and not Path(settings.library).is_file():
        raise UsageError(f"there is no library {settings.library}")


def measure(settings: BenchSettings) -> Iterator[str | Finding]:
    """Everything that the settings ask for; a str says what is being done."""
    check_rivals(settings)
    with tempfile.TemporaryDirectory(prefix="slim-bench-") as folder:
        bench = _Bench(settings, describe_machine(), Path(folder))
        yield from bench.ceilings()
        if "training" in settings.sections:
            yield from bench.training()
        if "generation" in settings.sections:
            yield from bench.generation()
        if "tokenizer" in settings.sections:
            yield from bench.tokenizer()
        if "startup" in settings.sections:
            yield from bench.startup()
        if settings.profile:
            yield from bench.profile()


def conditions(settings: BenchSettings) -> Conditions:
    """What a report says of itself."""
    config = settings.config
    return Conditions(
        version=__version__,
        date=datetime.date.today().isoformat(),
        machine=describe_machine(),
        threads=settings.threads,
        dim=config.dim,
        n_heads=config.n_heads,
        n_layers=config.n_layers,
        hidden_dim=config.hidden_dim,
        vocab_size=config.vocab_size,
        parameters=config.n_parameters,
    )


class _Bench:
    """One benchmark: its files and what it has found of the machine."""

    def __init__(self, settings: BenchSettings, machine: Machine, folder: Path) -> None:
        self.settings, self.machine, self.folder = settings, machine, folder
        self.rounds = settings.rounds
        self.products: dict[str, float] = {}
        self.reads: dict[int, float] = {}
        self.large = larger_than_cache(settings.config, machine.l3_bytes, 2.0)

    # ---- files ------------------------------------------------------------------------------------------------

    def _weights(self, config: ModelConfig) -> str:
        """Fresh weights of a model, raw."""
        path = self.folder / f"weights-{config.n_parameters}.f32"
        if not path.exists():
            Parameters(config).initialise(0).flat.tofile(path)
        return str(path)

    def _ids(self, name: str, *shape: int) -> str:
        """Random ids, raw."""
        path = self.folder / f"{name}-{'x'.join(map(str, shape))}.i32"
        if not path.exists():
            ids = np.random.default_rng(0).integers(0, self.settings.config.vocab_size, shape)
            ids.astype(np.int32).tofile(path)
        return str(path)

    def _results(self, *names: object) -> str:
        return str(self.folder / ("-".join(map(str, ("results", *names))) + ".raw"))

    # ---- contests ---------------------------------------------------------------------------------------------

    def _contest(
        self, entries: Sequence[Entry], referee: Referee
    ) -> Iterator[str | dict[str, Result]]:
        yield from contest(entries, self.rounds, self.folder, referee)

    def _compare(self, section: str, results: dict[str, Result], key: str) -> Iterator[Comparison]:
        """The first of the results against each of the others."""
        ours, *others = results.values()
        for theirs in others:
            yield Comparison(
                section,
                ours.name,
                theirs.name,
                "times as fast",
                ratio(ours, theirs, key),
                self.rounds,
            )

    # ---- the machine ------------------------------------------------------------------------------------------

    def ceilings(self) -> Iterator[str | Finding]:
        """Measured first: everything else is told next to them."""
        configs = (
            (self.settings.config,) if self.large is None else (self.settings.config, self.large)
        )
        sizes = {
            int(counts.decode_bytes(config, mode, 0))
            for config in configs
            for mode in counts.OUR_MODES
        }
        threads = self.settings.threads
        job = CeilingsJob(threads, tuple(sorted(sizes)), _MEMORY)
        found = yield from _last(contest([Entry("the machine's limits", job)], 1, self.folder))
        (result,) = found.values()
        values = {name: rounds[0] for name, rounds in result.rounds.items()}
        for name, value in values.items():
            kind, _, rest = name.partition(" ")
            if kind == "products":
                self.products[rest] = value
                yield Ceiling(f"matrix products, {rest}, {threads} threads", value, "GFLOP/s")
            elif kind == "copy":
                yield Ceiling(
                    f"copy of {_MEMORY / 2**20:.0f} MiB, {threads} threads", value, "GB/s"
                )
            else:
                size, count = map(int, rest.split())
                self.reads[size] = max(self.reads.get(size, 0.0), value)
                plural = "thread" if count == 1 else "threads"
                yield Ceiling(f"reading {size / 2**20:.1f} MiB, {count} {plural}", value, "GB/s")

    # ---- training ---------------------------------------------------------------------------------------------

    def training(self) -> Iterator[str | Finding]:
        """Steps in every precision, on one thread, with longer texts, against PyTorch."""
        referee = Referee()
        for precision in self.products:
            entries = [self._ours(precision)]
            if "torch" in self.settings.against:
                modes = {"fp32": ("compile", "eager"), "bf16": ("compile-bf16",)}[precision]
                entries += map(self._torch, modes[: 1 if self.settings.quick else None])
            yield from self._race(entries, referee, precision)
        if "torch" in self.settings.against and wide_vectors(self.machine):
            ours = self._ours("fp32", lanes=8)
            yield from self._race([ours, self._torch("compile", avx2=True)], referee, "")
        if self.settings.quick:
            return
        best = list(self.products)[-1]
        threads = self.settings.threads
        if threads > 1:
            found = yield from _last(
                self._contest([self._ours(best), self._ours(best, threads=1)], referee)
            )
            name = f"SLiM {best}, {threads} threads"
            for c in self._compare("training", found, "step_seconds"):
                yield dataclasses.replace(c, name=name, against="1 thread")
        short, long = self._ours(best), self._ours(best, length=LONG)
        found = yield from _last(contest([short, long], self.rounds, self.folder))
        yield self._training_speed(found[long.name], long, "")
        (comparison,) = self._compare("training", found, "step_seconds")
        yield dataclasses.replace(
            comparison,
            name=f"SLiM {best}, {LONG:,} tokens a sequence",
            against=f"{LENGTH}",
            what="times the time per token",
        )

    def _race(
        self, entries: list[Entry], referee: Referee, precision: str
    ) -> Iterator[str | Finding]:
        """Measure; our speed and everybody's, and us against each of the others, in speed and in memory."""
        for entry in entries:
            if not self.settings.quick:  # started again, it finds its code, and needs less memory
                yield f"warming up {entry.name}"
                Contestant(entry, self.folder).close()
        found = yield from _last(self._contest(entries, referee))
        for entry in entries:
            yield self._training_speed(found[entry.name], entry, precision)
        yield from self._compare("training", found, "step_seconds")
        ours, *others = found.values()
        yield from self._compare_memory(ours.name, ours.peak_memory_bytes, others)
        if precision and not self.settings.quick:
            yield f"watching the memory of slim pretrain {precision}"
            run = commands.measure_run(
                self.settings.config,
                SEQUENCES,
                LENGTH,
                precision,
                self.settings.threads,
                self.folder,
            )
            yield run
            yield from self._compare_memory(run.name, run.peak_memory_bytes, others)

    def _compare_memory(
        self, name: str, peak: int | None, others: Sequence[Result]
    ) -> Iterator[Comparison]:
        """The peak memory of a process of ours against each of the others'."""
        for theirs in others:
            if peak and theirs.peak_memory_bytes:
                share = Spread.of([peak / theirs.peak_memory_bytes])
                yield Comparison("training", name, theirs.name, "of the peak memory", share, 1)

    def _training_speed(self, result: Result, entry: Entry, precision: str) -> Measurement:
        job = entry.job
        assert isinstance(job, TrainingJob)
        speeds = [job.batch * job.length / s for s in result.rounds["step_seconds"]]
        value = Spread.of(speeds)
        flops = counts.training_flops_per_token(job.model, job.length)
        return Measurement(
            "training",
            f"{result.name}, {job.batch} x {job.length:,}",
            "tokens/s",
            value,
            len(speeds),
            value.median * flops / 1e9,
            "GFLOP/s",
            self.products.get(precision or job.mode, 0.0) if precision else 0.0,
            result.peak_memory_bytes,
            result.about,
        )

    def _training_job(self, mode: str, name: str, length: int, threads: int) -> TrainingJob:
        config = self.settings.config
        if length > config.max_seq_len:
            config = dataclasses.replace(config, max_seq_len=length)
        batch = max(SEQUENCES * LENGTH // length, 1)
        tokens = self._ids("tokens", BATCHES, batch, length + 1)
        results = self._results(name, length, threads)
        return TrainingJob(
            config, self._weights(config), tokens, BATCHES, batch, length, mode, threads, results
        )

    def _ours(
        self, precision: str, length: int = LENGTH, threads: int = 0, lanes: int = 0
    ) -> Entry:
        threads = threads or self.settings.threads
        name = f"SLiM {precision}"
        if length != LENGTH:
            name += f", {length:,} tokens"
        if threads != self.settings.threads:
            name += ", 1 thread" if threads == 1 else f", {threads} threads"
        if lanes:
            name += f", {lanes} lanes"
        job = self._training_job(precision, name, length, threads)
        return Entry(name, job, "", _our_environment(threads, lanes))

    def _torch(self, mode: str, avx2: bool = False) -> Entry:
        name = {
            "eager": "PyTorch eager fp32",
            "compile": "torch.compile fp32",
            "compile-bf16": "torch.compile bf16",
        }[mode] + ", AVX2" * avx2
        threads = self.settings.threads
        variables = {
            "OMP_NUM_THREADS": str(threads),
            **allocator(),
            # Code compiled for one instruction set computes NaN when it is found by another.
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / f"inductor-{mode}-{avx2}"),
        }
        if avx2:
            variables |= {
                "ATEN_CPU_CAPABILITY": "avx2",
                "ONEDNN_MAX_CPU_ISA": "AVX2",
                "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            }
        job = self._training_job(mode, name, LENGTH, threads)
        return Entry(name, job, "torch_train.py", environment(variables))

    # ---- generation -------------------------------------------------------------------------------------------

    def generation(self) -> Iterator[str | Finding]:
        """Prefill and decoding in every kind of weights, of the model and of one that no cache holds."""
        yield from self._generation(self.settings.config, "generation")
        if self.large is not None and not self.settings.quick:
            megabytes = self.machine.l3_bytes / 2**20
            millions = self.large.n_parameters / 1e6
            title = f"generation, {millions:.0f} M parameters (beyond {megabytes:g} MB of cache)"
            yield from self._generation(self.large, title)

    def _generation(self, config: ModelConfig, section: str) -> Iterator[str | Finding]:
        referee = Referee()
        for mode in (*self.products, *(("int8",) if HAS_INT8 else ())):
            entries = [self._generates(config, mode)]
            if "llama.cpp" in self.settings.against:
                yield f"writing {GGUF_OF[mode]} for llama.cpp"
                entries.append(self._llama(config, GGUF_OF[mode]))
            found = yield from _last(self._contest(entries, referee))
            for entry in entries:
                if mode in self.products:
                    yield self._generation_speed(section, found[entry.name], entry, "prefill")
                yield self._generation_speed(section, found[entry.name], entry, "decode")
            yield from self._together(section, found[entries[0].name], entries[0])
            for what in ("prefill", "decode") if mode in self.products else ("decode",):
                for comparison in self._compare(section, found, f"{what}_seconds"):
                    yield dataclasses.replace(comparison, name=f"{comparison.name}, {what}")

    def _together(self, section: str, result: Result, entry: Entry) -> Iterator[Finding]:
        """Several texts decoded at once, next to one."""
        job = entry.job
        assert isinstance(job, GenerationJob)
        seconds, alone = result.rounds["together_seconds"], result.rounds["decode_seconds"]
        name = f"{result.name}, {job.together} texts together"
        value = Spread.of([job.together * TOKENS / s for s in seconds])
        yield Measurement(section, name, "tokens/s", value, len(seconds), about=result.about)
        ratios = [job.together * one / all_ for one, all_ in zip(alone, seconds, strict=True)]
        yield Comparison(
            section, name, "one text", "times as many tokens/s", Spread.of(ratios), self.rounds
        )

    def _generation_speed(
        self, section: str, result: Result, entry: Entry, what: str
    ) -> Measurement:
        job = entry.job
        assert isinstance(job, GenerationJob)
        value = Spread.of([TOKENS / s for s in result.rounds[f"{what}_seconds"]])
        if what == "prefill":
            per_token = counts.prefill_flops(job.model, TOKENS) / TOKENS
            unit, ceiling = "GFLOP/s", self.products.get(job.mode, 0.0)
        else:
            per_token = counts.decode_bytes(job.model, job.mode, TOKENS / 2)
            size = int(counts.decode_bytes(job.model, job.mode, 0))
            unit, ceiling = "GB/s", self.reads.get(size, 0.0) if not entry.rival else 0.0
        return Measurement(
            section,
            f"{result.name}, {what} {TOKENS}",
            "tokens/s",
            value,
            len(result.rounds[f"{what}_seconds"]),
            value.median * per_token / 1e9,
            unit,
            ceiling,
            result.peak_memory_bytes,
            result.about,
        )

    def _generation_job(self, config: ModelConfig, mode: str, gguf: str) -> GenerationJob:
        return GenerationJob(
            config,
            self._weights(config),
            gguf,
            self._ids("ids", TOKENS),
            mode,
            self.settings.threads,
            self._results(mode, config.n_parameters),
            self.settings.library,
        )

    def _generates(self, config: ModelConfig, mode: str) -> Entry:
        job = self._generation_job(config, mode, "")
        return Entry(f"SLiM {mode}", job, "", _our_environment(job.threads, 0))

    def _llama(self, config: ModelConfig, kind: str) -> Entry:
        path = self.folder / f"model-{config.n_parameters}-{kind}.gguf"
        if not path.exists():
            parameters = Parameters(config)
            parameters.flat[:] = np.fromfile(self._weights(config), np.float32)
            write_gguf(path, parameters, kind)
        job = self._generation_job(config, kind, str(path))
        variables = {"OMP_NUM_THREADS": str(job.threads)}
        return Entry(f"llama.cpp {kind}", job, "llama_cpp.py", environment(variables))

    # ---- tokenizer --------------------------------------------------------------------------------------------

    def _tokenizer_job(self, name: str) -> TokenizerJob:
        text = demo_text(STORIES) if self.settings.text is None else self.settings.text
        return TokenizerJob(
            str(text),
            self.settings.config.vocab_size,
            str(self.folder / "tokenizer.json"),
            self.settings.threads,
            self._results("ids", name),
        )

    def tokenizer(self) -> Iterator[str | Finding]:
        """Building a vocabulary and encoding, in MB of text per second."""
        threads = self.settings.threads
        entries = [Entry("SLiM", self._tokenizer_job("slim"), "", _our_environment(threads, 0))]
        if "tokenizers" in self.settings.against:
            variables = environment({"RAYON_NUM_THREADS": str(threads)})
            job = self._tokenizer_job("tokenizers")
            entries.append(Entry("tokenizers", job, "tokenizers_bpe.py", variables))
        found = yield from _last(self._contest(entries, Referee()))
        size = Path(self._tokenizer_job("").text).stat().st_size
        for what, text in (("build", "building a vocabulary"), ("encode", "encoding")):
            for result in found.values():
                value = Spread.of([size / 1e6 / s for s in result.rounds[f"{what}_seconds"]])
                name = f"{result.name}, {text} of {size / 1e6:.1f} MB"
                yield Measurement("tokenizer", name, "MB/s", value, self.rounds, about=result.about)
            for comparison in self._compare("tokenizer", found, f"{what}_seconds"):
                yield dataclasses.replace(comparison, name=f"{comparison.name}, {text}")

    # ---- the rest ---------------------------------------------------------------------------------------------

    def startup(self) -> Iterator[str | Finding]:
        """How long a person waits."""
        repeats = 2 if self.settings.quick else self.rounds
        yield from commands.measure_startup(
            self.settings.config, self.folder, repeats, self.settings.quick
        )

    def profile(self) -> Iterator[str | Finding]:
        """Where the time of a step and of a token goes, in the fastest precision."""
        config, mode = self.settings.config, list(self.products)[-1]
        job = ProfileJob(
            config, self._weights(config), SEQUENCES, LENGTH, mode, self.settings.threads
        )
        entry = Entry("the profile", job, "", _our_environment(job.threads, 0))
        found = yield from _last(contest([entry], 1, self.folder))
        for result in found.values():
            yield from result.parts


def _last(
    events: Iterator[str | dict[str, Result]],
) -> Generator[str, None, dict[str, Result]]:
    """Hand on what a contest says; its results are the return value."""
    results: dict[str, Result] = {}
    for event in events:
        if isinstance(event, str):
            yield event
        else:
            results = event
    return results


def _our_environment(threads: int, lanes: int) -> tuple[tuple[str, str], ...]:
    variables = {"NUMBA_NUM_THREADS": str(threads)}
    if lanes:
        variables["SLIM_LANES"] = str(lanes)
    return environment(variables)


def allocator() -> dict[str, str]:
    """The best that PyTorch can have here: its logits are 33 MB, which glibc maps and clears anew in every step.

    In bf16: glibc as it is 7,000 tokens/s, told to keep such memory 8,200, tcmalloc 9,000, jemalloc 6,900.
    """
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal")
    if tcmalloc is not None and sys.platform == "linux":
        return {"LD_PRELOAD": tcmalloc}
    return {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


def wide_vectors(machine: Machine) -> bool:
    """Whether there are vectors beyond AVX2, so that leaving them out makes a difference."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return machine.system.endswith("x86_64") and " avx512f " in flags


def larger_than_cache(
    config: ModelConfig, l3_bytes: int, weight_bytes: float
) -> ModelConfig | None:
    """A model like `large` whose weights take half as much again as the last cache; None: it would be too large."""
    if not l3_bytes:
        return None
    sizes: dict[str, Any] = {**PRESETS["large"], "vocab_size": config.vocab_size}
    while True:
        larger = ModelConfig(**sizes)
        if larger.n_parameters > LARGEST_MODEL:
            return None
        if counts.matrix_parameters(larger) * weight_bytes > 1.5 * l3_bytes:
            return larger
        sizes["n_layers"] += 4
