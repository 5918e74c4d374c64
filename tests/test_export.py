"""An exported model is the same model in transformers, in llama.cpp and to a reader of llama2.c's layout."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slim.cli import main
from slim.config import GenerateConfig, ModelConfig
from slim.decoding import draw_tokens
from slim.formats.gguf import export_gguf
from slim.formats.hf import export_hf
from slim.formats.llama2c import export_llama2c
from slim.formats.llama2c_layout import ids_in_order
from slim.formats.narrow import to_bf16, to_f16
from slim.formats.rope_rows import half_split, interleaved
from slim.formats.stored_model import StoredModel, read_stored_model
from slim.imported_tokenizer import NO_MERGE
from slim.model import Model
from slim.model_file import model_metadata, save_model
from slim.parameters import Parameters
from slim.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer

N_TOKENS, N_GREEDY = 256, 64
PROMPT = [1, 300, 310, 305]
TEXT = (
    "Once upon a time there was a fox. It's 1823, isn't it? Füchslein 😀 said: hello hello!\r\n" * 9
)
STRINGS = [
    "",
    " ",
    "a",
    "it's  two",
    "x\r\n\r\n y",
    "tab\t\x1b[0m",
    "👩\u200d👧 é ß 漢字",
    "<|end|>",
    TEXT,
]
GROUPED = ModelConfig(
    vocab_size=320, dim=48, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=97, max_seq_len=320
)
CONFIGS = [
    dataclasses.replace(
        GROUPED, n_kv_heads=heads, hidden_dim=hidden, tie_embeddings=tied, rope_theta=theta
    )
    for heads, hidden in ((4, 97), (2, 64), (1, 131))
    for tied in (True, False)
    for theta in (10_000.0, 500_000.0)
]


def name_of(config: ModelConfig) -> str:
    tied = "tied" if config.tie_embeddings else "untied"
    return (
        f"{config.n_kv_heads} kv, {config.hidden_dim} hidden, {tied}, theta {config.rope_theta:g}"
    )


every_config = pytest.mark.parametrize("config", CONFIGS, ids=name_of)


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT.encode()], 320)


def stored(config: ModelConfig, tokenizer: Tokenizer) -> StoredModel:
    """A model whose weights are large enough for the order of rows to matter."""
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    parameters = Parameters(config).initialise(7)
    parameters.flat[: parameters.n_decayed] *= 6.0
    parameters.flat[parameters.n_decayed :] += np.linspace(-0.2, 0.2, config.dim, dtype=np.float32)[
        np.arange(parameters.flat.size - parameters.n_decayed) % config.dim
    ]
    return StoredModel(config, tokenizer, parameters)


def ids_of(model: StoredModel) -> np.ndarray:
    ids = np.random.default_rng(3).integers(0, model.config.vocab_size, N_TOKENS, dtype=np.int32)
    ids[0] = model.tokenizer.eos_id
    return ids


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def ours(model: StoredModel, ids: np.ndarray) -> np.ndarray:
    runner = Model(model.config, model.parameters)
    workspace = runner.workspace(1, len(ids), train=False)
    return log_softmax(runner.logits(workspace, ids[None])[0])


def greedy(model: StoredModel) -> list[int]:
    """The most probable continuation of PROMPT by our engine."""
    runner = Model(model.config, model.parameters)
    config = GenerateConfig(temperature=0.0, repeat_penalty=1.0)
    prompt = np.array(PROMPT, np.int32)
    drawn = draw_tokens(*(runner, runner.new_cache(), prompt, config, 0, "test"), frozenset(), 0)
    return [token.token_id for _, token in zip(range(N_GREEDY), drawn, strict=False)]


def greedy_of_transformers(model: Any) -> list[int]:
    import torch

    chosen = model.generate(
        *(torch.tensor([PROMPT]),),
        attention_mask=torch.ones(1, len(PROMPT)),
        max_new_tokens=N_GREEDY,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=2,
    )
    return chosen[0, len(PROMPT) :].tolist()


def exhaust(events: object) -> list[object]:
    return list(events)  # type: ignore[call-overload]


def result_of(events):  # type: ignore[no-untyped-def]
    """The return value of a generator."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value


# Hugging Face


@needs("torch", "transformers")
@every_config
def test_transformers_computes_the_same(
    config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = stored(config, tokenizer)
    exhaust(export_hf(model, tmp_path / "hf"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids = ids_of(model)
    with torch.no_grad():
        logits = theirs(torch.tensor(ids[None].astype(np.int64))).logits[0].numpy()
    assert np.abs(log_softmax(logits) - ours(model, ids)).max() < 1e-4
    assert greedy_of_transformers(theirs) == greedy(model)
    weights = theirs.state_dict()
    for name, weight in model.parameters:
        assert weights[name].numpy().tobytes() == weight.tobytes(), name


@needs("transformers")
def test_the_tokenizer_goes_along(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    exhaust(export_hf(stored(GROUPED, tokenizer), tmp_path / "hf"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.bos_token_id == theirs.eos_token_id == tokenizer.eos_id
    assert theirs.model_max_length == GROUPED.max_seq_len
    for text in STRINGS:
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ids == [tokenizer.eos_id, *tokenizer.encode(text).tolist()], text
    assert [theirs.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS] == [0, 1, 2, 3]


@needs("safetensors", "torch")
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_weights_are_the_nearest(dtype: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    import safetensors.torch
    import torch

    model = stored(GROUPED, tokenizer)
    exhaust(export_hf(model, tmp_path / "hf", dtype))
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for name, weight in safetensors.torch.load_file(tmp_path / "hf" / "model.safetensors").items():
        assert torch.equal(weight, torch.from_numpy(model.parameters.views[name]).to(kind)), name


def test_a_number_too_large_is_refused_not_made_infinite() -> None:
    from slim.errors import UsageError

    assert np.isfinite(to_f16(np.float32([65_504, -65_519]))).all()
    with pytest.raises(UsageError, match="too large for f16"):
        to_f16(np.float32([65_520]))
    with pytest.raises(UsageError, match="too large for bf16"):
        to_bf16(np.float32([3.4e38]))


@needs("torch", "transformers", "safetensors")
def test_training_goes_on_in_two_processes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The README's torchrun: demo/train_elsewhere.py, on the CPU, and back by `slim import`."""
    import safetensors.numpy

    model = stored(dataclasses.replace(GROUPED, n_layers=1), tokenizer)
    exhaust(export_hf(model, tmp_path / "hf"))
    (tmp_path / "corpus.txt").write_text(f"{TEXT}\n<|endoftext|>\n" * 4)
    script = Path(__file__).parent.parent / "demo" / "train_elsewhere.py"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(str(script), "hf", "corpus.txt", "on-hf", "--steps", "20"),
            *("--seq-len", "64", "--learning-rate", "5e-3"),
        ],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if "loss" in line]
    assert len(losses) == 20 and losses[-1] < losses[0] - 0.5
    assert main(["import", str(tmp_path / "on-hf"), str(tmp_path / "on.bin")]) == 0
    back = result_of(read_stored_model(tmp_path / "on.bin"))
    assert back.config == model.config and back.tokenizer.to_json() == tokenizer.to_json()
    theirs = safetensors.numpy.load_file(tmp_path / "on-hf" / "model.safetensors")
    for name, weight in back.parameters:
        assert theirs[name].tobytes() == weight.tobytes(), name
    assert (back.parameters.flat != model.parameters.flat).mean() > 0.9


# llama.cpp


ORACLE = """
import ctypes, json, sys
from ctypes import POINTER, c_bool, c_char_p, c_int32, c_void_p
import numpy as np
sys.path.insert(0, sys.argv[1])
from llama_cpp import Llama, find_library
job = json.load(open(sys.argv[2]))
llama = Llama(find_library(), job["gguf"], len(job["ids"]), 1)
ids = np.array(job["ids"], np.int32)
# By default the cache and attention are float16, which is off by 1e-2: float32, and no flash attention.
parameters = llama.lib.llama_context_default_params()
parameters.words[0] = parameters.words[1] = parameters.words[2] = 512
kinds = next(i for i in range(20, 40) if parameters.words[i] == parameters.words[i + 1] == 1)
parameters.words[kinds] = parameters.words[kinds + 1] = parameters.words[13] = 0  # 13: flash attention
llama.lib.llama_free(llama.context)
llama.context = llama.lib.llama_init_from_model(llama.model, parameters)
assert llama.context
rows = [llama.read(ids[i : i + 1]).copy() for i in range(len(ids))]
llama.memory = llama.lib.llama_get_memory(llama.context)
llama.clear()
drawn, ids = [], np.array(job["prompt"], np.int32)
while len(drawn) < job["greedy"]:
    drawn.append(int(llama.read(ids).argmax()))
    ids = np.array(drawn[-1:], np.int32)
lib = llama.lib
lib.llama_tokenize.restype = c_int32
lib.llama_tokenize.argtypes = [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]
vocab = lib.llama_model_get_vocab(llama.model)
found = []
for text in job["strings"]:
    data = text.encode()
    out = (c_int32 * (len(data) + 8))()
    n = lib.llama_tokenize(vocab, data, len(data), out, len(out), True, False)
    found.append(list(out[:n]))
np.array(rows, np.float32).tofile(job["results"])
print(json.dumps([found, drawn]))
"""


def llama_cpp(
    path: Path, ids: np.ndarray, strings: Sequence[str] = (), greedy: int = 0
) -> tuple[np.ndarray, list[list[int]], list[int]]:
    """What llama.cpp makes of a file: log-probabilities for ids, tokens of strings, a greedy continuation of PROMPT.

    In a process of its own.
    """
    import slim.bench

    rivals = Path(slim.bench.__file__).parent / "rivals"
    job = path.parent / "job.json"
    results = str(path.parent / "logits")
    record = {
        "gguf": str(path),
        "ids": ids.tolist(),
        "strings": list(strings),
        "results": results,
        "prompt": PROMPT,
        "greedy": greedy,
    }
    job.write_text(json.dumps(record))
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(rivals), str(job)],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = np.fromfile(results, np.float32).reshape(len(ids), -1)
    return log_softmax(rows), *json.loads(done.stdout)


@needs("gguf", "xllamacpp")
@every_config
def test_llama_cpp_computes_the_same(
    config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = stored(config, tokenizer)
    exhaust(export_gguf(model, tmp_path / "m.gguf"))
    ids = ids_of(model)
    theirs, tokens, drawn = llama_cpp(tmp_path / "m.gguf", ids, STRINGS, N_GREEDY)
    assert np.abs(theirs - ours(model, ids)).max() < 1e-4
    assert drawn == greedy(model)
    for text, found in zip(STRINGS, tokens, strict=True):
        assert found == [tokenizer.eos_id, *tokenizer.encode(text).tolist()], text


@needs("gguf", "xllamacpp")
@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_llama_cpp_opens_the_narrow_ones(dtype: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from slim.events import Note

    model = stored(dataclasses.replace(GROUPED, dim=64), tokenizer)
    events = exhaust(export_gguf(model, tmp_path / "m.gguf", dtype))
    said = [event.text for event in events if isinstance(event, Note)]
    assert said == (
        ["2 matrices are stored as f16: q8_0 needs rows that 32 divides"] if dtype == "q8_0" else []
    )
    ids = ids_of(model)[:32]
    theirs, _, _ = llama_cpp(tmp_path / "m.gguf", ids)
    assert 0 < np.abs(theirs - ours(model, ids)).max() < 1.0
    lines = (tmp_path / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./m.gguf" and "PARAMETER num_ctx 320" in lines


# llama2.c


def read_llama2c(path: Path) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """The arrays of a checkpoint in the order in which run.c maps them."""
    data = path.read_bytes()
    header = struct.unpack("<7i", data[:28])
    dim, hidden, layers, heads, kv_heads, vocab, seq = header
    kv, half = dim // heads * kv_heads, dim // heads // 2
    shapes = {
        "tok_emb": (abs(vocab), dim), "att_norm": (layers, dim), "wq": (layers, dim, dim),
        "wk": (layers, kv, dim), "wv": (layers, kv, dim), "wo": (layers, dim, dim),
        "ffn_norm": (layers, dim), "w1": (layers, hidden, dim), "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim), "final_norm": (dim,), "cos": (seq, half), "sin": (seq, half),
    }  # fmt: skip
    if vocab < 0:
        shapes["wcls"] = (abs(vocab), dim)
    numbers = np.frombuffer(data, np.float32, offset=28)
    assert numbers.size == sum(int(np.prod(shape)) for shape in shapes.values())
    arrays, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape))
        arrays[name] = numbers[start:end].reshape(shape).astype(np.float64)
    arrays.setdefault("wcls", arrays["tok_emb"])
    return arrays, header


def run_llama2c(path: Path, ids: np.ndarray) -> np.ndarray:
    """Log-probabilities as run.c defines them, in float64: neighbouring pairs are turned."""
    w, (dim, _, layers, heads, kv_heads, _, _) = read_llama2c(path)
    D, T = dim // heads, len(ids)

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    angles = np.outer(np.arange(T), 10_000.0 ** (-np.arange(0, D, 2) / D))[:, None]

    def turn(x: np.ndarray) -> np.ndarray:
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack(
            [a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], -1
        ).reshape(x.shape)

    x = w["tok_emb"][ids]
    for i in range(layers):
        h = norm(x, w["att_norm"][i])
        q = turn((h @ w["wq"][i].T).reshape(T, heads, D))
        k = turn((h @ w["wk"][i].T).reshape(T, kv_heads, D)).repeat(heads // kv_heads, 1)
        v = (h @ w["wv"][i].T).reshape(T, kv_heads, D).repeat(heads // kv_heads, 1)
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(D)
        scores = np.exp(log_softmax(np.where(np.tri(T, dtype=bool), scores, -1e30)))
        x = x + np.einsum("hts,shd->thd", scores, v).reshape(T, dim) @ w["wo"][i].T
        h = norm(x, w["ffn_norm"][i])
        gate = h @ w["w1"][i].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["w3"][i].T)) @ w["w2"][i].T
    return log_softmax(norm(x, w["final_norm"]) @ w["wcls"].T)


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.rope_theta == 10_000.0], ids=name_of)
def test_llama2c_computes_the_same(
    config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = stored(config, tokenizer)
    exhaust(export_llama2c(model, tmp_path / "m.bin"))
    order = ids_in_order(tokenizer)
    theirs_of = np.argsort(order)
    ids = ids_of(model)
    theirs = run_llama2c(tmp_path / "m.bin", theirs_of[ids])
    assert np.abs(theirs[:, theirs_of] - ours(model, ids)).max() < 1e-4
    drawn = list(PROMPT)
    while len(drawn) < len(PROMPT) + N_GREEDY:
        row = run_llama2c(tmp_path / "m.bin", theirs_of[drawn])[-1]
        drawn.append(int(order[row.argmax()]))
    assert drawn[len(PROMPT) :] == greedy(model)


def test_the_vocabulary_of_llama2c(tokenizer: Tokenizer, tmp_path: Path) -> None:
    exhaust(export_llama2c(stored(GROUPED, tokenizer), tmp_path / "m.bin"))
    data = (tmp_path / "tokenizer.bin").read_bytes()
    pieces, scores, at = [], [], 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8 : at + 8 + length])
        scores.append(score)
        at += 8 + length
    assert len(pieces) == tokenizer.vocab_size == len(set(pieces))
    assert struct.unpack_from("<I", data)[0] == max(map(len, pieces))
    assert pieces[1] == b"<|endoftext|>" and pieces[3:259] == [bytes([i]) for i in range(256)]
    assert pieces[259:-1] == [tokenizer.token_bytes(i) for i in range(260, tokenizer.vocab_size)]
    assert scores[259:-1] == [-float(i) for i in range(1, len(pieces) - 259)]
    assert scores[0] == scores[-1] == np.float32(NO_MERGE)


def test_rows_come_back() -> None:
    weight = np.arange(3 * 10 * 4, dtype=np.float32).reshape(30, 4)
    assert (half_split(interleaved(weight, 3), 3) == weight).all()
    assert (interleaved(weight, 3)[:2] == weight[[0, 5]]).all()


# The command


@pytest.fixture
def model_path(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    model = stored(GROUPED, tokenizer)
    path = tmp_path / "model.slim"
    save_model(path, model.parameters, model_metadata(model.config, tokenizer, []))
    return path


def test_the_name_decides_and_nothing_is_overwritten(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model_path.read_bytes()
    assert main(["export", str(model_path), str(tmp_path / "hf")]) == 0
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "llama"
    assert main(["export", str(model_path), str(tmp_path / "c.bin")]) == 0
    assert (tmp_path / "c.bin").stat().st_size > 28 and (tmp_path / "tokenizer.bin").exists()
    assert main(["export", str(model_path), str(tmp_path / "c.bin")]) == 2
    assert "exists: add --force" in capsys.readouterr().err
    assert main(["export", str(model_path), str(model_path), "--to", "llama2c", "--force"]) == 2
    assert "OUT must not replace MODEL" in capsys.readouterr().err
    assert model_path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"rope_theta": 5e5}, ["--to", "llama2c"], "rope_theta 10000, but this model has 500000"),
        ({"norm_eps": 1e-6}, ["--to", "llama2c"], "norm_eps 1e-05, but this model has 1e-06"),
        ({}, ["--to", "llama2c", "--dtype", "f16"], "holds f32, not f16"),
        ({}, ["--to", "hf", "--dtype", "q8_0"], "holds f32, f16 or bf16, not q8_0"),
    ],
)
def test_what_a_format_cannot_carry_is_named(
    change: dict[str, float],
    options: list[str],
    words: str,
    tokenizer: Tokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = stored(dataclasses.replace(GROUPED, **change), tokenizer)
    save_model(tmp_path / "m", model.parameters, model_metadata(model.config, tokenizer, []))
    assert main(["export", str(tmp_path / "m"), str(tmp_path / "out"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_is_refused(model_path: Path, tmp_path: Path) -> None:
    from slim.errors import ModelFileError

    assert result_of(read_stored_model(model_path)).config.dim == GROUPED.dim
    model_path.write_bytes(model_path.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="cut short"):
        result_of(read_stored_model(model_path))
    assert main(["export", str(model_path), str(tmp_path / "hf")]) == 3
