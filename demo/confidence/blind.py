"""Pairs for a reader who does not know which is which.

    python demo/confidence/blind.py write MODEL TEXT OUT_DIR     writes OUT_DIR/pairs.txt, and the key apart
    python demo/confidence/blind.py count OUT_DIR ANSWERS        ANSWERS: a letter for each pair, A, B or = (undecided)

MODEL continues the beginnings of TEXT, which it was not trained on. One passage of a pair is what a text says after its own
stop; the other is what another stopped text says after the same number of tokens. The reader tells which of the two goes on
worse from what stands before it. If stops meant nothing, either answer would be as likely.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from fresh import documents_of
from texts import Texts, prompts_of, write

from slim.calibration import Calibration
from slim.foresight import stops
from slim.model_file import load_model
from slim.tokenizer import Tokenizer

TEXTS, PAIRS, BEFORE, AFTER = 768, 50, 40, 32

def passage(tokenizer: Tokenizer, ids: np.ndarray, at: int) -> str:
    """What stands before a place and, behind a bar, what follows."""
    before = tokenizer.decode(ids[max(0, at - BEFORE) : at].tolist())
    after = tokenizer.decode(ids[at : at + AFTER].tolist())
    return " ".join(f"... {before} || {after}".split())


def pairs_of(texts: Texts, stop: np.ndarray, random: np.random.Generator) -> list[tuple[int, int, int]]:
    """(a text, its stop, another stopped text that is long enough), each text in one pair at most."""
    stopped = np.flatnonzero(stop >= 0)
    lengths = texts.lengths
    pairs, used = [], set()
    for text in random.permutation(stopped):
        at = int(stop[text])
        if text in used or at + AFTER > lengths[text]:
            continue
        for other in random.permutation(stopped):
            apart = abs(int(stop[other]) - at) > AFTER
            if other != text and other not in used and at + AFTER <= lengths[other] and apart:
                pairs.append((int(text), at, int(other)))
                used |= {text, other}
                break
        if len(pairs) == PAIRS:
            break
    return pairs


def write_pairs(model_path: str, text: str, out_dir: Path) -> None:
    """The pairs in any order, and which passage is which."""
    out_dir.mkdir(parents=True, exist_ok=True)
    model, tokenizer, metadata = load_model(model_path)
    calibration = Calibration.from_record(metadata.get("calibration"))
    if calibration is None:
        raise SystemExit(f"{model_path} is not calibrated: slim calibrate")
    prompts = prompts_of(documents_of(text, tokenizer), TEXTS, seed=77)
    texts = write(model, tokenizer.eos_id, prompts, 770_000, out_dir / "own.npz")
    stop = stops(texts.expected, calibration.threshold)
    random = np.random.default_rng(7)
    lines, key = [], []
    for number, (text_number, at, other) in enumerate(pairs_of(texts, stop, random), start=1):
        own_first = bool(random.integers(2))
        two = [passage(tokenizer, texts.ids[one], at) for one in (text_number, other)]
        first, second = two if own_first else reversed(two)
        lines += [f"{number}", f"A {first}", f"B {second}", ""]
        key.append("A" if own_first else "B")
    (out_dir / "pairs.txt").write_text("\n".join(lines), encoding="utf-8")
    (out_dir / "key.json").write_text(json.dumps(key), encoding="utf-8")


def count(out_dir: Path, answers: str) -> dict[str, float]:
    """How often the passage after its own stop was found worse, and how likely that is by chance, one-sided."""
    key = json.loads((out_dir / "key.json").read_text(encoding="utf-8"))
    given = answers.split()
    if len(given) != len(key):
        raise SystemExit(f"{len(given)} answers for {len(key)} pairs")
    decided = [(answer, right) for answer, right in zip(given, key, strict=True) if answer != "="]
    n, hits = len(decided), sum(answer == right for answer, right in decided)
    chance = sum(math.comb(n, k) for k in range(hits, n + 1)) / 2**n
    return {"pairs": len(key), "decided": n, "own_stop_worse": hits, "p": chance}


def main() -> None:
    """Write or count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    for name in ("model", "text"):
        writing.add_argument(name)
    writing.add_argument("out_dir", type=Path)
    counting = commands.add_parser("count")
    counting.add_argument("out_dir", type=Path)
    counting.add_argument("answers", type=Path)
    args = parser.parse_args()
    if args.command == "write":
        write_pairs(args.model, args.text, args.out_dir)
    else:
        print(json.dumps(count(args.out_dir, args.answers.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
