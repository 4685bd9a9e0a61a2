"""Words from foreign files, as pages and pictures may hold them."""

from __future__ import annotations

import html
import re

from tgonnx.io.visible import shortened, visible

LONGEST = 400  # characters of a name that is shown in full
_NOT_IN_XML = re.compile("[\ufffe\uffff]")


def safe(words: str, longest: int = LONGEST) -> str:
    """Escaped, without what XML forbids, its middle left out beyond `longest` characters."""
    shown = shortened(visible(_NOT_IN_XML.sub("?", words), LONGEST, 4 * LONGEST), longest)
    return html.escape(shown)
