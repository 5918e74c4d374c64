"""Does confidence mean anything? `python demo/confidence/study.py MODEL TEXT OUT_DIR --corpus TRAIN --fresh TEXT_2`

TEXT: held-out documents, of the kind that MODEL was trained on. Writes results.json and figures into OUT_DIR; texts that the
model wrote are kept in OUT_DIR/cache, so a second run is quick. Even documents choose, odd ones judge what was chosen; the
documents of TEXT_2 choose nothing at all, and judge whatever can be judged on genuine text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import curves, intervals
from fresh import documents_of, genuine_foresight
from judge import BITS, FiveGram, repeated
from promises import loops
from texts import PROMPT, Texts, prompts_of, read, write

from slim.calibrate import calibrate
from slim.calibration import Calibration
from slim.confidence import MIN_TOKENS, PATIENCE, sustained
from slim.confidence_report import as_record, confidence_report
from slim.config import GenerateConfig
from slim.foresight import exchanged, foresight
from slim.model import Model
from slim.model_file import load_model
from slim.parameters import Parameters
from slim.scoring import score_documents
from slim.tokenizer import Tokenizer

STATISTICS = ("log p", "expected log p", "p", "share of p below .05", "margin")
WINDOWS = (8, 16, 24, 32)
CHOSEN = ("expected log p", 24, 0.2)
CURVE = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
EXCHANGES, DRAWS = 200, 300
UNTRAINED = 4  # models, each from another seed
OUTSIDE_TEXTS = 192
EXACT_TEXTS, EXACT_LENGTH = 24, 200


@dataclass(frozen=True, slots=True, eq=False)
class Depths:
    """How deep texts are at each place where a rule may fire."""

    depths: list[np.ndarray]
    first: int  # tokens before the first of these places

    def threshold(self, share: float) -> float:
        """What stops this share of the texts."""
        dips = sorted(float(one.min()) if one.size else np.inf for one in self.depths)
        return min(dips[round(share * len(dips))], 0.999)

    def stops(self, threshold: float) -> np.ndarray:
        """Where each text stops, -1: nowhere."""
        below = [np.flatnonzero(one < threshold) for one in self.depths]
        return np.array([self.first + one[0] if one.size else -1 for one in below])


def depths_of(texts: Texts, statistic: str, window: int) -> Depths:
    """For a statistic over a window."""
    series = texts.statistic(statistic)
    return Depths(
        [sustained(one, window) for one in series], max(MIN_TOKENS, window - 1) + PATIENCE
    )


def own_foresight(
    judged: Sequence[np.ndarray], stop: np.ndarray, seed: int = 0
) -> dict[str, object]:
    """Proof 4: what a rule cuts off and what it keeps, against stops exchanged between the texts."""
    random = np.random.default_rng(seed)
    sums = [np.concatenate(([0.0], np.cumsum(one))) for one in judged]
    lengths, totals = np.array([one.size for one in judged]), np.array([one[-1] for one in sums])

    def parts(at: np.ndarray) -> np.ndarray:
        """Of each text (cut nats, cut tokens, kept nats, kept tokens)."""
        ends = np.where((at >= 0) & (at < lengths), at, lengths)
        kept = np.array([one[end] for one, end in zip(sums, ends, strict=True)])
        return np.stack([totals - kept, lengths - ends, kept, ends])

    def means(part: np.ndarray) -> np.ndarray:
        total = part.sum(axis=1)
        return np.array([total[0] / max(total[1], 1), total[2] / max(total[3], 1)])

    real = parts(stop)
    nulls = [parts(exchanged(stop, lengths, random)) for _ in range(EXCHANGES)]
    null_means = np.array([means(one) for one in nulls])
    gain = means(real) - null_means.mean(axis=0)
    drawn = []
    for i in range(DRAWS):
        picked = random.integers(0, lengths.size, lengths.size)
        drawn.append(means(real[:, picked]) - means(nulls[i % EXCHANGES][:, picked]))
    low, high = np.quantile(np.array(drawn), (0.025, 0.975), axis=0)
    more = (null_means[:, 0] - null_means[:, 0].mean() >= gain[0]).sum()
    return {
        "cut": [gain[0], low[0], high[0]],
        "kept": [gain[1], low[1], high[1]],
        "p_value": float(1 + more) / (1 + EXCHANGES),
        "stopped": float(((stop >= 0) & (stop < lengths)).mean()),
        "kept_share": float(real[3].sum() / lengths.sum()),
    }


def compare(
    own: Texts, judged: Sequence[np.ndarray], genuine: Texts, outside: dict[str, Texts]
) -> list[dict[str, object]]:
    """Every statistic and window at the chosen share."""
    rows = []
    nats = [-one for one in genuine.logprob]
    for statistic in STATISTICS:
        for window in WINDOWS:
            depths = depths_of(own, statistic, window)
            threshold = depths.threshold(CHOSEN[2])
            stop = depths.stops(threshold)
            ahead = foresight(nats, depths_of(genuine, statistic, window).stops(threshold))
            away = [
                (depths_of(one, statistic, window).stops(threshold) >= 0).mean()
                for one in outside.values()
            ]
            rows.append(
                {
                    "statistic": statistic,
                    "window": window,
                    **own_foresight(judged, stop),
                    "genuine": None if ahead is None else [ahead.difference, ahead.low, ahead.high],
                    "outside": float(np.mean(away)),
                }
            )
    return rows


def untrained_null(
    model: Model, eos_id: int, prompts: Sequence[np.ndarray], judge: FiveGram, cache: Path
) -> dict[str, object]:
    """Proof 5: the chosen rule on what models write that have learnt nothing, each at its own threshold."""
    statistic, window, share = CHOSEN
    nats, stops = [], []
    for seed, starts in enumerate(prompts):
        blank = Model(model.config, Parameters(model.config).initialise(seed), model.precision)
        noise = write(blank, eos_id, starts, 170_000 + 1000 * seed, cache / f"untrained-{seed}.npz")
        blind = depths_of(noise, statistic, window)
        nats.append(judge.nats(noise.ids, model.config.vocab_size))
        stops.append(blind.stops(blind.threshold(share)))
    each = [own_foresight(*one) for one in zip(nats, stops, strict=True)]
    pooled = own_foresight([text for one in nats for text in one], np.concatenate(stops))
    return {**pooled, "each": [[*one["cut"], one["p_value"]] for one in each]}  # type: ignore[misc]


def bits_per_byte(texts: Texts, tokenizer: Tokenizer) -> float:
    """Of the text of genuine documents, their ends not counted."""
    size = sum(len(tokenizer.decode_bytes(ids)) for ids in texts.ids)
    return -float(np.concatenate(texts.logprob).sum()) / np.log(2) / size


def exactness(path: str, documents: Sequence[np.ndarray], eos_id: int) -> dict[str, float]:
    """Proof 6: the largest difference of p between cached decoding and full forward passes in fp32."""
    exact, _, _ = load_model(path, "fp32")
    texts = [ids[:EXACT_LENGTH] for ids in documents if ids.size >= EXACT_LENGTH][:EXACT_TEXTS]
    p = [np.exp(score_documents(exact, [ids], eos_id).logprob) for ids in texts]
    worst = {}
    for weights in ("fp32", "bf16", "int8"):
        model, _, _ = load_model(path, weights)
        worst[weights] = 0.0
        for ids, expected in zip(texts, p, strict=True):
            cache = model.new_cache(EXACT_LENGTH + 1)
            logits = model.prefill(cache, np.array([eos_id], np.int32)).astype(np.float64)
            for token_id, right in zip(ids.tolist(), expected, strict=True):
                mine = np.exp(logits - logits.max())
                worst[weights] = max(worst[weights], abs(mine[token_id] / mine.sum() - right))
                logits = model.decode(cache, token_id).astype(np.float64)
    return worst


def main() -> None:
    """The whole study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument(
        "--corpus", required=True, help="what the judge counts n-grams in: the training text"
    )
    parser.add_argument("--fresh", help="held-out documents beside TEXT that nothing was chosen by")
    parser.add_argument("--outside", nargs="*", default=[], help="texts of other kinds")
    parser.add_argument(
        "--texts",
        type=int,
        default=2048,
        help="that the model writes, to choose by and to judge by each",
    )
    args = parser.parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    cache = args.out_dir / "cache"
    cache.mkdir(exist_ok=True)
    began = time.monotonic()

    results: dict[str, object] = {}

    def tell(text: str) -> None:
        """What comes next; what is known so far is kept, in case that the rest takes too long."""
        sys.stderr.write(f"{time.monotonic() - began:6.0f} s  {text}\n")
        kept = json.dumps(results, indent=1, default=float)
        (args.out_dir / "results.json").write_text(kept + "\n", encoding="utf-8")

    model, tokenizer, _ = load_model(args.model)
    eos_id, V = tokenizer.eos_id, model.config.vocab_size
    if 1 << BITS < V:
        parser.error(f"the judge knows {1 << BITS:,} ids, but the model has {V:,}")
    documents = documents_of(args.text, tokenizer)
    even, odd = documents[0::2], documents[1::2]
    fresh = documents_of(args.fresh, tokenizer) if args.fresh else odd
    results |= {
        "documents": len(documents),
        "tokens": sum(map(len, documents)),
        "fresh_documents": len(fresh),
        "fresh_tokens": sum(map(len, fresh)),
        "texts": args.texts,
    }

    tell("the judge")
    judge = FiveGram(documents_of(args.corpus, tokenizer), eos_id)
    tell("texts of the model's own")
    choosing = write(model, eos_id, prompts_of(even, args.texts, 1), 10_000, cache / "choosing.npz")
    judging = write(model, eos_id, prompts_of(odd, args.texts, 2), 50_000, cache / "judging.npz")
    outside = {}
    for path in args.outside:
        lines = [line for line in Path(path).read_bytes().splitlines() if len(line) > 40]
        starts = prompts_of([tokenizer.encode(line) for line in lines], OUTSIDE_TEXTS, 3)
        outside[Path(path).stem] = write(
            model, eos_id, starts, 90_000, cache / f"{Path(path).stem}.npz"
        )
    genuine = read(model, eos_id, even), read(model, eos_id, odd)
    unseen = read(model, eos_id, fresh)
    results["bits_per_byte"] = bits_per_byte(unseen, tokenizer)

    tell("statistics, on what is there to choose by")
    nats = judge.nats(choosing.ids, V)
    results["judge"] = {
        "genuine": float(np.concatenate(judge.nats(documents, V)).mean()),
        "own": float(np.concatenate(nats).mean()),
    }
    rows = compare(choosing, nats, genuine[0], outside)
    results["statistics"] = rows
    intervals(
        args.out_dir / "statistics.svg",
        "What a rule cuts off is worse than what exchanged stops cut off",
        [(f"{row['statistic']}, {row['window']}", *row["cut"]) for row in rows],  # type: ignore[misc]
        f"nats per token under the 5-gram, {CHOSEN[2]:.0%} of the texts stopped",
    )

    tell("the chosen one, on what is there to judge by")
    statistic, window, share = CHOSEN
    threshold = depths_of(choosing, statistic, window).threshold(share)
    new = depths_of(judging, statistic, window)
    stop = new.stops(threshold)
    fresh_nats = judge.nats(judging.ids, V)
    results["own"] = {"threshold": threshold, **own_foresight(fresh_nats, stop)}
    results["own_repeats"] = own_foresight([repeated(ids) for ids in judging.ids], stop)
    curve = []
    for one in CURVE:
        at = depths_of(choosing, statistic, window).threshold(one)
        curve.append({"share": one, **own_foresight(fresh_nats, new.stops(at))})
    results["curve"] = curve
    curves(
        args.out_dir / "trade-off.svg",
        "Shorter and better: what a rule gains against exchanged stops",
        [
            ("cut off: worse by", [(1 - row["kept_share"], row["cut"][0]) for row in curve]),  # type: ignore[operator, index]
            ("kept: better by", [(1 - row["kept_share"], -row["kept"][0]) for row in curve]),  # type: ignore[operator, index]
        ],
        ("share of all tokens that is cut off", "nats per token"),
    )
    for name, read_texts in (
        ("genuine_odd", (genuine[1],)),
        ("genuine_fresh", (unseen,)),
        ("genuine_all", (*genuine, unseen) if args.fresh else genuine),
    ):
        fires = [depths_of(one, statistic, window).stops(threshold) for one in read_texts]
        nats_of_all = [-one for text in read_texts for one in text.logprob]
        results[name] = genuine_foresight(nats_of_all, np.concatenate(fires))
    results["outside"] = {
        name: float((depths_of(one, statistic, window).stops(threshold) >= 0).mean())
        for name, one in outside.items()
    }

    tell("promises: the shares that calibrated thresholds stop")
    calibration = next(
        event for event in calibrate(model, tokenizer, even) if isinstance(event, Calibration)
    )
    longest = GenerateConfig().max_tokens
    columns = (judging.ids, judging.logprob, judging.expected, judging.margin)
    short = Texts(*([one[:longest] for one in column] for column in columns))
    depths = depths_of(short, "expected log p", calibration.window)
    promises = []
    for name, at in calibration.thresholds.items():
        q, n = float(name), len(short.ids)
        error = 1.96 * float(np.sqrt(q * (1 - q) * (1 / n + 1 / calibration.samples)))
        promises.append([q, at, float((depths.stops(at) >= 0).mean()), q - error, q + error])
    results["promises"] = promises

    def stopped_share(texts: Texts) -> float:
        found = depths_of(texts, "expected log p", calibration.window)
        return float((found.stops(calibration.threshold) >= 0).mean())

    settings = {}
    for temperature, top_p in ((0.6, 0.95), (0.8, 0.95), (1.0, 0.95), (1.0, 1.0), (1.2, 1.0)):
        texts = write(
            *(
                model,
                eos_id,
                prompts_of(odd, 256, 4),
                120_000,
                cache / f"t{temperature}-{top_p}.npz",
            ),
            sampler=GenerateConfig(temperature=temperature, top_p=top_p),
            length=longest,
        )
        settings[f"temperature {temperature}, top-p {top_p}"] = stopped_share(texts)
    free = write(
        model, eos_id, np.empty((512, 0), np.int32), 150_000, cache / "free.npz", length=longest
    )
    settings["default, no prompt"] = stopped_share(free)
    results["settings"] = settings

    tell("an untrained model")
    blind_starts = [prompts_of(odd, 512, 5 + seed) for seed in range(UNTRAINED)]
    results["untrained"] = untrained_null(model, eos_id, blind_starts, judge, cache)

    tell("repetition")
    greedy = write(
        *(model, eos_id, prompts_of(odd, 200, 6), 190_000, cache / "greedy.npz"),
        sampler=GenerateConfig(temperature=0.0, repeat_penalty=1.0),
        length=model.config.max_seq_len - PROMPT - 1,
    )
    results["repetition"] = loops(greedy.ids, [*documents, *fresh] if args.fresh else documents)

    tell("exactness")
    results["exactness"] = exactness(args.model, odd, eos_id)

    tell("calibration")
    steps = confidence_report(model, fresh, eos_id, calibration)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            report = end.value
            break
    results["report"] = as_record(report)
    curves(
        args.out_dir / "reliability.svg",
        "How often the first choice came, by how sure the model was of it",
        [
            (name, [(one.confidence, one.accuracy) for one in found.bins])
            for name, found in (
                ("model p", report.plain),
                (f"temperature {report.calibrated.temperature:.3f}", report.calibrated),
            )
        ],
        ("confidence", "accuracy"),
        diagonal=True,
    )
    tell("done")


if __name__ == "__main__":
    main()
