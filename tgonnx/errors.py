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


class OptionError(UsageError):
    """A wrong value of the option of this name: the message is the name between what is `before` and `after` it."""

    def __init__(self, option: str, after: str, before: str = "") -> None:
        super().__init__(option, after, before)  # all, so that it can be pickled
        self.option, self.after, self.before = option, after, before

    def __str__(self) -> str:
        return f"{self.before}{self.option} {self.after}"

    def on_command_line(self) -> str:
        """The message with the name as the command line writes it."""
        return f"{self.before}{flag(self.option)} {self.after}"


def flag(option: str) -> str:
    """`--gate-lr` for `gate_lr`; `lambda_` has its underscore because Python keeps the word. Else the words."""
    return "--" + option.rstrip("_").replace("_", "-") if option.isidentifier() else option


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


class BoundsError(OptionError, TargetError):
    """An option forbids every cut; nothing was written."""

    exit_code = 2


class InstallationError(TgonnxError):
    """A package that is needed is missing or broken, or the system lacks something else."""

    exit_code = 8


class OutputError(TgonnxError):
    """Results cannot be shown: stdout is closed or full. What was to be written to files has been."""

    exit_code = 8
