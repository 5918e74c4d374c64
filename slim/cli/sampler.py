"""The options that say how text is drawn and when it ends, for every command that writes text."""

from __future__ import annotations

import argparse
import contextlib

from slim.config import GenerateConfig

DEFAULTS = GenerateConfig()


def add_sampler_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Describe them to argparse; the group of those that concern the draw."""
    sampler = parser.add_argument_group("sampler")
    for flag, metavar, kind, field, text in (
        ("--temp", "T", float, "temperature", "temperature; 0 takes the most probable token"),
        ("--top-k", "K", int, "top_k", "draw from the K most probable tokens; 0: off"),
        ("--top-p", "P", float, "top_p", "draw from the fewest tokens that hold P together; 1: off"),
        (
            "--min-p",
            "P",
            float,
            "min_p",
            "leave out what is less than P times as probable as the best; 0: off",
        ),
        (
            "--repeat-penalty",
            "X",
            float,
            "repeat_penalty",
            f"above 1: make the last {DEFAULTS.repeat_window} tokens less probable; 1: off",
        ),
    ):
        default = getattr(DEFAULTS, field)
        sampler.add_argument(
            flag,
            metavar=metavar,
            dest=field,
            type=kind,
            default=default,
            help=f"{text} (default {default:g})",
        )
    sampler.add_argument(
        "--seed", metavar="S", type=int, help="of the draw (default random, and reported)"
    )
    ending = parser.add_argument_group("when the text ends")
    ending.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; \\n is a line break; may be given several times",
    )
    ending.add_argument(
        "--stop-confidence",
        default=DEFAULTS.stop_confidence,
        metavar="off|auto|FLOAT",
        help="end where the model is lost (over 24 tokens, the log p that it expects of its next token stays below "
        "FLOAT, such as -3.5; auto: below what its calibration says) or goes in circles (default off)",
    )
    ending.add_argument(
        "--min-tokens",
        metavar="N",
        type=int,
        default=DEFAULTS.min_tokens,
        help=f"tokens that a lost model writes at least (default {DEFAULTS.min_tokens})",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "fp32", "bf16", "int8"),
        default="auto",
        help="how exactly the weights are read: int8 is the fastest (default auto: bf16 where the CPU multiplies it)",
    )
    return sampler


def generate_config(args: argparse.Namespace, max_tokens: int) -> GenerateConfig:
    """What the options ask for; ConfigError for values that make no sense."""
    return GenerateConfig(
        max_tokens=max_tokens,
        stop=tuple(stop.replace("\\n", "\n") for stop in args.stop),
        stop_confidence=confidence_rule(args.stop_confidence),
        **{
            name: getattr(args, name)
            for name in (
                *("temperature", "top_k", "top_p", "min_p"),
                *("repeat_penalty", "seed", "min_tokens"),
            )
        },
    )


def confidence_rule(text: str) -> str | float:
    """off, auto, or a number; what is none of these is for GenerateConfig to refuse."""
    if text not in ("off", "auto"):
        with contextlib.suppress(ValueError):
            return float(text)
    return text
