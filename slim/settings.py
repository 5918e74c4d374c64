"""What a person asks for: options, `--set key=value` and a TOML file, merged into frozen configs.

A flag wins over the file, the file over the default. A file groups its keys or does not:

    preset = "small"
    [model]
    n_kv_heads = 3
    [train]
    learning_rate = 1e-3
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slim.config import PRESETS, ModelConfig, TrainConfig
from slim.errors import ConfigError
from slim.input_file import open_input

LARGEST_FILE = 1_000_000  # bytes of a configuration file; a real one has a few hundred
SPLITS = ("file", "blank", "line")

MODEL_KEYS = {item.name: str(item.type) for item in dataclasses.fields(ModelConfig)}
TRAIN_KEYS = {
    item.name: str(item.type) for item in dataclasses.fields(TrainConfig) if item.name != "epochs"
}
RUN_KEYS = {"preset": "str", "split": "str", "plain": "bool"}
GROUPS: dict[str, dict[str, str]] = {"model": MODEL_KEYS, "train": TRAIN_KEYS}
KEYS: dict[str, str] = {**MODEL_KEYS, **TRAIN_KEYS, **RUN_KEYS}


@dataclass(frozen=True, slots=True)
class Settings:
    """The keys that were asked for; every other one is for the command to choose."""

    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def preset(self) -> str | None:
        """The name of a preset of model sizes."""
        name = self.values.get("preset")
        if name is None:
            return None
        if name not in PRESETS:
            raise ConfigError(
                f"there is no preset {name!r}{_nearest(str(name), PRESETS)}; "
                f"presets: {', '.join(PRESETS)}"
            )
        return str(name)

    @property
    def split(self) -> str | None:
        """How a file is cut into documents."""
        split = self.values.get("split")
        if split is None:
            return None
        if split not in SPLITS:
            raise ConfigError(
                f"split must be one of {', '.join(SPLITS)}, but is {split!r}"
                f"{_nearest(str(split), SPLITS)}"
            )
        return str(split)

    @property
    def plain(self) -> bool:
        """Whether a transcript is text like any other."""
        return self.values.get("plain") is True

    @property
    def model(self) -> dict[str, object]:
        """Fields of ModelConfig that were asked for: those of the preset, then the single ones."""
        preset = self.preset
        sizes: dict[str, object] = dict(PRESETS[preset]) if preset else {}
        sizes.update((key, value) for key, value in self.values.items() if key in MODEL_KEYS)
        return sizes

    @property
    def train(self) -> dict[str, object]:
        """Fields of TrainConfig that were asked for."""
        return {key: value for key, value in self.values.items() if key in TRAIN_KEYS}


def gather(
    flags: Mapping[str, object], assignments: Sequence[str] = (), file: str | Path | None = None
) -> Settings:
    """Merge options (None: not given), `--set` assignments and a TOML file; ConfigError."""
    given = {key: value for key, value in flags.items() if value is not None}
    for assignment in assignments:
        key, value = read_assignment(assignment)
        if key in given:
            raise ConfigError(f"{key} is given twice: {given[key]!r} and {value!r}")
        given[key] = value
    from_file = read_toml(file) if file is not None else {}
    return Settings({**from_file, **given})


def read_assignment(assignment: str) -> tuple[str, object]:
    """`key=value` or `group.key=value` as a key and a value of the key's type."""
    name, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set needs key=value, such as --set dim=256, but got {assignment!r}")
    group, dot, key = name.strip().rpartition(".")
    key = known_key(key, group if dot else None)
    return key, _parse(key, text.strip())


def read_toml(path: str | Path) -> dict[str, object]:
    """The keys of a TOML file, checked for name and type."""
    import tomllib  # 20 ms, for those who have such a file

    file, size = open_input(path, ConfigError)
    with file:
        data = file.read(LARGEST_FILE + 1)
    if size > LARGEST_FILE or len(data) > LARGEST_FILE:
        raise ConfigError(f"{path}: is larger than 1 MB, which is no configuration")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError too
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    values: dict[str, object] = {}
    for name, value in table.items():
        group = name if isinstance(value, dict) else None
        if group is not None and group not in GROUPS:
            known = " and ".join(f"[{name}]" for name in GROUPS)
            raise ConfigError(
                f"{path}: there is no section [{group}]{_nearest(group, GROUPS)}; sections: {known}"
            )
        for key, entry in value.items() if isinstance(value, dict) else ((name, value),):
            try:
                key = known_key(key, group)
                if key in values:
                    raise ConfigError(f"{key} is given twice")
                values[key] = _of_type(key, entry)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from error
    return values


def known_key(key: str, group: str | None = None) -> str:
    """The key, if it is one (of its group); otherwise ConfigError with the nearest name."""
    if group is not None and group not in GROUPS:
        raise ConfigError(f"there is no group {group!r}{_nearest(group, GROUPS)}")
    if key == "epochs":
        raise ConfigError("epochs is the command's EPOCHS, not a key")
    keys = KEYS if group is None else GROUPS[group]
    if key in keys:
        return key
    if key in KEYS:
        home = next((f"[{name}]" for name, own in GROUPS.items() if key in own), "no section")
        raise ConfigError(f"there is no key {key!r} in [{group}]: it belongs to {home}")
    where = "" if group is None else f" in [{group}]"
    raise ConfigError(f"there is no key {key!r}{where}{_nearest(key, keys) or _nearest(key, KEYS)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)`, or nothing where no name is near."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _parse(key: str, text: str) -> object:
    """A value that was written on the command line."""
    kind = KEYS[key]
    if "None" in kind and text.lower() == "none":
        return None
    if kind.startswith("tuple"):
        if not text.startswith("["):
            return (text,)
        import json

        try:
            return _of_type(key, json.loads(text))
        except (ValueError, RecursionError):
            raise ConfigError(f"{key} must be a JSON list of texts, but is {text!r}") from None
    if kind.startswith("bool"):
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key} must be true or false, but is {text!r}")
        return text.lower() == "true"
    try:
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
    except ValueError:
        what = "whole number" if kind.startswith("int") else "number"
        raise ConfigError(f"{key} must be a {what}, but is {text!r}") from None
    return text


def _of_type(key: str, value: object) -> object:
    """A value that came with a type of its own, from TOML or JSON."""
    kind = KEYS[key]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ConfigError(f"{key} must be a list of texts, but is {value!r}")
    if kind.startswith("bool") and not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, but is {value!r}")
    if kind.startswith("int") and not (number and isinstance(value, int)):
        raise ConfigError(f"{key} must be a whole number, but is {value!r}")
    if kind.startswith("float") and not number:
        raise ConfigError(f"{key} must be a number, but is {value!r}")
    if kind == "str" and not isinstance(value, str):
        raise ConfigError(f"{key} must be a text in quotes, but is {value!r}")
    return value
