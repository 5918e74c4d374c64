"""Do the stop rules of a model file do what it promises? `python demo/confidence/promises.py MODEL TEXT OUT_DIR`

MODEL continues the beginnings of TEXT, which it was not trained on, and lines of other texts; what it writes is kept in
OUT_DIR, so that a second run goes on where the first was stopped. Writes OUT_DIR/promises.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fresh import documents_of
from texts import ROWS, Texts, prompts_of, write

from slim.calibration import Calibration
from slim.confidence import Repetition
from slim.config import GenerateConfig
from slim.foresight import stops
from slim.model_file import load_model

INSIDE, OUTSIDE, GREEDY = 1024, 128, 200  # texts
GREEDY_LENGTH = 503  # tokens


def fires(ids: np.ndarray) -> bool:
    """Whether the rule against loops ends this text."""
    rule = Repetition()
    return any(rule.push(token_id) for token_id in ids.tolist())


def loops_there(ids: np.ndarray) -> bool:
    """Whether 8 tokens or more come three times in a row, by a plain search."""
    return any(
        np.array_equal(ids[at : at + n], ids[at + n : at + 2 * n])
        and np.array_equal(ids[at : at + n], ids[at + 2 * n : at + 3 * n])
        for n in range(8, ids.size // 3 + 1)
        for at in np.flatnonzero(ids[: ids.size - 3 * n + 1] == ids[n : ids.size - 2 * n + 1])
    )


def loops(texts: Sequence[np.ndarray], genuine: Sequence[np.ndarray]) -> dict[str, int]:
    """The rule against loops on greedy texts and on genuine ones."""
    found = [(loops_there(ids), fires(ids)) for ids in texts]
    return {
        "greedy": len(found),
        "with_loops": sum(there for there, _ in found),
        "stopped": sum(there and fired for there, fired in found),
        "stopped_without": sum(fired and not there for there, fired in found),
        "genuine": len(genuine),
        "genuine_touched": sum(map(fires, genuine)),
    }


def main() -> None:
    """Write, then count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--outside", nargs="*", default=[], help="texts of other kinds")
    args = parser.parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    model, tokenizer, metadata = load_model(args.model)
    calibration = Calibration.from_record(metadata.get("calibration"))
    if calibration is None:
        parser.error(f"{args.model} is not calibrated: slim calibrate")
    documents = documents_of(args.text, tokenizer)

    def written(
        name: str, prompts: np.ndarray, seed: int, sampler: GenerateConfig, length: int
    ) -> list[Texts]:
        parts = []
        for i in range(0, len(prompts), ROWS):
            path = args.out_dir / f"{name}-{i}.npz"
            sys.stderr.write(f"{path.stem}\n")
            rows = prompts[i : i + ROWS]
            parts.append(write(model, tokenizer.eos_id, rows, seed + i, path, sampler, length))
        return parts

    def stopped(parts: Sequence[Texts], threshold: float) -> float:
        return float(
            (stops([one for part in parts for one in part.expected], threshold) >= 0).mean()
        )

    default = GenerateConfig()
    prompts = prompts_of(documents, INSIDE, 2)
    inside = written("inside", prompts, 50_000, default, default.max_tokens)
    shares = []
    for name, threshold in calibration.thresholds.items():
        q = float(name)
        error = 1.96 * float(np.sqrt(q * (1 - q) * (1 / INSIDE + 1 / calibration.samples)))
        shares.append([q, threshold, stopped(inside, threshold), q - error, q + error])
    outside = {}
    for path in args.outside:
        lines = [line for line in Path(path).read_bytes().splitlines() if len(line) > 40]
        prompts = prompts_of([tokenizer.encode(line) for line in lines], OUTSIDE, 3)
        texts = written(Path(path).stem, prompts, 90_000, default, default.max_tokens)
        outside[Path(path).stem] = stopped(texts, calibration.threshold)
    settings = GenerateConfig(temperature=0.0, repeat_penalty=1.0)
    prompts = prompts_of(documents, GREEDY, 6)
    greedy = written("greedy", prompts, 190_000, settings, GREEDY_LENGTH)
    results = {
        "texts": INSIDE,
        "calibrated_on": calibration.samples,
        "promises": shares,
        "outside": outside,
        "repetition": loops([ids for part in greedy for ids in part.ids], documents),
    }
    text = json.dumps(results, indent=1)
    (args.out_dir / "promises.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
