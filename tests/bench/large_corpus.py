"""From a large text file to the first training step, next to what `tokenizers` needs to encode that text.

    python tests/bench/large_corpus.py DOCUMENTS [--megabytes 1000] [--steps 1] [--rounds 1] [--folder FOLDER] [--no-rival]

The file is made of the documents of DOCUMENTS (split at `<|endoftext|>`), in a new random order each time they come
round, and deleted at the end. `slim pretrain` reads it in a process of its own, which is ended after so many steps:
the clock runs from its start to its first step, its peak memory is the kernel's. Then `tokenizers`, in a process of
its own on all cores, encodes the same file with the vocabulary that SLiM built; only its encoding is timed, neither
the import nor reading and splitting the file. Where the machine has other work, compare the seconds of CPU (the
rival's with import and reading, which are small beside it). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from slim.model_file import open_source

SEPARATOR = b"<|endoftext|>"

# Texts are handed over a few megabytes at a time, as one would to keep memory in bounds; ids are what is wanted.
RIVAL = """
import json, os, sys, time
from tokenizers import Tokenizer, __version__

tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.encode_special_tokens = True
seconds, tokens, rest = 0.0, 0, b""

def encode(documents):
    global seconds, tokens
    texts = [document.decode() for document in documents if document.strip()]
    began = time.perf_counter()
    tokens += sum(len(e.ids) for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    seconds += time.perf_counter() - began

with open(sys.argv[2], "rb") as file:
    while chunk := file.read(2**24):
        *documents, rest = (rest + chunk).split(b"<|endoftext|>")
        encode(documents)
encode([rest])
cpu = sum(os.times()[:2])
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "tokens": tokens, "version": __version__}))
"""


def write_text(path: Path, documents: list[bytes], size: int) -> int:
    """Documents in random order, round after round, until the file has `size` bytes; how many."""
    draw, written, count = random.Random(1), 0, 0
    with path.open("wb") as file:
        while written < size:
            draw.shuffle(documents)
            for document in documents:
                written += file.write(document + SEPARATOR)
                count += 1
                if written >= size:
                    break
    return count


def train(text: Path, out: Path, steps: int) -> dict[str, object]:
    """Start `slim pretrain`, end it after so many steps: seconds to the first one, peak memory, what it said."""
    command = [sys.executable, "-m", "slim", "pretrain", text, "1", out, "--force", "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    stages: dict[str, float] = {}
    notes, done, first, cpu = [], 0, 0.0, 0.0
    for line in process.stdout:
        event, passed = json.loads(line), time.perf_counter() - began
        if event["event"] == "progress":
            stages[event["stage"]] = passed
        elif event["event"] == "note":
            notes.append(event["text"])
        elif event["event"] == "step_finished":
            if done == 0:
                first, cpu = passed, sum(psutil.Process(process.pid).cpu_times()[:2])
            done += 1
            if done == steps:
                process.send_signal(signal.SIGTERM)  # it saves: its vocabulary is needed
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 143
    if done < steps:
        sys.exit(f"slim pretrain ended after {done} steps")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": first,
        "cpu_seconds": cpu,
        "peak_bytes": usage.ru_maxrss * unit,
        "stages": {name: round(at, 2) for name, at in stages.items()},
        "notes": notes,
    }


def encode(text: Path, vocabulary: Path) -> dict[str, float]:
    """What the rival needs to encode the file."""
    done = subprocess.run(
        [sys.executable, "-c", RIVAL, str(vocabulary), str(text)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Make the file, run both, tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("documents", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-rival", action="store_true")
    options = parser.parse_args()
    parts = options.documents.read_bytes().split(SEPARATOR)
    documents = [part for part in parts if part.strip()]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="slim-bench-") as folder:
        text, out = Path(folder, "text.txt"), Path(folder, "m.bin")
        count = write_text(text, documents, 1_000_000 * options.megabytes)
        size = text.stat().st_size
        print(f"{size:,} bytes in {count:,} documents, {os.cpu_count()} cores")
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(train(text, out, options.steps))
            print(f"slim: {ours[-1]}", flush=True)
            if not options.no_rival:
                vocabulary = Path(folder, "tokenizer.json")
                with open_source(f"{out}.run/last") as source:
                    vocabulary.write_text(source.tokenizer.to_json(), encoding="utf-8")
                theirs.append(encode(text, vocabulary))
                print(f"tokenizers: {theirs[-1]}", flush=True)
    result: dict[str, object] = {
        "bytes": size,
        "documents": count,
        "first_step_seconds": statistics.median(one["seconds"] for one in ours),  # type: ignore[type-var]
        "peak_bytes": max(one["peak_bytes"] for one in ours),  # type: ignore[type-var]
    }
    if theirs:
        seconds = statistics.median(one["seconds"] for one in theirs)
        result["tokenizers_seconds"] = seconds
        result["first_step_cpu_seconds"] = statistics.median(one["cpu_seconds"] for one in ours)  # type: ignore[type-var]
        result["tokenizers_cpu_seconds"] = statistics.median(one["cpu_seconds"] for one in theirs)
        result["ratio"] = seconds / result["first_step_seconds"]  # type: ignore[operator]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
