"""`slim export MODEL OUT`: a model for transformers, llama.cpp, Ollama or llama2.c."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slim.cli.lines import say
from slim.errors import UsageError

if TYPE_CHECKING:
    from slim.events import Note, Progress

FORMATS = ("hf", "gguf", "llama2c")
DTYPES = ("f32", "f16", "bf16", "q8_0")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "export",
        help="write a model for other programs",
        description="Write MODEL as a Hugging Face directory (hf), a GGUF file with a Modelfile for Ollama "
        "(gguf), or a llama2.c checkpoint with its tokenizer.bin (llama2c). Without --to the name of OUT "
        "decides: .gguf, .bin, else a directory.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file; it stays as it is")
    parser.add_argument("out", metavar="OUT", help="the file or directory to write")
    parser.add_argument("--to", choices=FORMATS, help="the format (default: by the name of OUT)")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="f32",
        help="of the matrices (default f32); q8_0: GGUF only",
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and say what to do with it."""
    kind = args.to or format_of(args.out)
    for path in results(kind, args.out):
        if os.path.lexists(path) and not args.force:
            raise UsageError(f"{path}: exists: add --force to replace it")
        if os.path.realpath(path) == os.path.realpath(args.model):
            raise UsageError(f"OUT must not replace MODEL itself, which is {args.model}")

    from slim.cli.stage import show_stages

    def events() -> Iterator[Progress | Note]:
        from slim.formats.gguf import export_gguf
        from slim.formats.hf import export_hf
        from slim.formats.llama2c import export_llama2c
        from slim.formats.stored_model import read_stored_model

        write = {"hf": export_hf, "gguf": export_gguf, "llama2c": export_llama2c}[kind]
        model = yield from read_stored_model(args.model)
        yield from write(model, args.out, args.dtype)

    for _ in show_stages(events()):
        pass
    say(f"{args.out} is ready: {NEXT[kind]}")
    return 0


NEXT = {
    "hf": "transformers opens it with AutoModelForCausalLM.from_pretrained",
    "gguf": "llama.cpp runs it, and so does Ollama with the Modelfile beside it",
    "llama2c": "llama2.c's run.c runs it with -z and the tokenizer.bin beside it",
}


def format_of(out: str) -> str:
    """The format that a name asks for."""
    return {".gguf": "gguf", ".bin": "llama2c"}.get(Path(out).suffix.lower(), "hf")


def results(kind: str, out: str) -> list[Path]:
    """The paths that an export writes."""
    path = Path(out)
    beside = {"gguf": ["Modelfile"], "llama2c": ["tokenizer.bin"], "hf": []}[kind]
    return [path, *(path.parent / name for name in beside)]
