"""Configs check themselves; settings merge options, assignments and a TOML file, with helpful errors."""

from __future__ import annotations

import dataclasses

import pytest

from slim.config import PRESETS, GenerateConfig, ModelConfig, TrainConfig
from slim.errors import ConfigError
from slim.settings import KEYS, gather, read_assignment, read_toml


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 250}, "dim must be divisible by n_heads, but 250 % 8 != 0"),
        (
            {"n_heads": 8, "n_kv_heads": 3},
            "n_heads must be divisible by n_kv_heads, but 8 % 3 != 0",
        ),
        (
            {"dim": 24, "n_heads": 8},
            "dim / n_heads must be even (RoPE turns pairs), but 24 / 8 = 3",
        ),
        ({"dim": 0}, "dim must be a whole number from 1 to 16,384, but is 0"),
        ({"n_layers": 257}, "n_layers must be a whole number from 1 to 256, but is 257"),
        ({"dim": 256.0}, "dim must be a whole number from 1 to 16,384, but is 256.0"),
        ({"dim": True}, "dim must be a whole number from 1 to 16,384, but is True"),
        ({"rope_theta": float("nan")}, "rope_theta must be a number from 1 to 1e+09, but is nan"),
        ({"norm_eps": 0.0}, "norm_eps must be a number from 1e-12 to 0.1, but is 0.0"),
        ({"tie_embeddings": 1}, "tie_embeddings must be true or false, but is 1"),
    ],
)
def test_model_config_refuses(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig(**values)  # type: ignore[arg-type]
    assert str(error.value) == message
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"learning_rate": float("inf")},
            "learning_rate must be a number from 1e-12 to 10, but is inf",
        ),
        (
            {"learning_rate": -1e-3},
            "learning_rate must be a number from 1e-12 to 10, but is -0.001",
        ),
        ({"epochs": 0}, "epochs must be a number from 1e-06 to 1e+06, but is 0"),
        ({"minutes": float("nan")}, "minutes must be a number from 1e-06 to 1e+06, but is nan"),
        (
            {"max_steps": 0},
            "max_steps must be a whole number from 1 to 1,099,511,627,776, but is 0",
        ),
        ({"beta2": 1.0}, "beta2 must be a number from 0 to 0.99999, but is 1.0"),
        ({"optimizer": "sgd"}, "optimizer must be adamw or muon, but is 'sgd'"),
        ({"schedule": "linear"}, "schedule must be cosine, constant or wsd, but is 'linear'"),
        (
            {"seq_len": 512, "batch_tokens": 256},
            "batch_tokens must hold at least one sequence, but batch_tokens is 256 and seq_len 512",
        ),
        ({"validation_share": 0.9}, "validation_share must be a number from 0 to 0.5, but is 0.9"),
        ({"sample_prompts": "Once"}, "sample_prompts must be a list of texts, but is 'Once'"),
    ],
)
def test_train_config_refuses(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(**values)  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize(
    "values", [{"top_p": 0.0}, {"temperature": float("nan")}, {"max_tokens": 0}]
)
def test_generate_config_refuses(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        GenerateConfig(**values)  # type: ignore[arg-type]


def test_configs_are_frozen() -> None:
    for config in (ModelConfig(), TrainConfig(), GenerateConfig()):
        name = dataclasses.fields(config)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, 1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_models(name: str) -> None:
    config = ModelConfig(**PRESETS[name])  # type: ignore[arg-type]
    assert config.dim % 32 == 0, "whole tiles of the micro-kernel"


def test_default_preset_is_the_default() -> None:
    assert ModelConfig(**PRESETS["default"]) == ModelConfig()  # type: ignore[arg-type]


def test_parameter_count_of_the_default_model() -> None:
    # 4096*256 + 6 * (4*256*256 + 3*256*1024 + 2*256) + 256, counted by hand.
    assert ModelConfig().n_parameters == 7_343_360


def test_a_flag_wins_over_the_file_and_the_file_over_the_preset(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "run.toml"
    file.write_text(
        'preset = "tiny"\nseed = 5\n[model]\nn_layers = 3\n[train]\nlearning_rate = 1e-3\n'
    )
    settings = gather({"seed": 7, "split": None}, ["train.weight_decay=0.2", "dim=96"], file)
    assert settings.train == {"seed": 7, "learning_rate": 1e-3, "weight_decay": 0.2}
    assert settings.model == {**PRESETS["tiny"], "n_layers": 3, "dim": 96}
    assert settings.split is None


def test_seed_zero_is_a_seed() -> None:
    assert gather({"seed": 0}).train == {"seed": 0}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("dim=256", ("dim", 256)),
        ("model.dim = 256", ("dim", 256)),
        ("learning_rate=3e-4", ("learning_rate", 3e-4)),
        ("tie_embeddings=False", ("tie_embeddings", False)),
        ("schedule=wsd", ("schedule", "wsd")),
        ("minutes=none", ("minutes", None)),
        ("sample_prompts=Once upon a time", ("sample_prompts", ("Once upon a time",))),
        ('sample_prompts=["a=b", "c"]', ("sample_prompts", ("a=b", "c"))),
    ],
)
def test_assignment(assignment: str, expected: tuple[str, object]) -> None:
    assert read_assignment(assignment) == expected


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("n_layer=3", "there is no key 'n_layer' (did you mean 'n_layers'?)"),
        ("lerning_rate=1", "there is no key 'lerning_rate' (did you mean 'learning_rate'?)"),
        ("modle.dim=1", "there is no group 'modle' (did you mean 'model'?)"),
        ("train.dim=1", "there is no key 'dim' in [train]: it belongs to [model]"),
        ("epochs=3", "epochs is the command's EPOCHS, not a key"),
        ("dim", "--set needs key=value, such as --set dim=256, but got 'dim'"),
        ("dim=large", "dim must be a whole number, but is 'large'"),
        ("dim=2.5", "dim must be a whole number, but is '2.5'"),
        ("learning_rate=fast", "learning_rate must be a number, but is 'fast'"),
        ("tie_embeddings=1", "tie_embeddings must be true or false, but is '1'"),
        ("sample_prompts=[1", "sample_prompts must be a JSON list of texts, but is '[1'"),
        ("sample_prompts=[1]", "sample_prompts must be a list of texts, but is [1]"),
        ("dim=" + "9" * 5000, "dim must be a whole number, but is '999"),
    ],
)
def test_bad_assignment(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_assignment(assignment)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[model]\ndims = 3", "there is no key 'dims' in [model] (did you mean 'dim'?)"),
        (b"[trian]\nseed = 3", "there is no section [trian] (did you mean 'train'?)"),
        (b"[model]\nsplit = 'line'", "no key 'split' in [model]: it belongs to no section"),
        (b"dim = '256'", "dim must be a whole number, but is '256'"),
        (b"dim = true", "dim must be a whole number, but is True"),
        (b"learning_rate = 'x'", "learning_rate must be a number, but is 'x'"),
        (b"schedule = 3", "schedule must be a text in quotes, but is 3"),
        (b"dim = 3\n[model]\ndim = 4", "dim is given twice"),
        (b"dim = ", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (b"dim = " + b"9" * 5000, "is not valid TOML"),
        (b"a = " + b"[" * 100_000, "is not valid TOML"),
        (b"#" * 1_000_001, "is larger than 1 MB, which is no configuration"),
    ],
)
def test_bad_file(tmp_path, text: bytes, message: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "run.toml"
    file.write_bytes(text)
    with pytest.raises(ConfigError) as error:
        read_toml(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be opened: no such file"):
        read_toml("nowhere.toml")


def test_twice_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match="seed is given twice: 1 and 2"):
        gather({"seed": 1}, ["seed=2"])


def test_unknown_preset_and_split() -> None:
    with pytest.raises(ConfigError, match=r"there is no preset 'smal' \(did you mean 'small'\?\)"):
        _ = gather({"preset": "smal"}).model
    with pytest.raises(ConfigError, match="split must be one of file, blank, line, but is 'lines'"):
        _ = gather({"split": "lines"}).split


def test_every_key_has_a_type_that_can_be_set() -> None:
    """A field of a new type would be read as a plain text: this is where that is noticed."""
    assert {kind.removesuffix(" | None") for kind in KEYS.values()} <= {
        *("int", "float", "bool", "str", "tuple[str, ...]"),
    }
