"""The errors a person can cause, each with the exit code that the command line gives it."""

from __future__ import annotations


class SlimError(Exception):
    """One line for a person: what is wrong, which values, what to do. Never a traceback."""

    exit_code = 1


class UsageError(SlimError):
    """A command, option or configuration that makes no sense as written."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration whose values contradict each other or a limit."""


class DataError(SlimError):
    """A text or data file that cannot be trained on or read."""

    exit_code = 3


class ModelFileError(SlimError):
    """A model file, tokenizer or checkpoint that is missing, damaged or not ours."""

    exit_code = 3


NO_NUMBER = "the model computed something that is no number: its weights are damaged, so take another copy or train it anew"


class SaveError(SlimError):
    """A file that cannot be written where it should be; what was there before still is."""

    exit_code = 3


class DivergedError(SlimError):
    """Training that could not be brought back to a finite loss."""

    exit_code = 4
