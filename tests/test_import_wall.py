"""The house has floors: a module may import from its own floor and from those below, never from above.

Also here: what no module may do at all, and what importing the command line may cost.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import slim

PACKAGE = Path(slim.__file__).parent

# DESIGN: from the top of the house to its ground. A new module is given its floor here.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"tui"},
    {"bench"},
    {"api"},
    {"run"},
    {"training_run", "run_checkpoint", "plan"},
    {"run_samples"},
    {"chat", "score"},
    {"trainer", "generate"},
    {"calibrate", "confidence_report"},
    {"foresight"},
    {"reliability"},
    {"scoring"},
    {"evaluate", "formats", "model_file"},
    {"model", "parameters", "optim", "data", "corpus", "token_files", "kv_cache", "decoding"},
    {"run_record"},
    {"checkpoint", "run_directory"},
    {"conversation", "records"},
    {"imported_encoder", "imported_tokenizer"},
    {"tokenizer", "text_encoder", "vocabulary", "word_table", "sampling", "calibration", "shades"},
    {"confidence"},
    {"compiling"},
    {"compute"},
    {"kernels"},
    {"aligned"},
    {
        *("config", "settings", "events", "errors", "request", "recipe", "memory"),
        *("safe_text", "demo_text", "demo_recipe", "input_file", "atomic_file", "operating_system"),
        *("run_state", "wording", "text_stream", "text_files"),
        *("loss_plot", "strict_json", "pair_merging"),
    },
]
# Programs of their own, which `slim bench --against` starts in another process: they measure other people's libraries,
# answer on stdout, know nothing of SLiM, and nothing of SLiM imports them.
RIVALS = "slim.bench.rivals."
STRANGERS = {"trainer": {"generate", "chat"}, "generate": {"trainer"}, "chat": {"trainer"}}
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
STANDARD_ONLY = FLOORS[-1]


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Dotted name, room of the house and syntax tree of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in ("slim", *parts) if part != "__init__")
        room = parts[0] if parts[0] != "__init__" else ""
        yield name, room, ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = list(modules())
parametrized = pytest.mark.parametrize(
    ("name", "room", "tree"), MODULES, ids=[name for name, _, _ in MODULES]
)


def imports(tree: ast.AST, module: str = "slim") -> Iterator[str]:
    """Dotted names of all that is imported anywhere in the tree, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written out, not relative"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(tree: ast.AST) -> set[str]:
    """The rooms of the house that a tree imports."""
    found = set()
    for dotted in imports(tree):
        parts = dotted.split(".")
        if parts[0] == "slim" and parts[1] in FLOOR:
            found.add(parts[1])
    return found


def violations(room: str, tree: ast.AST) -> set[str]:
    """Rooms that this one may not know."""
    above = {other for other in rooms_of(tree) if FLOOR[other] < FLOOR[room]}
    return above | (rooms_of(tree) & STRANGERS.get(room, set()))


@parametrized
def test_nobody_imports_from_above(name: str, room: str, tree: ast.Module) -> None:
    if not room:
        known = {"api", "config", "request"}
        assert rooms_of(tree) <= known, "slim/__init__.py names what Python programs use"
        return
    assert room in FLOOR, f"{name} has no floor: give it one in FLOORS"
    assert not violations(room, tree)


def test_the_wall_stands() -> None:
    """The check itself notices what it is there for."""
    assert violations("kernels", ast.parse("def f():\n    from slim.model import Model")) == {
        "model"
    }
    assert violations("model", ast.parse("import slim.run")) == {"run"}
    assert violations("trainer", ast.parse("from slim.generate import generate")) == {"generate"}
    assert violations("data", ast.parse("from slim import cli")) == {"cli"}
    assert not violations("run", ast.parse("from slim.trainer import train"))


@parametrized
def test_libraries_stay_in_their_rooms(name: str, room: str, tree: ast.Module) -> None:
    roots = {dotted.partition(".")[0] for dotted in imports(tree)}
    if name.startswith(RIVALS):
        assert "slim" not in roots
        return
    assert not any(f"{dotted}.".startswith(RIVALS) for dotted in imports(tree))
    assert "textual" not in roots or room == "tui"
    assert "rich" not in roots or room in ("cli", "tui")
    assert not roots & {"torch", "tokenizers", "safetensors", "transformers", "scipy"}, "oracles"
    assert not roots & {"socket", "http", "urllib", "requests", "ssl", "ftplib"}, "SLiM is offline"
    if room in STANDARD_ONLY:
        assert roots <= {*sys.stdlib_module_names, "slim"}


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What a file from a stranger could turn into code, and user text into an endless search."""
    for dotted in imports(tree):
        if dotted.partition(".")[0] in {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}:
            yield dotted
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in {"eval", "exec", "compile", "__import__"}:
            yield called.id
        if (
            isinstance(called, ast.Attribute)
            and called.attr == "load"
            and ast.unparse(called)
            in {
                *("np.load", "numpy.load", "torch.load"),
            }
        ):
            yield ast.unparse(called)
        if any(keyword.arg == "allow_pickle" for keyword in node.keywords):
            yield "allow_pickle"
        if any(
            keyword.arg == "shell" and ast.unparse(keyword.value) != "False"
            for keyword in node.keywords
        ):
            yield "shell=True"


@parametrized
def test_nothing_executes_data(name: str, room: str, tree: ast.Module) -> None:
    assert list(forbidden(tree)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "eval('1')",
        "exec(text)",
        "np.load(path)",
        "numpy.fromfile(path, allow_pickle=True)",
        "torch.load(path)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_guard_is_awake(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


@parametrized
def test_only_the_command_line_prints(name: str, room: str, tree: ast.Module) -> None:
    if room in ("cli", "__main__") or name.startswith(RIVALS):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("sys.stdout", "sys.stderr"), f"line {node.lineno}"


def loaded_by(code: str) -> set[str]:
    """The names of all modules that a fresh interpreter holds after `code`."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code + "\nimport sys; print(*sys.modules, sep='\\n', file=sys.stderr)",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stderr.split())


HEAVY = {"numba", "llvmlite", "textual", "rich", "numpy", "torch"}


def test_importing_slim_loads_nothing() -> None:
    loaded = loaded_by("import slim\nslim.__version__, dir(slim)")
    assert not loaded & HEAVY and not {name for name in loaded if name.startswith("slim.")}


def test_importing_the_command_line_is_cheap() -> None:
    code = "import slim.cli\nslim.cli.build_parser()"
    assert not loaded_by(code) & HEAVY


def test_help_is_cheap() -> None:
    code = "from slim.cli import main\nassert main(['--help']) == 0\nassert main(['pretrain', '--help']) == 0"
    assert not loaded_by(code) & HEAVY


def test_info_loads_neither_numba_nor_textual(tmp_path: Path) -> None:
    """A refused model file goes through the same imports as a good one, up to the header."""
    path = tmp_path / "model.bin"
    path.write_bytes(b'\x08\0\0\0\0\0\0\0{"a": 1}')
    code = f"from slim.cli import main\nassert main(['info', {str(path)!r}]) == 3"
    assert not loaded_by(code) & {"numba", "llvmlite", "textual", "torch"}


def test_the_floors_hold_no_ghosts() -> None:
    """Every name in FLOORS is a module, so that a misspelt one cannot hide a missing check."""
    rooms = {room for _, room, _ in MODULES}
    assert set(FLOOR) <= rooms
