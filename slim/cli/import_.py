"""`slim import SRC OUT`: a Llama from Hugging Face or llama2.c as a model file of SLiM."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from slim.cli.lines import say
from slim.errors import UsageError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "import",
        help="bring in a model of another program",
        description="Read a Hugging Face directory of a Llama (config.json, safetensors, tokenizer.json) or a "
        "llama2.c checkpoint (version 0), and write it as a model file, which every command takes. Nothing "
        "in SRC is run; what cannot be computed here is refused by name.",
    )
    parser.add_argument("source", metavar="SRC", help="a directory, or a llama2.c .bin file")
    parser.add_argument("out", metavar="OUT", help="the model file to write")
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="of a llama2.c checkpoint (default: the tokenizer.bin beside it)",
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, and say what it is."""
    out, source = Path(args.out), Path(args.source)
    if os.path.lexists(out) and not args.force:
        raise UsageError(f"{out}: exists: add --force to replace it")
    if os.path.exists(out) and any(map(out.samefile, files_of(source, args.tokenizer))):
        raise UsageError(f"OUT must not replace SRC itself, which is {source}")
    if args.tokenizer is not None and os.path.isdir(source):
        raise UsageError("--tokenizer is for llama2.c checkpoints: a directory has its own")

    from slim.cli.stage import show_stages
    from slim.formats.import_model import Imported, import_model
    from slim.wording import mega

    for result in show_stages(import_model(source, out, args.tokenizer)):
        assert isinstance(result, Imported)
        config = result.config
        say(
            f"{out} is ready: {config.n_parameters:,} parameters, context {config.max_seq_len:,} tokens, "
            f"{mega(result.size_bytes)}"
        )
    return 0


def files_of(source: Path, tokenizer: str | None) -> list[Path]:
    """What an import reads, as far as it exists."""
    if os.path.isdir(source):
        paths = [source, *source.iterdir()]
    else:
        paths = [source, source.parent / "tokenizer.bin" if tokenizer is None else Path(tokenizer)]
    return [path for path in paths if os.path.exists(path)]
