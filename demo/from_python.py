"""SLiM from Python: train a small model on the stories beside this file, let it write, and talk with it.

python demo/from_python.py                       about two minutes
python demo/from_python.py --steps 1000 --bytes 2000000
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import slim
from slim.events import EvalFinished, GenerateFinished, StepFinished, TokenGenerated, TrainFinished

STORIES = Path(__file__).parent / "stories.txt"


def main() -> None:
    """Train, write, talk."""
    parser = argparse.ArgumentParser(description="SLiM from Python.")
    parser.add_argument("--steps", type=int, default=300, help="updates to make")
    parser.add_argument("--bytes", type=int, default=1_000_000, help="of the stories to read")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stories.bin"
        train(out, args.steps, args.bytes)
        model = slim.Model.load(out)
        write(model)
        talk(model)


def train(out: Path, steps: int, n_bytes: int) -> None:
    """A model from the stories. Every event is a record with names: keep them, plot them, stop when you like."""
    events = slim.train(STORIES, out, epochs=100, preset="tiny", max_steps=steps, max_bytes=n_bytes)
    for event in events:
        match event:
            case StepFinished() if event.step % 50 == 0:
                print(
                    f"step {event.step}: loss {event.smoothed_loss:.3f}, {event.tokens_per_second:,.0f} tokens/s"
                )
            case EvalFinished():
                print(f"step {event.step}: {event.bits_per_byte:.3f} bits/byte on held-out text")
            case TrainFinished():
                print(f"{event.reason} after {event.step} steps")


def write(model: slim.Model) -> None:
    """A text, each token with the probability that the model gave it."""
    print(f"\n{model}")
    for event in model.generate("Once upon a time", max_tokens=40, seed=1):
        if isinstance(event, TokenGenerated):
            print(f"{event.text!r} {event.p:.0%}", end="  ")
        elif isinstance(event, GenerateFinished):
            print(f"\n{event.tokens} tokens, {event.tokens_per_second:,.0f} tokens/s")
    print(model.write("The fox", max_tokens=40, temperature=0.5, seed=1))


def talk(model: slim.Model) -> None:
    """A conversation. A model of stories does not answer: it tells what you began."""
    chat = model.chat(max_tokens=30, seed=1)
    chat.say("One day, a dog found")
    chat.say("Then the dog")
    for turn in chat.turns:
        print(f"{turn.role}: {turn.text.strip()}")


if __name__ == "__main__":
    main()
