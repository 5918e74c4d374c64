"""What several test files share: a tiny model with random weights, saved like a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from slim.config import ModelConfig
from slim.model_file import model_metadata, save_model
from slim.parameters import Parameters
from slim.tokenizer import FIRST_MERGE_ID, Tokenizer

TINY = ModelConfig(
    vocab_size=FIRST_MERGE_ID,
    dim=32,
    n_layers=1,
    n_heads=2,
    hidden_dim=32,
    max_seq_len=64,
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file: a token is a byte, the context 64 tokens, the weights random."""
    path = tmp_path_factory.mktemp("model") / "tiny.bin"
    history: list[dict[str, object]] = [{"command": "pretrain", "steps": 1234, "loss": 2.5}]
    parameters = Parameters(TINY).initialise(0)
    save_model(path, parameters, model_metadata(TINY, Tokenizer([]), history))
    return path
