"""Text from a model as events: tokens with their confidence, then the reason for the end."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from slim.calibration import Calibration
from slim.confidence import (
    PATIENCE,
    STATISTIC,
    WINDOW,
    LowConfidence,
    Repetition,
    TokenConfidence,
    expected_logprob,
    last_sentence_end,
    typical_p,
)
from slim.config import GenerateConfig
from slim.decoding import DrawnToken, draw_together, draw_tokens
from slim.errors import UsageError
from slim.events import Alternative, GenerateFinished, Note, TokenGenerated

if TYPE_CHECKING:
    from slim.model import Model
    from slim.tokenizer import Tokenizer


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | bytes | np.ndarray,
    config: GenerateConfig,
    calibration: dict[str, object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    n_alternatives: int = 0,
) -> Iterator[TokenGenerated | GenerateFinished | Note]:
    """Continue `prompt` by at most `config.max_tokens` tokens.

    Yields at most one Note, a TokenGenerated per token (an end-of-text token too, which has no
    text), and last a GenerateFinished. The texts of the tokens joined are what was streamed; its
    first `kept_characters` characters are the result, and only `low_confidence` cuts any off.
    prompt        a text, or ids (n,) int32 without the start mark: a text goes on exactly where they end
    calibration   the model file's record, which `stop_confidence="auto"` takes its threshold from
    should_stop   asked once per token; True ends the text as `interrupted`
    Raises UsageError for a prompt that fills the context.
    """
    yield from _generate(
        model, tokenizer, prompt, config, calibration, should_stop, n_alternatives, samples=None
    )


def generate_together(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | bytes,
    config: GenerateConfig,
    samples: int,
    calibration: dict[str, object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    n_alternatives: int = 0,
) -> Iterator[TokenGenerated | GenerateFinished | Note]:
    """Several texts that continue `prompt`, a token of each in turn; their events say which `sample` it is.

    Text i is what `generate` makes of the seed plus i. Together a token costs a fraction of the time.
    """
    yield from _generate(
        model, tokenizer, prompt, config, calibration, should_stop, n_alternatives, samples
    )


def _generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | bytes | np.ndarray,
    config: GenerateConfig,
    calibration: dict[str, object] | None,
    should_stop: Callable[[], bool] | None,
    n_alternatives: int,
    samples: int | None,
) -> Iterator[TokenGenerated | GenerateFinished | Note]:
    """One text (samples None) or several at once."""
    limit = model.config.max_seq_len
    ids = start_of_text(tokenizer, prompt, limit)
    first_seed = secrets.randbelow(2**31) if config.seed is None else config.seed
    capacity = min(limit, ids.size + config.max_tokens)
    never_penalized = tokenizer.end_ids
    texts = []
    for number in range(samples or 1):
        low_confidence, repetition, note = stop_rules(config, calibration)
        if note is not None and number == 0:
            yield note
        which = -1 if samples is None else number
        texts.append(
            GrowingText(
                tokenizer, config, limit, low_confidence, repetition, first_seed + number, which
            )
        )
    if isinstance(prompt, np.ndarray):
        for text in texts:
            text.read(prompt)
    drawn_tokens: Iterator[Sequence[DrawnToken]]
    if samples is None:
        cache = model.new_cache(capacity)
        drawn_tokens = zip(
            draw_tokens(
                *(model, cache, ids, config, first_seed, "generate"),
                never_penalized,
                n_alternatives,
            )
        )
    else:
        seeds = [text.seed for text in texts]
        drawn_tokens = draw_together(
            model, capacity, ids, config, seeds, "generate", never_penalized, n_alternatives
        )
    length = ids.size
    for drawn in drawn_tokens:
        interrupted = should_stop is not None and should_stop()
        for text, one in zip(texts, drawn, strict=True):
            if not text.finish_reason:
                yield text.push(one, length, interrupted)
                if text.finish_reason:
                    yield text.finished(ids.size - 1)
        if all(text.finish_reason for text in texts):
            break
        length += 1


class GrowingText:
    """A text that is being written: its characters, and the rules that end it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: GenerateConfig,
        limit: int,
        low_confidence: LowConfidence | None,
        repetition: Repetition | None,
        seed: int,
        sample: int = -1,
        ends: Collection[int] = (),
    ) -> None:
        """ends: ids that end the text as its end-of-text token does"""
        self.seed = seed
        self.finish_reason = ""
        self._tokenizer = tokenizer
        self._ends = {*tokenizer.end_ids, *ends}
        self._max_tokens = config.max_tokens
        self._limit = limit
        self._low_confidence = low_confidence
        self._repetition = repetition
        self._vocab_size = tokenizer.vocab_size
        self._sample = sample
        self._decoder = tokenizer.stream()
        self._stops = StopStrings(config.stop)
        self._streamed = ""
        # Where in `_streamed` each of the last tokens begins.
        self._starts: deque[int] = deque(maxlen=WINDOW)
        self._logprobs: list[float] = []
        self._began = self._first_at = self._last_at = time.perf_counter()

    def read(self, ids: np.ndarray) -> None:
        """Go on after these ids: their last character may still lack bytes."""
        for token_id in ids.tolist():
            self._decoder.push(token_id)

    def push(self, drawn: DrawnToken, length: int, interrupted: bool) -> TokenGenerated:
        """The event of the next token, before which the cache holds `length`; then see `finish_reason`."""
        self._last_at = time.perf_counter()
        index = len(self._logprobs)
        if index == 0:
            self._first_at = self._last_at
        stops, logprob = self._stops, drawn.confidence.logprob
        self._logprobs.append(logprob)
        self._starts.append(len(self._streamed))
        text = stops.push(self._decoder.push(drawn.token_id))
        # Each rule sees each token, whichever of them ends the text.
        expected = expected_logprob(drawn.confidence.entropy, self._vocab_size)
        unsure = self._low_confidence is not None and self._low_confidence.push(expected)
        looping = self._repetition is not None and self._repetition.push(drawn.token_id)
        if drawn.token_id in self._ends:
            self.finish_reason = "eos"
        elif stops.found:
            self.finish_reason = "stop_string"
        elif looping:
            self.finish_reason = "repetition"
        elif unsure:
            self.finish_reason = "low_confidence"
        elif index + 1 == self._max_tokens:
            self.finish_reason = "length"
        elif length >= self._limit:
            self.finish_reason = "context"
        elif interrupted:
            self.finish_reason = "interrupted"
        if self.finish_reason and not stops.found:
            text += stops.push(self._decoder.flush()) + stops.flush()
        self._streamed += text
        return token_event(self._tokenizer, index, drawn, text, self._sample)

    def finished(self, prompt_tokens: int) -> GenerateFinished:
        """The last event."""
        kept = len(self._streamed)
        unsure = self.finish_reason == "low_confidence"
        if unsure:
            kept = last_sentence_end(self._streamed, self._starts[0]) or kept
        typical = typical_p(self._logprobs)
        # The first token carries the prefill (and a cold start's compilation): speed is the others'.
        timed, seconds = len(self._logprobs) - 1, self._last_at - self._first_at
        if timed == 0:
            timed, seconds = 1, self._last_at - self._began
        return GenerateFinished(
            finish_reason=self.finish_reason,
            text=self._streamed[:kept],
            tokens=len(self._logprobs),
            prompt_tokens=prompt_tokens,
            tokens_per_second=timed / max(seconds, 1e-9),
            typical_p=typical,
            perplexity=min(1.0 / typical, 1e300) if typical > 0.0 else 0.0,
            seed=self.seed,
            kept_characters=kept,
            own_share=self._low_confidence.own_share if unsure and self._low_confidence else None,
            sample=self._sample,
        )


def in_words(event: GenerateFinished) -> str:
    """Why the text ended, for a person."""
    words = {
        "eos": "the text came to its end",
        "stop_string": "stopped: a stop string came up",
        "length": "stopped: as many tokens as asked for",
        "context": "stopped: the context is full",
        "low_confidence": f"stopped: unsure for {WINDOW} tokens{_rarity(event.own_share)}",
        "repetition": "stopped: it repeats itself",
        "interrupted": "interrupted",
    }
    return words[event.finish_reason]


def _rarity(own_share: float | None) -> str:
    if own_share is None:
        return ""
    return f", less sure than in {1.0 - own_share:.0%} of its own texts".replace("%", " %")


def start_of_text(tokenizer: Tokenizer, prompt: str | bytes | np.ndarray, limit: int) -> np.ndarray:
    """`<|endoftext|>` and the prompt's ids, (n,) int32: documents in training begin like this."""
    ids = prompt if isinstance(prompt, np.ndarray) else tokenizer.encode(prompt)
    if ids.size >= limit:
        raise UsageError(
            f"the prompt has {ids.size:,} tokens but the model reads at most {limit - 1:,}: "
            "shorten it"
        )
    return np.concatenate(([tokenizer.start_id], ids)).astype(np.int32)


def stop_rules(
    config: GenerateConfig, calibration: dict[str, object] | Calibration | None
) -> tuple[LowConfidence | None, Repetition | None, Note | None]:
    """The rules of `stop_confidence`: none for "off", else both where a threshold is known."""
    if config.stop_confidence == "off":
        return None, None, None
    known = usable_calibration(calibration)
    if config.stop_confidence != "auto":
        threshold = float(config.stop_confidence)
        share = None if known is None else known.share_at(threshold)
    elif known is not None:
        threshold, share = known.threshold, known.share
    else:
        note = Note(
            "this model has no confidence calibration, so only loops end the text early: make one with "
            "slim calibrate MODEL DATA, or give a threshold, such as -3.5 (--stop-confidence, in the dashboard: unsure)",
            level="warning",
        )
        return None, Repetition(), note
    rule = LowConfidence(threshold, min_tokens=config.min_tokens, own_share=share)
    return rule, Repetition(), None


def usable_calibration(record: dict[str, object] | Calibration | None) -> Calibration | None:
    """The calibration of a model file, None where there is none, or one of another rule than today's."""
    known = record if isinstance(record, Calibration) else Calibration.from_record(record)
    rule = (STATISTIC, WINDOW, PATIENCE)
    if known is None or (known.statistic, known.window, known.patience) != rule:
        return None
    return known


class StopStrings:
    """Ends a text before the first stop string, and holds back what may become one.

    `push` returns the text that is free to be shown; how a text is cut into pushes does not matter.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.found = False
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece of text; after a stop string nothing comes out any more."""
        if not self._stops or self.found:
            return "" if self.found else text
        self._held += text
        # (end, start) of each stop's first place: the one complete first wins, of two the longer.
        places = [
            (at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0
        ]
        if places:
            self.found = True
            free = min(places)[1]
        else:
            free = len(self._held) - max(self._overlap(stop) for stop in self._stops)
        out, self._held = self._held[:free], self._held[free:]
        return out

    def flush(self) -> str:
        """What is still held back at the end of a text; nothing if that is a stop string."""
        out, self._held = "" if self.found else self._held, ""
        return out

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if stop.startswith(self._held[-length:]):
                return length
        return 0


def token_event(
    tokenizer: Tokenizer, index: int, drawn: DrawnToken, text: str, sample: int = -1
) -> TokenGenerated:
    """What is known of a token, for everybody who shows it."""
    seen: TokenConfidence = drawn.confidence
    return TokenGenerated(
        index=index,
        token_id=drawn.token_id,
        text=text,
        logprob=seen.logprob,
        p=seen.p,
        p_sampled=drawn.p_sampled,
        entropy=seen.entropy,
        rank=seen.rank,
        margin=seen.margin,
        sample=sample,
        alternatives=tuple(
            Alternative(token_id, token_text(tokenizer, token_id), p)
            for token_id, p in seen.alternatives
        ),
    )


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """One token for display: a special token by its name, a part of a character as U+FFFD."""
    for name, special_id in tokenizer.special_tokens.items():
        if special_id == token_id:
            return name
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")
