"""TOML of plain values: one key a line, as a recipe has it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgonnx.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says. Raises UsageError naming the file, and the line where it is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return dict(tomllib.loads(text))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text in UTF-8, so no TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is no TOML: {error}") from None


def line(key: str, value: Any) -> str:
    """`key = value`, without an end of line. JSON's numbers, lists and strings are TOML's."""
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{key} = {text}"


def as_text(values: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> str:
    """A line for each value, with a comment behind it if there is one.

    What is None is left out, as TOML has no word for it.
    """
    said = {key: f"  # {' '.join(text.split())}" for key, text in (comments or {}).items()}
    return "".join(
        f"{line(key, value)}{said.get(key, '')}\n" for key, value in values.items() if value is not None
    )
