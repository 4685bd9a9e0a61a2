"""Names for people: a model's names may hold anything, a terminal obeys some of it."""

from __future__ import annotations

import re
import unicodedata

WORD = 80  # characters of a name in a table
LINE = 1000  # characters of a message
_ELLIPSIS = "..."
# control, format (text direction, zero width), separators of lines, halves of pairs
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: str, word: int = WORD, line: int = LINE) -> str:
    """`text` with control characters written as escapes, every word cut to `word` characters, all to `line`."""
    if len(text) > 2 * line:
        text = shortened(text, 2 * line)  # before work that grows with the length
    if not text.isprintable():
        text = "".join(_escaped(character) for character in text)
    if len(text) > word:
        text = re.sub(rf"\S{{{word + 1},}}", lambda found: shortened(found[0], word), text)
    return shortened(text, line)


def shortened(text: str, length: int) -> str:
    """The two ends of `text`, if it has more than `length` characters."""
    if len(text) <= length:
        return text
    kept = length - len(_ELLIPSIS)
    return text[: kept - kept // 2] + _ELLIPSIS + text[len(text) - kept // 2 :]


def escaped(text: str) -> str:
    """`text` with control characters written as escapes, lines kept."""
    return text if text.isprintable() else "".join(c if c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode()
