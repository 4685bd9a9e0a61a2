"""Latency profiles as files: what was measured once is used again, or on another machine than the one that prunes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tgonnx.analysis.times import Profile, Rates, Staircase
from tgonnx.errors import UsageError
from tgonnx.io.save import save_text

FORMAT = 1


def as_text(profile: Profile) -> str:
    """The profile as JSON."""
    return json.dumps({"format": FORMAT, **asdict(profile)}, indent=1) + "\n"


def write(
    profile: Profile,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    protect: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Write the profile, completely or not at all. Raises UsageError."""
    save_text(as_text(profile), path, overwrite, protect)


def read(path: str | os.PathLike[str]) -> Profile:
    """Read a profile. Raises UsageError naming the file and what is wrong with it."""
    name = os.fspath(path)
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{name}: is no latency profile: {error}") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise UsageError(f"{name}: is no latency profile of format {FORMAT}; `tgonnx profile` writes one")
    try:
        rates = tuple(Rates(**{**each, "outputs": tuple(each["outputs"])}) for each in document.pop("rates"))
        stairs = {op_type: Staircase(**each) for op_type, each in document.pop("stairs").items()}
        profile = Profile(rates=rates, stairs=stairs, **document)
        _check(profile)
        return profile
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{name}: is a damaged latency profile ({error}); measure again") from None


def _check(profile: Profile) -> None:
    """Raise ValueError for what no measurement gives."""
    numbers = [profile.added, profile.fixed, profile.original_us, profile.error]
    numbers += [value for each in profile.rates for value in (each.fixed, each.per_work, each.per_element)]
    if not all(isinstance(value, int | float) and 0 <= value < float("inf") for value in numbers):
        raise ValueError("a time is no number of at least 0")
    if any(s.block < 1 or s.aligned < 1 or not s.penalty >= 0 for s in profile.stairs.values()):
        raise ValueError("stairs of less than one channel")
    if not any(each.fixed or each.per_work or each.per_element for each in profile.rates):
        raise ValueError("no operator takes any time")
