"""SLiM: train and run small language models on an ordinary CPU, from the terminal, offline.

    import slim
    for event in slim.train("notes.txt", "notes.bin", epochs=20): ...
    model = slim.Model.load("notes.bin")
    print(model.write("Once upon a time"))

`import slim` loads nothing; NumPy and Numba come with the first use of a name below.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slim.api import Conversation, Model, train
    from slim.config import GenerateConfig
    from slim.request import RunControl

__version__ = "0.1.0"
__all__ = ["Conversation", "GenerateConfig", "Model", "RunControl", "__version__", "train"]

_HOMES = {
    "Conversation": "slim.api",
    "GenerateConfig": "slim.config",
    "Model": "slim.api",
    "RunControl": "slim.request",
    "train": "slim.api",
}


def __getattr__(name: str) -> object:
    """The names of `__all__`, when they are asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'slim' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
