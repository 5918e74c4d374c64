"""Numbers about confidence, on data whose answer is known, and the report that puts them together."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from slim.calibration import ReliabilityBin
from slim.cli import main
from slim.cli.diagram import reliability_diagram
from slim.confidence import LowConfidence
from slim.foresight import exchanged, foresight, stops
from slim.reliability import (
    FullCalibration,
    auroc,
    bootstrap_interval,
    expected_error,
    mean_risk,
    reliability_bins,
    risk_at_coverage,
)
from slim.scoring import Chunk


@pytest.fixture
def random() -> np.random.Generator:
    """A fresh one for each test, so that each passes or fails alone as it does among the others."""
    return np.random.default_rng(1)


def test_calibration_error_of_the_sure_and_the_oversure(random: np.random.Generator) -> None:
    p = random.random(60_000)
    came = random.random(p.size) < p
    bins = reliability_bins(p, came)
    assert len(bins) == 15 and {one.tokens for one in bins} == {4000}
    assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)
    assert expected_error(bins) < 0.01
    assert expected_error(reliability_bins(np.full(10, 0.9), np.zeros(10))) == pytest.approx(0.9)
    assert expected_error(
        (ReliabilityBin(0.5, 0.6, 1), ReliabilityBin(0.9, 0.6, 3))
    ) == pytest.approx((0.1 + 3 * 0.3) / 4)
    assert len(reliability_bins(p[:3], came[:3])) == 3


def test_auroc_is_the_share_of_pairs_in_the_right_order(random: np.random.Generator) -> None:
    score = np.round(random.random(60), 1)
    right = random.random(60) < score
    pairs = [(a > b) + 0.5 * (a == b) for a in score[right] for b in score[~right]]
    assert auroc(score, right) == pytest.approx(np.mean(pairs))
    assert auroc(np.arange(4.0), np.array([0, 0, 1, 1])) == 1.0
    assert auroc(np.zeros(4), np.array([0, 1, 1, 0])) == auroc(np.arange(2.0), np.ones(2)) == 0.5


def test_risk_at_coverage() -> None:
    score, right = np.array([0.1, 0.9, 0.5, 0.7]), np.array([False, True, False, True])
    assert risk_at_coverage(score, right, (0.25, 0.5, 0.75, 1.0)) == pytest.approx(
        (0, 0, 1 / 3, 0.5)
    )
    assert mean_risk(score, right) == pytest.approx((0 + 0 + 1 / 3 + 0.5) / 4)


def test_full_calibration_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], np.float32))
    chunk = Chunk(logits, np.array([0, 1], np.int32), np.zeros(2, int), np.arange(2))
    full = FullCalibration()
    full.add(chunk)
    assert full.brier == pytest.approx((0.25 + 0.09 + 0.04 + 0.25 + 0.49 + 0.04) / 2, abs=1e-5)
    # 0.5 came once of two, 0.3 once where 0.6 were expected, 0.2 never of 0.4: in three bins, per token.
    assert full.error(3) == pytest.approx((0.0 + 0.4 + 0.4) / 2, abs=1e-5)
    assert full.error(1) == pytest.approx(0.0, abs=1e-5)


def test_bootstrap_interval_covers_the_mean() -> None:
    hits = 0
    for seed in range(60):
        values = np.random.default_rng(seed).standard_normal(80)
        low, high = bootstrap_interval(values, draws=200, seed=seed)
        hits += low <= 0.0 <= high
    assert hits >= 52


def test_stops_are_where_the_rule_fires(random: np.random.Generator) -> None:
    texts = [random.standard_normal(n) - 2.0 for n in (10, 27, 60, 90, 200, 200, 200)]
    for threshold in (-2.5, -2.2, -2.0):
        expected = []
        for text in texts:
            rule = LowConfidence(threshold)
            expected.append(next((i for i, x in enumerate(text, 1) if rule.push(x)), -1))
        assert stops(texts, threshold).tolist() == expected
        assert any(at > 0 for at in expected) and -1 in expected


def test_foresight_finds_what_is_there_and_nothing_else(random: np.random.Generator) -> None:
    """Texts of equal difficulty, some of which become hard at token 60."""
    nats = [random.exponential(1.0, 160) for _ in range(80)]
    stop = np.full(80, -1)
    for i in range(20):
        nats[i][60:] += 0.5
        stop[i] = 60
    found = foresight(nats, stop)
    assert found is not None and (found.documents, found.fired, found.compared) == (80, 20, 20)
    assert found.low < 0.5 < found.high and found.low > 0.2
    assert abs(found.matched) < 0.05
    lengths = np.full(80, 160)
    nulls = [foresight(nats, exchanged(stop, lengths, random)) for _ in range(40)]
    assert abs(np.mean([null.difference for null in nulls if null is not None])) < 0.1
    # A text that was hard before is compared with others that were.
    nats[0][:60] += 3.0
    again = foresight(nats, stop)
    assert again is not None and again.matched > found.matched
    assert foresight(nats, np.full(80, -1)) is None
    assert foresight(nats[:5], stop[:5]) is None


def test_exchanged_stops_fit_their_new_texts(random: np.random.Generator) -> None:
    stop, lengths = np.array([100, 5, -1, 40]), np.array([120, 30, 200, 45])
    for _ in range(50):
        drawn = exchanged(stop, lengths, random)
        assert (drawn < lengths).all() and set(drawn.tolist()) <= {-1, 5, 40, 100}


def test_the_diagram() -> None:
    bins = (
        ReliabilityBin(0.1, 0.05, 10),
        ReliabilityBin(0.5, 0.75, 10),
        ReliabilityBin(1.0, 1.0, 10),
    )
    head, first, second, third, legend = reliability_diagram(bins, ascii_only=True)
    assert head.endswith("1") and "how often its first choice came" in legend
    assert first == "  0.10  0.05   ##   |"
    assert second == "  0.50  0.75   " + "#" * 25 + "|" + "#" * 12
    assert third == "  1.00  1.00   " + "#" * 49 + "|"
    assert all(line.isascii() for line in (head, first, second, third, legend))
    lines = list(reliability_diagram(bins))
    assert lines[1] == "  0.10  0.05   ██▌  │"


@pytest.mark.parametrize("marked", [True, False])
def test_eval_calibration(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], marked: bool
) -> None:
    text = tmp_path / "text.txt"
    stories = [f"Once there were {n} foxes, and they ran all day long." for n in range(20)]
    text.write_text(("\n<|endoftext|>\n" if marked else "\n").join(stories), encoding="utf-8")
    command = ["eval", str(tiny_model), str(text), "--calibration", "--precision", "fp32"]
    assert main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["documents"] == (10 if marked else 8)
    plain, after = record["plain"], record["calibrated"]
    assert plain["temperature"] == 1.0 and plain["nats"] == pytest.approx(math.log(260), abs=0.1)
    assert 0.0 <= after["ece"] <= 1.0 and plain["ece_low"] <= plain["ece_high"]
    assert sum(one["tokens"] for one in plain["bins"]) == record["tokens"]
    assert [one["name"] for one in record["rankings"]] == [
        "p",
        "frequency",
        "position",
        "shuffled p",
    ]
    assert record["rules"] == []
    assert main(command) == 0
    out, _ = capsys.readouterr()
    assert "calibrated p, temperature" in out and "no stop rule to judge" in out


def test_eval_calibration_of_too_little_text(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Too little.", encoding="utf-8")
    assert main(["eval", str(tiny_model), str(text), "--calibration"]) == 3
    assert "too little text" in capsys.readouterr().err
