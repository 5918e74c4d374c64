"""SLiM as a Python program uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib import resources
from pathlib import Path

import pytest

import slim
from slim import compute
from slim.errors import ConfigError, ModelFileError, UsageError
from slim.events import GenerateFinished, StepFinished, TokenGenerated, TrainFinished
from slim.kernels import sampling

ROOT = Path(slim.__file__).parent.parent
TINY = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> slim.Model:
    return slim.Model.load(tiny_model)


def test_the_names_are_there_and_no_others() -> None:
    assert set(slim.__all__) <= set(dir(slim))
    for name in slim.__all__:
        assert getattr(slim, name) is not None
    assert callable(slim.train)
    with pytest.raises(AttributeError, match="has no attribute 'Modle'"):
        slim.Modle  # noqa: B018
    assert resources.files(slim).joinpath("py.typed").is_file()


def test_train_stays_the_function_whatever_is_imported() -> None:
    code = "import slim, slim.cli.train, slim.run, slim.trainer\nassert slim.train.__module__ == 'slim.api'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_model_writes(model: slim.Model) -> None:
    *tokens, finished = model.generate("Once", max_tokens=5, seed=1, n_alternatives=2)
    assert isinstance(finished, GenerateFinished) and finished.tokens == len(tokens)
    assert all(isinstance(t, TokenGenerated) and len(t.alternatives) == 2 for t in tokens)
    assert model.write("Once", max_tokens=5, seed=1) == finished.text
    assert model.config.dim == 32 and "tiny.bin" in repr(model)
    with pytest.raises(ConfigError, match="max_tokens"):
        model.generate("Once", max_tokens=0)
    with pytest.raises(UsageError, match="shorten it"):
        list(model.generate("x" * 100))


def test_a_missing_model_is_an_error_of_slim(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be opened"):
        slim.Model.load(tmp_path / "missing.bin")


def test_the_engine_thread_does_the_work(
    model: slim.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads of a program generate at once; the kernels see one thread only."""
    seen = set()
    inner = sampling.measure_rows

    def measure_rows(*arguments: object) -> None:
        seen.add(threading.current_thread().name)
        inner(*arguments)

    monkeypatch.setattr(sampling, "measure_rows", measure_rows)
    texts: dict[int, str] = {}

    def write(seed: int) -> None:
        texts[seed] = model.write("ab", max_tokens=8, seed=seed)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert seen == {"slim-engine"}
    assert texts == {seed: model.write("ab", max_tokens=8, seed=seed) for seed in (1, 2)}


def test_whoever_stops_reading_ends_the_work(model: slim.Model) -> None:
    for event in model.generate("ab", max_tokens=50, seed=1):
        assert isinstance(event, TokenGenerated)
        break
    assert not compute.engine().jobs


def test_a_conversation(model: slim.Model, tmp_path: Path) -> None:
    chat = model.chat(max_tokens=4, seed=1)
    answer = chat.say("ab")
    assert [turn.text for turn in chat.turns] == ["ab", answer]
    assert 1 < chat.context_use.used <= chat.context_use.limit == 64
    chat.save(tmp_path / "talk.txt")
    list(chat.retry())
    list(chat.edit("cd"))
    assert chat.turns[0].text == "cd" and len(chat.turns) == 2
    chat.change(max_tokens=2)
    *_, finished = chat.reply("ef")
    assert isinstance(finished, GenerateFinished) and finished.tokens <= 2
    assert next(turn.text for turn in chat.undo()) == "ef"
    chat.load(tmp_path / "talk.txt")
    assert chat.turns[0].text == "ab"
    chat.clear()
    assert chat.turns == ()


def test_training_is_a_generator_of_events(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven\n" * 60, encoding="utf-8")
    out = tmp_path / "out.bin"
    events = list(slim.train(text, out, epochs=50, max_steps=3, **TINY))
    assert [event.step for event in events if isinstance(event, StepFinished)] == [1, 2, 3]
    assert isinstance(events[-1], TrainFinished) and events[-1].reason == "finished"
    assert slim.Model.load(out).config.dim == 32
    with pytest.raises(UsageError, match="exists"):
        list(slim.train(text, out))
    tuned = slim.train(text, tmp_path / "tuned.bin", base=out, max_steps=2)
    assert isinstance(list(tuned)[-1], TrainFinished)


def test_a_run_is_stopped_saved_and_gone_on_with(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven\n" * 60, encoding="utf-8")
    out, control = tmp_path / "out.bin", slim.RunControl()
    reason = ""
    for event in slim.train(text, out, epochs=50, max_steps=6, control=control, **TINY):
        if isinstance(event, StepFinished):
            control.stop = True
        elif isinstance(event, TrainFinished):
            reason = event.reason
    assert reason == "interrupted"
    events = list(slim.train(text, out, epochs=50, max_steps=6, resume=True, **TINY))
    assert isinstance(events[-1], TrainFinished) and events[-1].step == 6


def test_settings_that_make_no_sense_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        slim.train("text.txt", tmp_path / "out.bin", learning_rat=1e-3)
    for wrong in ({"command": "finetune"}, {"command": "pretrain", "base": "b"}, {"command": "x"}):
        with pytest.raises(UsageError, match="command must be"):
            slim.train("text.txt", tmp_path / "out.bin", **wrong)  # type: ignore[arg-type]


def test_the_script_in_demo_runs(tmp_path: Path) -> None:
    script = ROOT / "demo" / "from_python.py"
    if not script.is_file():
        pytest.skip("an installed package has no demo folder")
    done = subprocess.run(
        [sys.executable, str(script), "--steps", "3", "--bytes", "30000"],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "finished after 3 steps" in done.stdout and "bits/byte" in done.stdout
    assert "40 tokens, " in done.stdout and "assistant: " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_readme_says_it_as_it_is(tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("an installed package has no README")
    block = readme.read_text(encoding="utf-8").partition("    # from Python\n")[2]
    lines = block[: block.index("\n\nWhoever")].splitlines()
    code = "\n".join(line.removeprefix("    ") for line in lines)
    short = code.replace("epochs=20", "epochs=20, max_steps=2, dim=32, n_layers=1, n_heads=2")
    assert short != code
    (tmp_path / "notes.txt").write_text("one two three four five\n" * 60, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", short],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 50
