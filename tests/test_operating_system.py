"""What one system has and another lacks: SLiM is importable on all of them, locks where it can, and stays off the net."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slim import operating_system

ROOT = Path(__file__).parents[1]
STORIES = ROOT / "demo" / "stories.txt"

# As on Windows: modules, flags and functions that are not there. Libraries may have them, so they are loaded before.
WITHOUT = """
import os, signal, sys
import numba, platformdirs, rich.live, asyncio, concurrent.futures, importlib.metadata, subprocess
try:
    import textual.app, textual.widgets, textual.containers
except ImportError:
    pass
for name in ("fcntl", "termios", "resource", "tty", "pty", "pwd", "grp", "readline", "curses"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "sched_getaffinity", "getuid", "geteuid",
             "fchmod", "fork", "pread", "pwrite", "sysconf", "mkfifo", "getloadavg"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGWINCH", "SIGTSTP", "SIGCONT", "SIGPIPE", "SIGALRM", "SIGUSR1", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
"""
IMPORT_ALL = """
import importlib, pkgutil, slim
names = [name for _, name, _ in pkgutil.walk_packages(slim.__path__, "slim.")]
for name in names:
    if not name.startswith("slim.bench.rivals") and name != "slim.__main__":
        importlib.import_module(name)
assert len(names) > 60
"""
USE = """
from slim import operating_system
from slim.compute import usable_cores
from slim.cli.stopping import StopRequest
assert operating_system.peak_memory_bytes() is None and usable_cores() >= 1
operating_system.lock(0)
with StopRequest():
    pass
assert [number.name for number in operating_system.STOP_SIGNALS] == ["SIGINT", "SIGTERM"]
"""

# Every way to a socket is an event of the interpreter's own audit, which no module can go round.
OFFLINE = """
import sys
def forbid(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(forbid)
from slim.cli import main
sys.exit(main(sys.argv[1:]))
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )


def test_every_module_is_importable_where_posix_is_missing() -> None:
    done = python(WITHOUT + IMPORT_ALL + USE)
    assert done.returncode == 0, done.stderr


def test_only_one_module_knows_what_is_missing_elsewhere() -> None:
    """`import fcntl` anywhere else would end SLiM on Windows before it could say a word."""
    missing = {"fcntl", "termios", "resource", "tty", "pty", "pwd", "grp"}
    found = set()
    for path in sorted((ROOT / "slim").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found |= {(path.name, name) for name in names if name in missing}
    assert found == {("operating_system.py", "fcntl"), ("operating_system.py", "resource")}
    assert "ModuleNotFoundError" in python(WITHOUT + "import fcntl").stderr, (
        "they are missing indeed"
    )


def test_no_socket_is_ever_opened(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "model.bin"
    text.write_bytes(STORIES.read_bytes()[:30_000])
    small = [
        *("--set", "dim=16", "--set", "n_layers=1", "--set", "n_heads=2", "--set", "hidden_dim=24"),
        *("--vocab-size", "280", "--seq-len", "32", "--batch-tokens", "128", "--max-steps", "4"),
    ]
    for command in (
        ("pretrain", text, 1, out, *small),
        ("finetune", out, text, 1, tmp_path / "tuned.bin", "--max-steps", 2, "--seq-len", 32),
        ("generate", out, "Once", 5),
        ("eval", out, text),
        ("info", out),
        ("tokenize", out, "Once"),
        ("doctor",),
    ):
        done = python(OFFLINE, *command)
        assert done.returncode == 0, done.stderr
    blocked = python(
        OFFLINE.replace("from slim.cli", "import socket; socket.socket()\nfrom slim.cli")
    )
    assert "RuntimeError: socket." in blocked.stderr


def test_locks_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    first, second = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    operating_system.lock(first)
    with pytest.raises(BlockingIOError):
        operating_system.lock(second)
    os.close(first)
    operating_system.lock(second)
    os.close(second)
    peak = operating_system.peak_memory_bytes()
    assert peak is None or 10e6 < peak < 1e12
