"""`slim chat` from a pipe and on a pseudo-terminal: what goes where, every command, every mistake."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slim.cli import main
from slim.cli.chat_input import MessageReader
from slim.cli.chat_settings import ChatSettings
from slim.config import GenerateConfig
from slim.errors import ConfigError, UsageError
from slim.model_file import load_model, model_metadata, save_model

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, which says of itself that it was trained on conversations."""
    model, tokenizer, _ = load_model(tiny_model)
    path = tmp_path_factory.mktemp("chat") / "chat.bin"
    history: list[dict[str, object]] = [{"command": "finetune", "chat": True}]
    save_model(path, model.parameters, model_metadata(model.config, tokenizer, history))
    return path


class Stdin(io.TextIOWrapper):
    """What another program writes."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(io.BytesIO(text.encode() if isinstance(text, str) else text))


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: Captured):  # type: ignore[no-untyped-def]
    """Run `slim chat` in this process with lines on stdin; exit code, stdout, stderr."""

    def run(model: Path, text: str | bytes, *options: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", Stdin(text))
        words = [str(option) for option in options]
        code = main(["chat", str(model), "--max-tokens", "4", "--seed", "1", *words])
        return code, *capsys.readouterr()

    return run


def test_a_pipe_gets_replies_on_stdout_and_the_rest_on_stderr(talk, tiny_model: Path) -> None:
    code, out, err = talk(tiny_model, "ab\n\ncd\n")
    assert code == 0
    assert err.count("this model was not trained on conversations") == 1
    assert err.count("tokens/s, typical p") == 2 and "; context 14 of 64" in err
    code, quiet, err = talk(tiny_model, "ab\n\ncd\n", "-q")
    assert (code, quiet, err) == (0, out, "")


def test_the_same_seed_says_the_same(talk, chat_model: Path) -> None:
    first, second = (talk(chat_model, "hello\nyou?\n", "-q") for _ in range(2))
    assert first == second and first[0] == 0


def test_json_is_one_object_per_line(talk, tiny_model: Path) -> None:
    code, out, err = talk(tiny_model, "ab\n/nonsense\n/stats\n", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 2 and out.isascii() and "1 reply since" in err
    types = [record["type"] for record in records]
    assert types == ["note", *["token"] * 4, "finish", "error"]
    finish = records[5]
    assert finish["text"] == "".join(record["text"] for record in records[1:5])
    assert list(finish) == [
        *("type", "finish_reason", "tokens", "tokens_per_second", "typical_p", "perplexity"),
        *("seed", "kept_characters", "own_share", "text", "context_used", "context_limit"),
        "turns_left",
    ]
    assert (finish["context_used"], finish["context_limit"]) == (7, 64)


def test_commands_change_the_conversation(talk, chat_model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.txt"
    lines = f"one\n/retry\n/edit two\n/save {saved}\nthree\n/save\n/undo\n/stats\n/clear\n/stats\n"
    code, _, err = talk(chat_model, lines)
    assert code == 0
    text = saved.read_text(encoding="utf-8")
    assert text.startswith("User: two\n") and "\nUser: three\n" in text and "one" not in text
    assert 'taken back: "three"' in err
    assert "\n2 turns, 7 tokens; context" in err and "\n0 turns, 0 tokens; context 1 of 64" in err
    assert "4 replies since the start, 16 tokens" in err
    code, _, err = talk(chat_model, f"/load {saved}\n/stats\n")
    assert code == 0 and "4 turns; the model said last:" in err


def test_turns_that_leave_are_told_after_the_reply(
    talk, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    told = io.StringIO()
    monkeypatch.setattr(sys, "stdout", told)
    monkeypatch.setattr(sys, "stderr", told)
    code, _, _ = talk(tiny_model, "aa\nbb\n", "--max-tokens", 40, "--min-tokens", 40)
    lines = told.getvalue().splitlines()
    assert code == 0 and any("the oldest 2 turns" in line for line in lines)
    assert all(line.startswith("the context") for line in lines if "turns leave it" in line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/sav x", "there is no command /sav (did you mean save?)"),
        ("/retry", "there is nothing to write again yet"),
        ("/undo", "there is nothing to take back yet"),
        ("/edit", "/edit needs the text"),
        ("/save", "/save needs a file"),
        ("/save talk.txt", "there is nothing to save yet"),
        ("/save {model}", "exists: choose another name"),
        ("/load", "/load needs the file"),
        ("/load {model}", "is a safetensors file, not a transcript"),
        ("/load missing.txt", "missing.txt: cannot be opened"),
        ("/load ~nobody-of-this-name/x", "cannot be opened"),
        ("/save " + "x" * 300, "there is nothing to save yet"),
        ("/set temp", "/set temp needs a value"),
        ("/set temp hot", "temperature must be a number from 0 to 100, but is 'hot'"),
        ("/set colour on", "there is no setting 'colour'"),
        ("/set tempp 1", "there is no setting 'tempp' (did you mean temp?)"),
        ("x" * 70, "the message has 72 tokens but the model reads at most 61: shorten it"),
    ],
)
def test_a_mistake_is_a_line_and_the_conversation_goes_on(
    talk, chat_model: Path, line: str, words: str
) -> None:
    code, out, err = talk(chat_model, line.format(model=chat_model) + "\nab\n")
    errors = [text for text in err.splitlines() if text.startswith("slim: error: ")]
    assert len(errors) == 1 and words in errors[0]
    assert code in (2, 3) and out != "" and "tokens/s" in err


def test_settings_are_shown_and_read() -> None:
    settings = ChatSettings(GenerateConfig(), "off")
    for name, value in (
        *(("temp", "0.5"), ("top-k", "40"), ("seed", "random"), ("stop", "END\\n")),
        *(("stop_confidence", "-3"), ("confidence", "plain"), ("max_tokens", "9")),
    ):
        settings.set(name, value)
    assert settings.config == GenerateConfig(
        temperature=0.5, top_k=40, stop=("END\n",), stop_confidence=-3.0, max_tokens=9
    )
    assert settings.confidence == "plain"
    lines = settings.lines()
    assert "seed             random" in lines and "stop             'END\\n'" in lines
    settings.set("stop", "none")
    assert settings.config.stop == ()
    before = settings.config
    for name, value, error in (
        *(("top_k", "x", ConfigError), ("max_tokens", "0", ConfigError)),
        *(("confidence", "loud", UsageError), ("nothing", "1", UsageError)),
    ):
        with pytest.raises(error):
            settings.set(name, value)
    assert settings.config == before


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("a\nb", ["a", "b"]),
        ("a\\\nb\\\r\nc\r\nd\n", ["a\nb\\", "c", "d"]),
        ('"""one\ntwo"""\nthree\n', ["one\ntwo", "three"]),
        ('"""one"""\n', ["one"]),
        ('  """\none\n\n  two\n"""  \n', ["\none\n\n  two\n"]),
        ('"""never\nended', ["never\nended"]),
        ("ends\\", ["ends"]),
        (b"\xff\n", ["\udcff"]),
        ("", []),
    ],
)
def test_messages_of_several_lines(
    monkeypatch: pytest.MonkeyPatch, text: str | bytes, messages: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(text))
    reader, found = MessageReader(), []
    while (message := reader.read()) is not None:
        found.append(message)
    if "\r" in str(text):  # the end of a line is taken off before the backslash is looked at
        messages = ["a\nb\nc", "d"]
    assert found == messages


def test_a_line_that_never_ends_is_refused_and_the_next_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("slim.cli.chat_input.LONGEST_LINE", 10)
    monkeypatch.setattr(sys, "stdin", Stdin("x" * 35 + "\nnext\n"))
    reader = MessageReader()
    with pytest.raises(UsageError, match="longer than 10 bytes"):
        reader.read()
    assert reader.read() == "next"


def test_a_reply_cannot_command_the_terminal(talk, chat_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "talk.txt"
    path.write_text("User: a\nAssistant: \x1b[2Jgone\n", encoding="utf-8")
    _, out, err = talk(chat_model, f"/load {path}\n")
    assert "\x1b" not in out + err and "␛[2Jgone" in err


def test_two_slashes_are_one_said(talk, chat_model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.txt"
    assert talk(chat_model, f"//help\n/save {saved}\n")[0] == 0
    assert saved.read_text(encoding="utf-8").startswith("User: /help\n")


# ---- on a terminal -----------------------------------------------------------------------------------------------


class Terminal:
    """`slim chat` on a pseudo-terminal."""

    def __init__(self, *arguments: object) -> None:
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PYTHON_BASIC_REPL": "1"}
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slim", "chat", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.unread = ""

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, words: str, seconds: float = 60.0) -> None:
        """Read until the words have come, after those that were waited for before."""
        deadline = time.monotonic() + seconds
        while words not in self.unread:
            left = deadline - time.monotonic()
            assert left > 0, f"{words!r} did not come, but {self.unread!r}"
            if select.select([self._master], [], [], min(left, 0.5))[0]:
                with contextlib.suppress(OSError):  # Linux: the other end is closed
                    self.unread += os.read(self._master, 4096).decode(errors="replace")
        self.unread = self.unread[self.unread.index(words) + len(words) :]

    def reply(self) -> None:
        """Wait for the end of a reply and for the next line, which is edited only from then on."""
        self.wait_for("; context")
        self.wait_for("> ")

    def interrupt(self, words: str) -> None:
        """Ctrl-C, again if need be: one that comes while readline draws a letter is seen with the next key only."""
        for _ in range(20):
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                return self.wait_for(words, seconds=0.5)
        raise AssertionError(f"{words!r} did not come")

    def close(self) -> int:
        try:
            return self.process.wait(timeout=60)
        finally:
            os.close(self._master)


@pytest.fixture
def terminal(chat_model: Path) -> Iterator[Terminal]:
    started = Terminal(chat_model, "--seed", 1)
    started.wait_for("> ")
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.close()


def test_ctrl_c_ends_a_reply_and_not_the_program(terminal: Terminal) -> None:
    terminal.send("/set max_tokens 3\nab\n")
    terminal.reply()
    terminal.send("half a line")
    terminal.wait_for("half a line")
    terminal.interrupt("Ctrl-D or /quit leaves")
    terminal.wait_for("> ")
    terminal.send("cd\n")
    terminal.reply()
    terminal.send("/undo\n")
    terminal.wait_for('taken back: "cd"')
    terminal.wait_for("> ")
    terminal.send("\x04")
    assert terminal.close() == 0


def test_a_line_comes_back_and_can_be_edited(terminal: Terminal) -> None:
    terminal.send("/set max_tokens 3\nfirst\n")
    terminal.reply()
    terminal.send("\x1b[A\x7f\x7fX\n")  # the line before, without its last two letters
    terminal.reply()
    terminal.send("/undo\n")
    terminal.wait_for('taken back: "firX"')
    terminal.wait_for("> ")
    terminal.send("/edit\n")
    terminal.wait_for("> first")
    terminal.send("Y\n")
    terminal.reply()
    terminal.send("/undo\n/quit\n")
    terminal.wait_for('taken back: "firstY"')
    assert terminal.close() == 0


def test_a_signal_during_a_reply_keeps_the_partial_one(
    chat_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """In this process, so that the signal comes at a known token."""
    from slim.chat import Chat

    asked = 0
    inner = Chat.reply

    def reply(self, text, should_stop):  # type: ignore[no-untyped-def]
        nonlocal asked
        for event in inner(self, text, should_stop):
            asked += 1
            if asked == 3:
                os.kill(os.getpid(), signal.SIGINT)
                while not should_stop():
                    time.sleep(0.01)
            yield event

    monkeypatch.setattr(Chat, "reply", reply)
    monkeypatch.setattr(sys, "stdin", Stdin("ab\n/stats\n"))
    monkeypatch.setattr(MessageReader, "interactive", True, raising=False)
    monkeypatch.setattr(
        MessageReader,
        "__init__",
        lambda self: self.__dict__.update(interactive=True, _readline=None),
    )
    assert main(["chat", str(chat_model), "--max-tokens", "30", "--seed", "1"]) == 0
    err = capsys.readouterr().err
    assert "; interrupted; context" in err and "2 turns, " in err


def test_a_signal_ends_a_piped_conversation(chat_model: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "slim", "chat", str(chat_model), "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    while json.loads(process.stdout.readline())["type"] != "finish":
        pass
    process.send_signal(signal.SIGINT)  # it waits for a line
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in err
