"""`slim bench`: what is counted, how processes take turns, what is refused, what is printed. Nothing here is timed."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import pytest

from slim.bench import check, commands, contest, counts, machine, report, suite
from slim.bench.contest import BenchError, Contestant, Entry, Result, Spread
from slim.bench.job import (
    CeilingsJob,
    GenerationJob,
    Measured,
    Part,
    Ready,
    TokenizerJob,
    TrainingJob,
    measured_from,
    read_job,
    ready_from,
    to_line,
    write_job,
)
from slim.bench.report import Ceiling, Comparison, Measurement
from slim.config import ModelConfig
from slim.errors import UsageError
from slim.parameters import Parameters

TINY = ModelConfig(vocab_size=64, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_seq_len=32)
GROUPED = ModelConfig(
    vocab_size=96, dim=64, n_layers=3, n_heads=4, n_kv_heads=2, hidden_dim=80, tie_embeddings=False
)
MACHINE = machine.Machine("A Processor", 2, 2**20, 2**25, "Linux x86_64", "3.11.0")


# ---- what is counted ------------------------------------------------------------------------------------------


def products(config: ModelConfig) -> list[tuple[int, int]]:
    """Every matrix that a token meets, (rows, columns), from the weights' own shapes."""
    shapes = Parameters(config).shapes
    matrices = [shape for shape in shapes.values() if len(shape) == 2]
    return matrices if config.tie_embeddings else matrices[1:]


@pytest.mark.parametrize("config", [TINY, GROUPED, ModelConfig()])
def test_a_token_meets_every_matrix_once(config: ModelConfig) -> None:
    assert counts.matrix_parameters(config) == sum(n * k for n, k in products(config))


@pytest.mark.parametrize("config", [TINY, GROUPED])
@pytest.mark.parametrize("length", [1, 7])
def test_flops_are_those_of_the_products(config: ModelConfig, length: int) -> None:
    """Counted one token and one head at a time: a product with (n, k) is n k multiplications and additions."""
    linear = sum(2 * n * k for n, k in products(config))
    attention = [
        config.n_layers * config.n_heads * 2 * (2 * seen * config.head_dim)  # scores, and values
        for seen in range(1, length + 1)
    ]
    forward = linear + sum(attention) / length
    assert counts.training_flops_per_token(config, length) == pytest.approx(3 * forward)
    head = 2 * config.vocab_size * config.dim
    prefill = length * (linear - head) + head + sum(attention)
    assert counts.prefill_flops(config, length) == prefill


def test_the_default_model_costs_what_is_known_of_it() -> None:
    flops = counts.training_flops_per_token(ModelConfig(), 256)
    assert flops == pytest.approx(46.4e6, rel=1e-3)


def test_a_decoded_token_reads_weights_and_cache() -> None:
    weights = counts.matrix_parameters(GROUPED)
    assert counts.decode_bytes(GROUPED, "bf16", 0) == 2 * weights
    one_token = 2 * GROUPED.n_layers * GROUPED.n_kv_heads * GROUPED.head_dim
    assert counts.decode_bytes(GROUPED, "fp32", 5) == 4 * weights + 5 * 4 * one_token
    assert counts.decode_bytes(GROUPED, "Q8_0", 5) == weights * 34 / 32 + 5 * 2 * one_token


# ---- the machine ----------------------------------------------------------------------------------------------


def test_caches_are_read_from_the_kernel(tmp_path: Path) -> None:
    described = [("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "1024K")]
    for i, (kind, level, size) in enumerate([*described, ("Unified", 3, "32M")]):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, value in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "index9").mkdir()  # a kernel that says nothing of it
    assert machine.cache_bytes(tmp_path) == {1: 48 * 2**10, 2: 2**20, 3: 2**25}
    assert machine.cache_bytes(tmp_path / "none") == {}


def test_this_machine_is_described() -> None:
    found = machine.describe_machine()
    assert found.cores >= 1 and found.processor
    peak = machine.peak_memory_bytes()
    assert peak is None or peak > 10_000_000


def test_a_model_beyond_the_cache() -> None:
    larger = suite.larger_than_cache(ModelConfig(), 32 * 2**20, 2.0)
    assert larger is not None and counts.decode_bytes(larger, "bf16", 0) > 1.5 * 32 * 2**20
    assert suite.larger_than_cache(ModelConfig(), 0, 2.0) is None  # nobody tells how large it is
    assert suite.larger_than_cache(ModelConfig(), 2**31, 2.0) is None


# ---- jobs and answers -----------------------------------------------------------------------------------------

TRAINING = TrainingJob(TINY, "w", "t", 4, 2, 8, "fp32", 1, "r")
GENERATION = GenerationJob(TINY, "w", "g", "i", "bf16", 1, "r")


@pytest.mark.parametrize(
    "job",
    [
        TRAINING,
        GENERATION,
        TokenizerJob("t", 300, "v", 2, "r"),
        CeilingsJob(2, (1024, 4096), 2**20),
    ],
)
def test_a_job_arrives_as_it_was_sent(job: TrainingJob, tmp_path: Path) -> None:
    write_job(tmp_path / "job", job)
    assert read_job(tmp_path / "job") == job


def test_answers_arrive_as_they_were_sent() -> None:
    ready = Ready("SLiM", 5.5, 1000)
    assert ready_from(to_line(ready)) == ready
    part = Part("training step", "matmul", 52, 0.1, 1e9, "GFLOP/s", 100.0)
    measured = Measured({"step_seconds": [0.1, 0.2]}, 1000, (part,))
    assert measured_from(to_line(measured)) == measured


# ---- taking turns ---------------------------------------------------------------------------------------------


class Fake:
    """A contestant whose numbers are known: in its n-th measurement, `seconds[n]`."""

    def __init__(self, entry: Entry, diary: list[str], seconds: list[list[float]]) -> None:
        self.entry, self.diary, self.seconds = entry, diary, iter(seconds)
        self.ready = Ready(f"about {entry.name}")
        diary.append(f"start {entry.name}")

    def measure(self) -> Measured:
        self.diary.append(self.entry.name)
        return Measured({"step_seconds": next(self.seconds)}, 7)

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.diary.append(f"close {self.entry.name}")


def fakes(diary: list[str], **seconds: list[list[float]]) -> Callable[[Entry, Path], Contestant]:
    return lambda entry, folder: Fake(entry, diary, seconds[entry.name])  # type: ignore[return-value]


def results_of(events: Iterator[str | dict[str, Result]]) -> dict[str, Result]:
    *_, last = events
    assert isinstance(last, dict)
    return last


def test_contestants_take_turns_and_each_begins_once_in_a_while(tmp_path: Path) -> None:
    diary: list[str] = []
    start = fakes(diary, a=[[1.0, 2.0, 9.0], [4.0], [3.0]], b=[[6.0], [6.0], [6.0]])
    entries = [Entry("a", TRAINING), Entry("b", TRAINING)]
    found = results_of(contest.contest(entries, 3, tmp_path, start=start))
    assert diary == ["start a", "start b", *"abbaab", "close b", "close a"]
    assert found["a"].rounds == {"step_seconds": (2.0, 4.0, 3.0)}  # the median of each round
    assert found["a"].about == "about a" and found["a"].peak_memory_bytes == 7
    # b takes 3, 1.5 and 2 times as long: the median of the ratios, not the ratio of the medians
    assert contest.ratio(found["a"], found["b"], "step_seconds") == Spread(2.0, 1.5, 3.0)


def test_nothing_is_timed_when_something_is_wrong(tmp_path: Path) -> None:
    diary: list[str] = []
    start = fakes(diary, a=[], b=[])

    def refuse(entry: Entry, ready: Ready) -> None:
        if entry.name == "b":
            raise BenchError(f"{entry.name} is wrong")

    entries = [Entry("a", TRAINING), Entry("b", TRAINING)]
    with pytest.raises(BenchError, match="b is wrong"):
        list(contest.contest(entries, 1, tmp_path, refuse, start))
    assert diary == ["start a", "start b", "close b", "close a"]


def program(tmp_path: Path, code: str) -> Entry:
    """An entry whose program is this code."""
    path = tmp_path / "program.py"
    path.write_text(code)
    return Entry("the rival", TRAINING, str(path), (("ANSWER", "42"),))


def test_a_process_prepares_and_measures_when_told(tmp_path: Path) -> None:
    code = """
import json, os, sys
job = json.load(open(sys.argv[1]))
print("a library that greets")
print(json.dumps({"about": job["mode"] + os.environ["ANSWER"]}), flush=True)
for number, _ in enumerate(sys.stdin):
    print(json.dumps({"values": {"step_seconds": [number + 0.5]}}), flush=True)
"""
    with Contestant(program(tmp_path, code), tmp_path) as rival:
        assert rival.ready == Ready("fp3242")
        assert rival.measure().values == {"step_seconds": [0.5]}
        assert rival.measure().values == {"step_seconds": [1.5]}


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("raise SystemExit('no such model')", "the rival could not be measured: no such model"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)", "it ended with exit code 3"),
        ("import os; os.abort()", "it ended with exit code -6"),
    ],
)
def test_a_process_that_fails_is_named_with_its_last_words(
    tmp_path: Path, code: str, complaint: str
) -> None:
    with pytest.raises(BenchError, match=complaint):
        Contestant(program(tmp_path, code), tmp_path)


def test_a_process_that_dies_while_it_measures(tmp_path: Path) -> None:
    code = """
import sys
print('{"about": ""}', flush=True)
sys.stdin.readline()
raise SystemExit("out of memory")
"""
    with (
        Contestant(program(tmp_path, code), tmp_path) as rival,
        pytest.raises(BenchError, match="out of memory"),
    ):
        rival.measure()


# ---- what is right --------------------------------------------------------------------------------------------


def test_distance_is_relative_and_never_nan() -> None:
    x = np.array([3.0, 4.0], np.float32)
    assert check.distance(x, x) == 0.0
    assert check.distance(np.array([3.0, 4.5], np.float32), x) == pytest.approx(0.1)
    assert check.distance(np.array([3.0, np.nan], np.float32), x) == np.inf
    assert check.distance(x[:1], x) == np.inf


def judged(tmp_path: Path, referee: check.Referee, off: float, loss: float, mode: str) -> None:
    """Let the referee see gradients and a loss that are off by so much."""
    path = tmp_path / "results"
    vector = np.zeros(100, np.float32)
    vector[0], vector[1] = 1.0, off
    vector.tofile(path)
    job = dataclasses.replace(TRAINING, mode=mode, results=str(path))
    referee(Entry("a rival", job), Ready("", loss))


def test_what_is_computed_wrong_is_not_timed(tmp_path: Path) -> None:
    referee = check.Referee()
    judged(tmp_path, referee, 0.0, 5.0, "fp32")
    judged(tmp_path, referee, 0.9e-4, 5.00004, "compile")
    judged(tmp_path, referee, 0.01, 5.009, "compile-bf16")
    with pytest.raises(
        BenchError, match=r"gradients of a rival differ .* by 0.0002 .* at most 0.0001"
    ):
        judged(tmp_path, referee, 2e-4, 5.0, "compile")
    with pytest.raises(BenchError, match="gradients of a rival differ"):
        judged(tmp_path, referee, 0.2, 5.0, "compile-bf16")
    with pytest.raises(BenchError, match=r"a loss of 5.001000, but SLiM in fp32 5.000000"):
        judged(tmp_path, referee, 0.0, 5.001, "compile")
    with pytest.raises(BenchError, match="a loss of nan"):
        judged(tmp_path, referee, 0.0, float("nan"), "compile")


def test_bounds_follow_from_the_precision() -> None:
    assert 0.01 < check.gradient_bound("compile-bf16", 6) < 0.06
    assert check.gradient_bound("bf16", 24) == 2 * check.gradient_bound("bf16", 6)
    assert check.logit_bound("BF16", 6) < check.gradient_bound("bf16", 6)
    assert check.gradient_bound("compile", 6) == check.gradient_bound("fp32", 6) == 1e-4


def test_ids_must_be_equal(tmp_path: Path) -> None:
    path = tmp_path / "results"
    job = TokenizerJob("t", 300, "v", 2, str(path))
    referee = check.Referee()
    np.arange(5, dtype=np.int32).tofile(path)
    referee(Entry("SLiM", job), Ready(""))
    referee(Entry("tokenizers", job), Ready(""))
    np.arange(6, dtype=np.int32).tofile(path)
    with pytest.raises(BenchError, match="tokenizers encodes the text to other ids"):
        referee(Entry("tokenizers", job), Ready(""))


# ---- the report -----------------------------------------------------------------------------------------------

CONDITIONS = report.Conditions("0.1.0", "2026-01-31", MACHINE, 2, 256, 8, 6, 1024, 4096, 7_343_360)
FINDINGS: list[report.Finding] = [
    Ceiling("matrix products, bf16, 2 threads", 1000.0, "GFLOP/s"),
    Measurement(
        *("training", "SLiM bf16, 8 x 256", "tokens/s", Spread(13_000.0, 12_900.0, 13_100.0), 5),
        *(603.0, "GFLOP/s", 1000.0, 429 * 2**20, "SLiM, 2 threads"),
    ),
    Measurement("start-up", "slim --help", "s", Spread(0.0812, 0.0812, 0.0812), 1),
    Comparison(
        *("training", "SLiM bf16", "torch.compile bf16", "times as fast"),
        *(Spread(1.625, 1.5, 1.75), 5),
    ),
    Part("training step", "matmul", 52, 0.150, 120e9, "GFLOP/s", 1000.0),
    Part("training step", "Python between kernels", 1, 0.050),
]
TABLE = """\
SLiM 0.1.0 on A Processor, 2 cores, L2 1 MB, L3 32 MB
2 threads; 7.34 M parameters: dim 256, 8 heads, 6 layers, hidden 1024, vocabulary 4,096

what this machine can do at most
matrix products, bf16, 2 threads  1,000 GFLOP/s

training                     median       low - high         work  of ceiling   memory
SLiM bf16, 8 x 256  13,000 tokens/s  12,900 - 13,100  603 GFLOP/s         60%  429 MiB

start-up       median
slim --help  0.0812 s

compared                        against  median   low - high
training: SLiM bf16  torch.compile bf16    1.62  1.50 - 1.75  times as fast

training step, 200 ms   calls       ms  share         work  of ceiling
matmul                     52  150.000  75.0%  800 GFLOP/s         80%
Python between kernels      1   50.000  25.0%
"""


def test_the_table() -> None:
    assert "\n".join(report.as_text(CONDITIONS, FINDINGS)) + "\n" == TABLE


def test_a_machine_that_tells_nothing_has_a_table_too() -> None:
    silent = dataclasses.replace(MACHINE, l2_bytes=0, l3_bytes=0)
    lines = report.as_text(dataclasses.replace(CONDITIONS, machine=silent), [])
    assert next(lines) == "SLiM 0.1.0 on A Processor, 2 cores"


def test_the_json() -> None:
    record = json.loads(json.dumps(report.as_json(CONDITIONS, FINDINGS), allow_nan=False))
    assert list(record) == ["conditions", "ceilings", "measurements", "comparisons", "profile"]
    assert record["conditions"]["machine"]["l3_bytes"] == 2**25
    assert record["measurements"][0]["value"] == {
        "median": 13000.0,
        "low": 12900.0,
        "high": 13100.0,
    }
    assert record["comparisons"][0]["value"]["median"] == 1.625
    assert [part["name"] for part in record["profile"]] == ["matmul", "Python between kernels"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.08123, "0.0812"), (9.876, "9.88"), (99.6, "99.6"), (12345.6, "12,346")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


# ---- what is measured -----------------------------------------------------------------------------------------

SETTINGS = suite.BenchSettings(TINY, 2, rounds=1)


def planned(
    monkeypatch: pytest.MonkeyPatch, settings: suite.BenchSettings, l3_bytes: int = 0
) -> tuple[list[Entry], list[report.Finding]]:
    """All entries of a benchmark and its findings when every process takes one second for everything."""
    entries: list[Entry] = []

    def measured_at_once(
        racing: list[Entry], rounds: int, folder: Path, check: object = None
    ) -> Iterator[str | dict[str, Result]]:
        entries.extend(racing)
        yield f"{len(racing)} entries"
        keys = ["step", "prefill", "decode", "together", "build", "encode"]
        values = {f"{key}_seconds": (1.0,) * rounds for key in keys}
        if isinstance(racing[0].job, CeilingsJob):
            values = {"copy": (40.0,), "products fp32": (500.0,), "products bf16": (1000.0,)}
            values |= {f"read {size} 1": (100.0,) for size in racing[0].job.read_bytes}
        yield {e.name: Result(e.name, "", values, 10**9, ()) for e in racing}

    class Nothing:
        def __init__(self, entry: Entry, folder: Path) -> None:
            assert isinstance(entry.job, TrainingJob)

        def close(self) -> None:
            pass

    monkeypatch.setattr(suite, "contest", measured_at_once)
    monkeypatch.setattr(suite, "Contestant", Nothing)
    monkeypatch.setattr(suite, "check_rivals", lambda settings: None)
    monkeypatch.setattr(suite, "wide_vectors", lambda machine: True)
    monkeypatch.setattr(suite, "write_gguf", lambda path, parameters, kind: path.touch())
    described = dataclasses.replace(MACHINE, l3_bytes=l3_bytes)
    monkeypatch.setattr(suite, "describe_machine", lambda: described)
    monkeypatch.setattr(commands, "measure_startup", lambda *_: iter(()))
    run = Measurement("training", "a run", "s", Spread(1.0, 1.0, 1.0), 1, peak_memory_bytes=10**9)
    monkeypatch.setattr(commands, "measure_run", lambda *_: run)
    findings = [f for f in suite.measure(settings) if not isinstance(f, str)]
    return entries, findings


def test_without_rivals_only_slim_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, findings = planned(monkeypatch, SETTINGS)
    assert not any(entry.rival for entry in entries)
    names = [f.name for f in findings if isinstance(f, Measurement)]
    assert "SLiM bf16, 8 x 256" in names and "SLiM bf16, 1,024 tokens, 2 x 1,024" in names
    assert {"SLiM fp32, prefill 256", "SLiM bf16, decode 256"} <= set(names)
    compared = [(f.against, f.what) for f in findings if isinstance(f, Comparison)]
    together = [("one text", "times as many tokens/s")] * (3 if suite.HAS_INT8 else 2)
    assert compared == [
        *(("1 thread", "times as fast"), ("256", "times the time per token")),
        *together,
    ]
    assert len({e.job.results for e in entries if isinstance(e.job, TrainingJob)}) == len(
        {e.name for e in entries if isinstance(e.job, TrainingJob)}
    )


def test_speeds_and_shares_follow_from_the_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    _, findings = planned(monkeypatch, SETTINGS)
    found = {f.name: f for f in findings if isinstance(f, Measurement)}
    step = found["SLiM bf16, 8 x 256"]
    assert step.value.median == 2048.0 and step.ceiling == 1000.0
    assert step.work == pytest.approx(2048 * counts.training_flops_per_token(TINY, 256) / 1e9)
    together = found["SLiM fp32, 8 texts together"]
    assert together.value.median == 8 * 256.0
    decode = found["SLiM fp32, decode 256"]
    assert decode.value.median == 256.0 and decode.work_unit == "GB/s" and decode.ceiling == 100.0
    assert decode.work == pytest.approx(256 * counts.decode_bytes(TINY, "fp32", 128) / 1e9)


def test_rivals_meet_the_same_job_in_their_own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, findings = planned(
        monkeypatch, dataclasses.replace(SETTINGS, against=suite.RIVALS), 2**20
    )
    programs = {entry.rival for entry in entries}
    assert programs == {"", "torch_train.py", "llama_cpp.py", "tokenizers_bpe.py"}
    assert all((contest.RIVALS / name).is_file() for name in programs - {""})
    torch = {e.name: e for e in entries if e.rival == "torch_train.py"}
    ours = next(e for e in entries if e.name == "SLiM bf16")
    assert isinstance(ours.job, TrainingJob)
    for entry in torch.values():
        assert isinstance(entry.job, TrainingJob)
        same = (entry.job.weights, entry.job.tokens, entry.job.batch, entry.job.length)
        assert same == (ours.job.weights, ours.job.tokens, ours.job.batch, ours.job.length)
    narrow = dict(torch["torch.compile fp32, AVX2"].environment)
    assert narrow["ATEN_CPU_CAPABILITY"] == "avx2"
    folders = {dict(e.environment)["TORCHINDUCTOR_CACHE_DIR"] for e in torch.values()}
    assert len(folders) == len(torch)  # code for other instructions computes NaN
    lanes = next(e for e in entries if e.name == "SLiM fp32, 8 lanes")
    assert ("SLIM_LANES", "8") in lanes.environment
    whats = {f.what for f in findings if isinstance(f, Comparison)}
    assert whats == {
        *("times as fast", "of the peak memory"),
        *("times the time per token", "times as many tokens/s"),
    }
    sections = {f.section for f in findings if isinstance(f, Measurement)}
    assert any("beyond 1 MB of cache" in section for section in sections)


def test_quick_leaves_out_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, _ = planned(monkeypatch, dataclasses.replace(SETTINGS, quick=True), 2**20)
    jobs = [e.job for e in entries if isinstance(e.job, TrainingJob)]
    assert {(job.length, job.threads) for job in jobs} == {(256, 2)}


def test_only_the_sections_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(SETTINGS, sections=("tokenizer",))
    entries, _ = planned(monkeypatch, settings)
    assert [type(entry.job) for entry in entries] == [CeilingsJob, TokenizerJob]


def test_a_rival_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
    for rival in suite.RIVALS:
        with pytest.raises(
            UsageError, match=rf"--against {rival} needs .*pip install 'slim-lm\[rivals\]'"
        ):
            suite.check_rivals(dataclasses.replace(SETTINGS, against=(rival,)))


# ---- our own processes ----------------------------------------------------------------------------------------


def ticks() -> Callable[[], float]:
    """A clock that goes on by one second whenever it is read."""
    return itertools.count(0.0, 1.0).__next__


def test_training_work_makes_steps_and_shows_gradients(tmp_path: Path) -> None:
    from slim.bench.work import TrainingWork

    weights, tokens, results = (str(tmp_path / name) for name in ("w", "t", "r"))
    Parameters(TINY).initialise(3).flat.tofile(weights)
    np.random.default_rng(0).integers(0, 64, (2, 2, 9)).astype(np.int32).tofile(tokens)
    job = TrainingJob(TINY, weights, tokens, 2, 2, 8, "fp32", 1, results, 1, steps=3)
    work = TrainingWork(job, ticks())
    assert work.loss == pytest.approx(np.log(64), rel=0.05)  # 16 targets
    assert work.measure() == {"step_seconds": [1.0, 1.0, 1.0]}
    gradients = np.fromfile(results, np.float32)
    assert gradients.shape == work.model.parameters.flat.shape
    assert np.isfinite(gradients).all() and np.abs(gradients).max() > 0
    moved = np.abs(work.model.parameters.flat - np.fromfile(weights, np.float32)).max()
    assert 0 < moved < 1e-2  # the weights are updated, and stay near what they were


def test_generation_work_shows_the_logits_of_every_position(tmp_path: Path) -> None:
    from slim.bench.work import GenerationWork

    weights, ids, results = (str(tmp_path / name) for name in ("w", "i", "r"))
    Parameters(TINY).initialise(3).flat.tofile(weights)
    sequence = np.random.default_rng(0).integers(0, 64, 12).astype(np.int32)
    sequence.tofile(ids)
    job = GenerationJob(TINY, weights, "", ids, "fp32", 1, results, warmup=1, repeats=2)
    work = GenerationWork(job, ticks())
    names = ("prefill_seconds", "decode_seconds", "together_seconds")
    assert work.measure() == {name: [1.0, 1.0] for name in names}
    logits = np.fromfile(results, np.float32).reshape(12, 64)
    expected = work.model.logits(work.model.workspace(1, 12, False), sequence[None])
    assert check.distance(logits, expected[0]) < 1e-5


def test_the_profile_accounts_for_the_whole_step() -> None:
    from slim.bench.step_profile import profile_step
    from slim.bench.work import make_model, make_trainer, updates

    model = make_model(TINY, "", "fp32")
    before = dict(vars(sys.modules["slim.model"]))
    steps = updates(make_trainer(model, 2, 8, np.arange(50, dtype=np.int32)))
    parts = list(profile_step(lambda: next(steps), "fp32", steps=2, clock=ticks()))
    assert vars(sys.modules["slim.model"]) == before  # the kernels are back in their places
    *kernels, between = parts
    calls = sum(part.calls for part in kernels)
    # Every reading of the clock is a second: one while a kernel runs, one from each kernel to the next.
    assert [part.seconds for part in kernels] == [float(part.calls) for part in kernels]
    assert between.name == "Python between kernels" and between.seconds == calls + 1
    assert all(part.ceiling > 0 for part in kernels)
    flops = sum(part.work for part in kernels if part.unit == "GFLOP/s")
    counted = 2 * 8 * counts.training_flops_per_token(TINY, 8)
    assert flops == pytest.approx(counted, rel=0.05)


def test_every_kernel_that_is_counted_exists() -> None:
    from slim import model
    from slim.bench.step_profile import FLOPS

    assert set(FLOPS) <= set(vars(model))


@pytest.mark.parametrize("counter", [True, False])
def test_the_parts_of_a_token(counter: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from slim.bench import token_profile
    from slim.bench.work import make_model

    counter = counter and token_profile.HAS_CYCLE_COUNTER
    monkeypatch.setattr(token_profile, "HAS_CYCLE_COUNTER", counter)
    kernel = vars(sys.modules["slim.model"])[token_profile.KERNEL]
    parts = list(token_profile.profile_token(make_model(GROUPED, "", "fp32"), 24, ticks()))
    assert vars(sys.modules["slim.model"])[token_profile.KERNEL] is kernel
    names = ["q, k, v", "attention out", "gate, up", "down", "head"]
    assert [part.name for part in parts] == [
        *(names if counter else ["products, norms, the rest"]),
        "attention over the cache",
        "norms, RoPE, SwiGLU, the rest",
        "drawing, confidence",
    ]
    weights = parts[: len(names) if counter else 1]
    assert sum(p.work for p in weights) == pytest.approx(counts.decode_bytes(GROUPED, "fp32", 0))
    # By this clock a decoding takes one second, shared by 22 tokens, early or late.
    assert 0 < sum(p.seconds for p in weights) <= 1 / 22


def test_every_product_of_a_token_is_seen() -> None:
    """Were one missed or counted twice, names and cycles would not belong together."""
    from slim.bench import token_profile
    from slim.bench.work import make_model

    if not token_profile.HAS_CYCLE_COUNTER:
        pytest.skip("no cycle counter to read")
    config = dataclasses.replace(GROUPED, vocab_size=4096, n_layers=1, max_seq_len=64)
    shares = token_profile.product_shares(make_model(config, "", "fp32"), 32)
    assert len(shares) == 5 and all(share > 0 for share in shares) and sum(shares) < 1
    assert max(shares) == shares[-1]  # nearly all weights are the head's


# ---- start-up -------------------------------------------------------------------------------------------------


def test_the_model_that_is_started_is_one(tmp_path: Path) -> None:
    from slim.model_file import load_model

    config = ModelConfig(vocab_size=300, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    commands.write_model(tmp_path / "model.bin", config)
    model, tokenizer, _ = load_model(tmp_path / "model.bin")
    assert model.config == config and tokenizer.decode(tokenizer.encode("Once")) == "Once"


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"slim info could not be measured: slim: error: .*no.bin"):
        commands.seconds_to_line(["info", str(tmp_path / "no.bin")])


def test_seconds_to_the_first_line() -> None:
    assert 0.0 < commands.seconds_to_line(["--version"]) < 60.0


def test_the_median_is_of_the_rounds() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median([1.0, 2.0, 3.0]), 1.0, 3.0)


# ---- the command ----------------------------------------------------------------------------------------------


def run_bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """`slim bench` with findings that are known: exit code, stdout, stderr."""
    import slim.cli

    asked: list[suite.BenchSettings] = []

    def measure(settings: suite.BenchSettings) -> Iterator[str | report.Finding]:
        suite.check_rivals(settings)
        asked.append(settings)
        yield "preparing\x1b[2J"
        yield from FINDINGS

    monkeypatch.setattr(suite, "measure", measure)
    monkeypatch.setattr(suite, "conditions", lambda settings: CONDITIONS)
    code = slim.cli.main(["bench", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table_goes_to_stdout_and_the_story_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_bench(monkeypatch, capsys, "--quick")
    assert (code, out) == (0, TABLE)
    assert "preparing" in err and "\x1b" not in err


def test_json_is_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_bench(monkeypatch, capsys, "--json", "-q")
    assert (code, err) == (0, "")
    *lines, last = out.splitlines()
    assert lines == TABLE.splitlines()
    assert json.loads(last)["measurements"][0]["name"] == "SLiM bf16, 8 x 256"


def test_what_was_found_before_something_failed_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import slim.cli

    def measure(settings: suite.BenchSettings) -> Iterator[report.Finding]:
        yield from FINDINGS
        raise BenchError("PyTorch has gone")

    monkeypatch.setattr(suite, "measure", measure)
    monkeypatch.setattr(suite, "conditions", lambda settings: CONDITIONS)
    assert slim.cli.main(["bench"]) == 1
    captured = capsys.readouterr()
    assert captured.out == TABLE and captured.err == "slim: error: PyTorch has gone\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--threads", "0"], "--threads must be from 1 to"),
        (["--threads", "100000"], "--threads must be from 1 to"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--text", "no/such/file"], "there is no file no/such/file"),
        (["--against", "gpt"], "invalid choice: 'gpt'"),
        (["--only", "nothing"], "invalid choice: 'nothing'"),
        (["--preset", "huge"], "invalid choice: 'huge'"),
        (["--against", "llama.cpp", "--llama-library", "no/lib"], "there is no library no/lib"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    if "llama.cpp" in arguments:
        monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: object())
    code, out, err = run_bench(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert complaint in err and err.count("\n") == 1


def test_a_missing_rival_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
    code, out, err = run_bench(monkeypatch, capsys, "--against", "torch")
    assert (code, out) == (2, "")
    assert err == (
        "slim: error: --against torch needs the package torch: pip install 'slim-lm[rivals]'\n"
    )


# ---- the README -----------------------------------------------------------------------------------------------


@pytest.fixture
def readme_figures() -> ModuleType:
    path = Path(__file__).parent / "bench" / "readme_figures.py"
    spec = importlib.util.spec_from_file_location("readme_figures", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_written_between_their_marks(readme_figures: ModuleType) -> None:
    record = json.loads(json.dumps(report.as_json(CONDITIONS, FINDINGS)))
    readme = f"before\n{readme_figures.BEGIN}\nold\n{readme_figures.END}\nafter\n"
    text = readme_figures.with_figures(readme, record)
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert (
        "| SLiM bf16, 8 x 256 | 13,000 (12,900 - 13,100) tokens/s | 603 GFLOP/s | 60% | 429 MiB |"
    ) in text
    assert "| training: SLiM bf16 | torch.compile bf16 | 1.62 (1.50 - 1.75) x as fast |" in text
    assert "| matmul | 75.0% | 800 GFLOP/s | 80% |" in text
    assert readme_figures.with_figures(text, record) == text
    with pytest.raises(SystemExit, match=r"README\.md needs"):
        readme_figures.with_figures("no marks", record)


def test_the_readme_has_the_figures_that_were_kept(readme_figures: ModuleType) -> None:
    if not readme_figures.README.is_file() or not readme_figures.KEPT.is_file():
        pytest.skip("not a checkout")
    readme = readme_figures.README.read_text(encoding="utf-8")
    record = json.loads(readme_figures.KEPT.read_text(encoding="utf-8"))
    assert readme_figures.with_figures(readme, record) == readme


def test_rivals_do_not_inherit_what_slim_sets_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    assert "GOMP_SPINCOUNT" not in contest._rival_environment()
    assert contest.own_environment()["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "50")  # what a person set holds for everybody
    assert contest._rival_environment()["GOMP_SPINCOUNT"] == "50"
