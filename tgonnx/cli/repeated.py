"""Options that add up where they are given several times: `--target latency=0.6 --target params=0.5`."""

from __future__ import annotations

from collections.abc import Sequence

ADDED_UP = "--target"


def added_up(words: Sequence[str]) -> list[str]:
    """The arguments of a command with all targets in one, with commas between them, where the first stood."""
    rest, values, place = list[str](), list[str](), 0
    waiting = iter(words)
    for word in waiting:
        if word == ADDED_UP:
            value = next(waiting, None)
        elif word.startswith(f"{ADDED_UP}="):
            value = word.removeprefix(f"{ADDED_UP}=")
        else:
            rest.append(word)
            continue
        if value is None:  # which the parser complains of
            return list(words)
        place = place if values else len(rest)
        values.append(value)
    return [*rest[:place], ADDED_UP, ",".join(values), *rest[place:]] if values else rest
