"""The command line."""

from tgonnx.cli.app import main

__all__ = ["main"]
