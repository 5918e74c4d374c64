"""The whole model against float64, and the claims of the maths: causality, distance, caching, batches, accumulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba.core import config as numba_config

import reference
import slim.kv_cache
import slim.model
import slim.optim
import slim.parameters
from slim.config import PRESETS, ModelConfig, TrainConfig
from slim.kernels.rope import rope, rope_tables
from slim.kv_cache import KVCache
from slim.model import Model, Workspace, workspace_bytes
from slim.optim import AdamW
from slim.parameters import Parameters
from tiny_models import CONFIGS, MODELS, NanNumpy, in_float64, tiny_batch, tiny_model

Array = np.ndarray
STEP = 1e-5  # of the central differences
ENTRIES = 8  # of every weight, in the fast tier
SOAK_ENTRIES = 80
# Relative to the root mean square of all that is compared. In bfloat16 an operand is rounded by up to 2^-8.
LOGITS = {"fp32": 1e-5, "bf16": 1.5e-1}
GRADIENTS = {"fp32": 1e-4, "bf16": 2e-1}
LONG = 150 if not numba_config.DISABLE_JIT else 20  # tokens: more than a block of attention

every_model = pytest.mark.parametrize(("name", "precision"), MODELS)


@pytest.fixture(autouse=True)
def _no_array_begins_as_zeros_by_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (slim.model, slim.kv_cache, slim.parameters, slim.optim):
        monkeypatch.setattr(module, "np", NanNumpy())
        for make in ("empty", "zeros"):
            monkeypatch.setattr(module, make, getattr(NanNumpy, make), raising=False)


def assert_close(found: Array, expected: Array, tolerance: float) -> None:
    """Every element within tolerance * root mean square of all."""
    assert found.shape == expected.shape
    scale = math.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    error = float(np.abs(found - expected).max()) / scale
    assert error <= tolerance, f"{error:.3g} > {tolerance:.3g}"


def forward(model: Model, tokens: Array) -> Array:
    return model.logits(model.workspace(*tokens.shape, train=False), tokens)


# ---- against float64 ------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("T", [1, 13, LONG])
def test_logits_equal_the_reference(name: str, precision: str, T: int) -> None:
    model = tiny_model(name, precision)
    tokens, _ = tiny_batch(model.config, 2, T)
    expected = reference.model_logits(in_float64(model.parameters), model.config, tokens)
    assert_close(forward(model, tokens), expected, LOGITS[precision])


@every_model
def test_gradients_of_the_whole_model(name: str, precision: str) -> None:
    check_gradients(name, precision, ENTRIES)


@pytest.mark.soak
@every_model
def test_many_gradients_of_the_whole_model(name: str, precision: str) -> None:
    check_gradients(name, precision, SOAK_ENTRIES)


def check_gradients(name: str, precision: str, entries: int) -> None:
    model = tiny_model(name, precision)
    config = model.config
    tokens, targets = tiny_batch(config, 3, 13)
    gradients = Parameters(config)
    w = model.workspace(*tokens.shape, train=True)
    loss = model.loss_and_gradients(w, tokens, targets, gradients)
    weights = in_float64(model.parameters)
    exact = reference.model_loss(weights, config, tokens, targets)
    assert loss == pytest.approx(exact, rel=1e-6 if precision == "fp32" else 1e-2)
    rng = np.random.default_rng(1)
    for weight, gradient in gradients:
        flat = weights[weight].reshape(-1)
        chosen = rng.choice(flat.size, min(entries, flat.size), replace=False)
        if weight == "model.embed_tokens.weight":  # rows that occur, which are not many
            half = len(chosen) // 2
            chosen[:half] = np.resize(tokens, half) * config.dim + chosen[:half] % config.dim
        slopes = []
        for i in chosen:
            kept = flat[i]
            losses = []
            for step in (STEP, -STEP):
                flat[i] = kept + step
                losses.append(reference.model_loss(weights, config, tokens, targets))
            flat[i] = kept
            slopes.append((losses[0] - losses[1]) / (2 * STEP))
        scale = math.sqrt(np.mean(np.square(gradient, dtype=np.float64)))
        error = np.abs(gradient.reshape(-1)[chosen] - slopes).max() / scale
        assert error <= GRADIENTS[precision], f"{weight}: {error:.3g}"


def test_loss_at_initialisation_is_that_of_a_guess() -> None:
    config = ModelConfig(
        vocab_size=500, dim=64, n_layers=2, n_heads=2, hidden_dim=96, max_seq_len=64
    )
    model = Model(config, Parameters(config).initialise(0))
    tokens, targets = tiny_batch(config, 4, 64)
    w = model.workspace(*tokens.shape, train=True)
    loss = model.loss_and_gradients(w, tokens, targets, Parameters(config))
    assert loss == pytest.approx(math.log(config.vocab_size), rel=0.02)


@pytest.mark.skipif(numba_config.DISABLE_JIT, reason="300 steps take minutes without the compiler")
@every_model
def test_a_batch_is_learnt_by_heart(name: str, precision: str) -> None:
    config = CONFIGS[name]
    model = Model(config, Parameters(config).initialise(0), precision)
    optimizer = AdamW(model.parameters, TrainConfig(weight_decay=0.0))
    tokens, targets = tiny_batch(config, 2, 12)
    w, gradients = model.workspace(*tokens.shape, train=True), Parameters(config)
    for step in range(300):
        loss = model.loss_and_gradients(w, tokens, targets, gradients)
        optimizer.step(gradients, 1e-2 * (1 - step / 300), optimizer.gradient_norm(gradients))
        model.pack()
    assert loss < 0.05


# ---- targets, batches, accumulation ---------------------------------------------------------------------------


@every_model
def test_evaluation_is_the_training_loss(name: str, precision: str) -> None:
    model = tiny_model(name, precision)
    tokens, targets = tiny_batch(model.config, 3, 13)
    losses = model.token_losses(model.workspace(3, 13, train=False), tokens, targets)
    assert not losses[targets < 0].any()
    w = model.workspace(3, 13, train=True)
    trained = model.loss_and_gradients(w, tokens, targets, Parameters(model.config))
    assert float(np.sum(losses, dtype=np.float64)) / np.count_nonzero(targets >= 0) == trained


def gradients_of(model: Model, tokens: Array, targets: Array, scale: float = 1.0) -> Parameters:
    gradients = Parameters(model.config)
    w = model.workspace(*tokens.shape, train=True)
    model.loss_and_gradients(w, tokens, targets, gradients, scale)
    return gradients


@every_model
def test_masked_targets_leave_no_trace(name: str, precision: str) -> None:
    """A sequence that counts nothing changes no gradient, and a batch of nothing else has none."""
    model = tiny_model(name, precision)
    tokens, targets = tiny_batch(model.config, 2, 13)
    targets[1] = -1
    alone = gradients_of(model, tokens[:1], targets[:1]).flat
    assert_close(gradients_of(model, tokens, targets).flat, alone, 1e-6)
    nothing = np.full_like(targets, -1)
    gradients = Parameters(model.config)
    w = model.workspace(*tokens.shape, train=True)
    assert model.loss_and_gradients(w, tokens, nothing, gradients) == 0.0
    assert not gradients.flat.any()


@every_model
def test_gradients_accumulate_to_those_of_one_batch(name: str, precision: str) -> None:
    model = tiny_model(name, precision)
    tokens, targets = tiny_batch(model.config, 4, 13)
    targets[targets < 0] = 0  # parts that count as many targets as each other
    whole = gradients_of(model, tokens, targets).flat
    parts = Parameters(model.config)
    w = model.workspace(2, 13, train=True)
    for rows in (slice(0, 2), slice(2, 4)):
        model.loss_and_gradients(w, tokens[rows], targets[rows], parts, 0.5)
    assert_close(parts.flat, whole, 1e-5)


@every_model
def test_sequences_of_a_batch_do_not_know_each_other(name: str, precision: str) -> None:
    model = tiny_model(name, precision)
    tokens, _ = tiny_batch(model.config, 3, 17)
    together = forward(model, tokens)
    for row in range(3):
        alone = forward(model, tokens[row : row + 1])
        assert together[row].tobytes() == alone[0].tobytes()


@every_model
def test_future_tokens_do_not_move_past_logits(name: str, precision: str) -> None:
    model = tiny_model(name, precision)
    tokens, _ = tiny_batch(model.config, 1, LONG)
    before = forward(model, tokens)
    for t in {0, 1, 7, LONG // 2, LONG - 1}:
        changed = tokens.copy()
        changed[0, t:] = (changed[0, t:] + 1) % model.config.vocab_size
        after = forward(model, changed)
        assert before[0, :t].tobytes() == after[0, :t].tobytes()
        assert (before[0, t] != after[0, t]).any()


@pytest.mark.parametrize("D", [2, 6, 32, 48])
@pytest.mark.parametrize("shift", [1, 37, 400])
def test_rope_depends_on_distance_only(D: int, shift: int) -> None:
    """The product of a query and a key, each turned by its position, is the same at any place."""
    T = 9
    cos, sin = rope_tables(T + shift, D, 10_000.0)
    x = np.random.default_rng(D).standard_normal((T, D), np.float32)
    products = []
    for start in (0, shift):
        turned = x.copy()
        rope(turned, cos, sin, 1, T, start, np.float32(1.0))
        products.append(turned @ turned.T)
    assert_close(products[1], products[0], 1e-5)
    assert np.abs(products[0] - x @ x.T).max() > 0.1


# ---- the cache ------------------------------------------------------------------------------------------------


@every_model
def test_cached_decode_equals_the_full_forward(name: str, precision: str) -> None:
    """At every position, after prefills of several lengths."""
    model = tiny_model(name, precision)
    tokens, _ = tiny_batch(model.config, 1, LONG)
    expected = forward(model, tokens)[0]
    for prefilled in (1, 16, 33, LONG - 3):
        if prefilled >= LONG:
            continue
        cache = model.new_cache(LONG)
        found = [model.prefill(cache, tokens[0, :prefilled]).copy()]
        for token in tokens[0, prefilled:]:
            found.append(model.decode(cache, int(token)).copy())
        assert cache.length == LONG
        assert_close(np.stack(found), expected[prefilled - 1 :], LOGITS[precision])


@every_model
@pytest.mark.parametrize("pieces", [(1, 1, 1), (7, 1, 32), (16, 17), (31, 2), (5, 127, 9)])
def test_prefill_in_pieces_is_prefill_at_once(
    name: str, precision: str, pieces: tuple[int, ...]
) -> None:
    if sum(pieces) > LONG:
        pytest.skip("too long without the compiler")
    model = tiny_model(name, precision)
    tokens, _ = tiny_batch(model.config, 1, sum(pieces))
    expected = forward(model, tokens)[0]
    cache = model.new_cache()
    for count in pieces:
        first = cache.length
        found = model.prefill(cache, tokens[0, first : first + count])
        assert_close(found, expected[cache.length - 1], LOGITS[precision])


@every_model
def test_a_cache_that_was_cut_forgets(name: str, precision: str) -> None:
    """What stood behind the cut is neither read nor left in a half-written unit."""
    model = tiny_model(name, precision)
    tokens, _ = tiny_batch(model.config, 2, 20)
    cache = model.new_cache(40)
    model.prefill(cache, tokens[0])
    for length in (13, 8, 3):
        cache.truncate(length)
        used = model.prefill(cache, tokens[1, length:19]).copy()
        used_next = model.decode(cache, int(tokens[1, 19])).copy()
        fresh = model.new_cache(40)
        model.prefill(fresh, tokens[0, :length])
        assert used.tobytes() == model.prefill(fresh, tokens[1, length:19]).tobytes()
        assert used_next.tobytes() == model.decode(fresh, int(tokens[1, 19])).tobytes()
        cache.truncate(length)
        model.prefill(cache, tokens[0, length:])


@every_model
@pytest.mark.parametrize("rows", [1, 3, 8, 19])
def test_texts_decoded_together_are_decoded_as_alone(name: str, precision: str, rows: int) -> None:
    """To the byte, whichever thread and tile a row falls to."""
    model = tiny_model(name, precision)
    tokens, _ = tiny_batch(model.config, rows, 12)
    one, together = model.new_cache(20), model.new_cache(20, rows)
    model.prefill(one, tokens[0, :5])
    together.fill_from(one)
    alone = []
    for row in range(rows):
        one.truncate(5)
        alone.append([model.decode(one, int(token)).tobytes() for token in tokens[row, 5:]])
    for step in range(7):
        found = model.decode_rows(together, np.ascontiguousarray(tokens[:, 5 + step]))
        assert [logits.tobytes() for logits in found] == [texts[step] for texts in alone]
    assert together.length == 12


def test_a_full_cache_refuses_the_next_token() -> None:
    model = tiny_model("grouped, tied")
    cache = model.new_cache(3)
    model.prefill(cache, np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="holds 3 of 3 tokens"):
        model.decode(cache, 0)
    with pytest.raises(ValueError, match="no room for 4"):
        model.prefill(model.new_cache(3), np.zeros(4, np.int32))


# ---- memory ---------------------------------------------------------------------------------------------------


def array_bytes(owner: object) -> int:
    """Bytes of all arrays that an object holds, in lists too, each piece of memory once."""
    found: dict[int, int] = {}
    pending = list(vars(owner).values())
    while pending:
        value = pending.pop()
        if isinstance(value, np.ndarray):
            found[value.__array_interface__["data"][0]] = value.nbytes
        elif isinstance(value, (list, tuple)):
            pending += value
    return sum(found.values())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_workspace_bytes_are_told_before(
    preset: str, train: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slim.model, "empty", np.empty)  # nothing is to be filled
    config = ModelConfig(**PRESETS[preset])
    dtype = np.uint16 if precision == "bf16" else np.float32
    truth = array_bytes(Workspace(config, 8, 256, train, dtype))
    assert workspace_bytes(config, 8, 256, train, precision) == pytest.approx(truth, rel=0.1)


def test_a_workspace_that_is_released_holds_nothing_but_its_shape() -> None:
    workspace = Workspace(ModelConfig(**PRESETS["tiny"]), 2, 16, True)
    workspace.release()
    assert vars(workspace) == {"B": 2, "T": 16}
    assert array_bytes(workspace) == 0


def test_a_cache_is_as_large_as_its_tokens() -> None:
    config = ModelConfig(**PRESETS["default"])
    cache = KVCache(config, config.max_seq_len)
    assert array_bytes(cache) == 2 * 4 * config.n_layers * config.dim * config.max_seq_len
