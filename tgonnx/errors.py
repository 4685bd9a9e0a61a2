"""Every error a user can meet, each with the exit code that the command line returns for it."""

from __future__ import annotations


class TgonnxError(Exception):
    """Base of all errors raised on purpose; the message is one line naming what and where."""

    exit_code = 1


class VerificationError(TgonnxError):
    """The pruned model does not compute what the gated model computes; nothing was written."""

    exit_code = 1


class UsageError(TgonnxError):
    """A wrong option, path or value."""

    exit_code = 2


class ModelError(TgonnxError):
    """The model file cannot be accepted."""

    exit_code = 3


class UnsupportedError(TgonnxError):
    """The model is valid, but there is nothing to prune or an operator cannot be handled."""

    exit_code = 4


class DataError(TgonnxError):
    """The data set does not fit the model or the loss."""

    exit_code = 5


class DivergedError(TgonnxError):
    """Training produced values that are not finite."""

    exit_code = 6


class TargetError(TgonnxError):
    """The target cannot be met."""

    exit_code = 7


class InstallationError(TgonnxError):
    """A package that is needed is missing or broken, or the system lacks something else."""

    exit_code = 8


class OutputError(TgonnxError):
    """Results cannot be shown: stdout is closed or full. What was to be written to files has been."""

    exit_code = 8
