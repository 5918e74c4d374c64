"""The stop rule and p of a model file on text that chose nothing: `python demo/confidence/fresh.py MODEL OUT.json TEXT ...`

Everything that could be chosen comes out of MODEL: thresholds from its own texts, the temperature from the text that its
training set apart. So all documents of each TEXT may judge.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from slim.calibration import Calibration
from slim.corpus import read_corpus
from slim.foresight import exchanged, foresight, stops
from slim.model_file import load_model
from slim.reliability import auroc, expected_error, reliability_bins
from slim.scoring import Scorer, Scores, logits_of, texts_of
from slim.tokenizer import Tokenizer

EXCHANGES = 199
TOGETHER = 256  # documents that are scored at once


def documents_of(path: str, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The ids of each document of a text."""
    return [tokenizer.encode(part.text) for part in read_corpus(path).parts()]


def genuine_foresight(
    nats: Sequence[np.ndarray], stop: np.ndarray, exchanges: int = EXCHANGES
) -> dict[str, object]:
    """What follows stops in genuine documents, against the same stops exchanged between them, which know nothing."""
    lengths = np.array([one.size for one in nats])
    ahead = foresight(nats, stop)
    if ahead is None:
        return {"fired": int((stop >= 0).sum()), "compared": 0}
    if not exchanges:
        return asdict(ahead)
    random = np.random.default_rng(0)
    nulls = [foresight(nats, exchanged(stop, lengths, random)) for _ in range(exchanges)]
    found = np.array([null.difference for null in nulls if null is not None])
    p_value = (1 + int((found >= ahead.difference).sum())) / (1 + found.size)
    null = [float(found.mean()), *np.quantile(found, (0.025, 0.975)).tolist()]
    return {**asdict(ahead), "exchanged": null, "p_value": p_value}


def calibratedness(scores: Scores) -> dict[str, object]:
    """ECE of the first choice, documents drawn anew for the interval; AUROC; nats."""
    correct = scores.rank == 0
    sure, right = scores.by_document(scores.best), scores.by_document(correct)
    random, drawn = np.random.default_rng(0), []
    for _ in range(100):
        picked = random.integers(0, len(sure), len(sure)).tolist()
        confidence, came = (np.concatenate([of[i] for i in picked]) for of in (sure, right))
        drawn.append(expected_error(reliability_bins(confidence, came)))
    return {
        "ece": [
            expected_error(reliability_bins(scores.best, correct)),
            *np.quantile(drawn, (0.025, 0.975)).tolist(),
        ],
        "auroc": auroc(scores.best, correct),
        "nats": -float(scores.logprob.mean()),
    }


def main() -> None:
    """Each text by itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    args = parser.parse_args()
    model, tokenizer, metadata = load_model(args.model)
    calibration = Calibration.from_record(metadata.get("calibration"))
    if calibration is None or calibration.held_out is None:
        parser.error(f"{args.model} is not calibrated on held-out text: slim calibrate")
    temperature = calibration.held_out.temperature
    results: dict[str, object] = {"precision": model.precision, "temperature": temperature}
    for path in args.texts:
        documents = documents_of(path, tokenizer)
        plain, cooled = Scorer(), Scorer()
        for first in range(0, len(documents), TOGETHER):
            some = documents[first : first + TOGETHER]
            for chunk in logits_of(model, texts_of(some), tokenizer.start_id):
                numbered = replace(chunk, documents=chunk.documents + first)
                plain.add(numbered)
                cooled.add(numbered, temperature)
        scores = plain.scores()
        expected, nats = scores.by_document(scores.expected), scores.by_document(-scores.logprob)
        rules = []
        for share, threshold in calibration.thresholds.items():
            often = EXCHANGES if float(share) == calibration.share else 0
            found = genuine_foresight(nats, stops(expected, threshold), often)
            rules.append({"share": float(share), "threshold": threshold, **found})
        results[Path(path).stem] = {
            "documents": len(documents),
            "tokens": sum(map(len, documents)),
            "bytes": sum(len(tokenizer.decode_bytes(ids)) for ids in documents),
            "plain": calibratedness(scores),
            "calibrated": calibratedness(cooled.scores()),
            "rules": rules,
        }
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
