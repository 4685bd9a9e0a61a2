"""What can only be cut together, as a picture: layers from top to bottom, each coupled group a line through them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.layers import Layer, layers_of
from tgonnx.drawing.lanes import Row, folded, lanes_of
from tgonnx.drawing.svg import Drawing
from tgonnx.drawing.tags import Tag, tags_of
from tgonnx.drawing.text import safe
from tgonnx.io.visible import shortened, visible

ROW, LANE, HEAD = 24, 16, 52  # pixels of a row, of a lane, and of the legend
NAME, FOLDED, LETTER = 46, 36, 6.9  # characters of a name, of one where two are named, and pixels of one
PLAIN = "bar"  # the colour of groups that one layer writes


@dataclass(frozen=True)
class CouplingPicture:
    """Rows and lanes of a coupling; with `everything` no repeated blocks are folded."""

    coupling: Coupling
    everything: bool = False

    @cached_property
    def layers(self) -> list[Layer]:
        return layers_of(self.coupling)

    @cached_property
    def tags(self) -> Mapping[Any, Tag]:
        """How groups are marked that several layers write."""
        return tags_of([{"group": layer.group} for layer in self.layers])

    @cached_property
    def rows(self) -> list[Row]:
        if self.everything:
            return [Row(i, i) for i in range(len(self.layers))]
        return folded(len(self.layers), self._repeats)

    @cached_property
    def reach(self) -> dict[int, tuple[int, int]]:
        """The first and the last layer of each group."""
        found: dict[int, tuple[int, int]] = {}
        for number, layer in enumerate(self.layers):
            for group in _groups(layer):
                found[group] = (found.get(group, (number, number))[0], number)
        return found

    def _repeats(self, a: int, b: int) -> bool:
        """Does layer b the same as a, in the same groups or in groups that lie as much further on?"""
        one, other = self.layers[a], self.layers[b]
        if (one.op_type, one.channels, one.group is None) != (
            other.op_type,
            other.channels,
            other.group is None,
        ):
            return False
        if len(one.makes) != len(other.makes) or len(one.reads) != len(other.reads):
            return False
        pairs = zip((*one.makes, *one.reads), (*other.makes, *other.reads), strict=True)
        return all(g == h or all(y - x == b - a for x, y in self._ends(g, h)) for g, h in pairs)

    def _ends(self, g: int, h: int) -> Iterable[tuple[int, int]]:
        return zip(self.reach[g], self.reach[h], strict=True)

    @cached_property
    def shown(self) -> list[tuple[int, Layer]]:
        """The layers that have a row of their own, with its number."""
        return [(i, self.layers[row.first]) for i, row in enumerate(self.rows) if not row.folded]

    @cached_property
    def lanes(self) -> dict[int, int]:
        return lanes_of(self.spans)

    @cached_property
    def spans(self) -> dict[int, tuple[int, int]]:
        """From which row to which each group goes that is in a layer which is shown."""
        seen = {g for _, layer in self.shown for g in _groups(layer)}
        places: dict[int, list[int]] = {}
        for number, row in enumerate(self.rows):
            for layer in self.layers[row.first : row.last + 1]:
                for group in _groups(layer):
                    places.setdefault(group, []).append(number)
        return {group: (min(held), max(held)) for group, held in places.items() if group in seen}

    # --- SVG ------------------------------------------------------------------------------------------

    def drawing(self) -> Drawing:
        """The picture, of the size that it needs."""
        left = LANE * (max(self.lanes.values(), default=0) + 1) + 12
        names = left + LETTER * min(NAME, max((len(layer.name) for _, layer in self.shown), default=20)) + 16
        body = [_legend(), *(self._line(group) for group in self.spans)]
        body += [self._joint(number, layer) for number, layer in self.shown]
        for number, row in enumerate(self.rows):
            body.append(
                self._fold(number, row, left) if row.folded else self._words(number, row, left, names)
            )
        title = f"Coupling of {self.coupling.model.source}"
        height = HEAD + ROW * len(self.rows)
        return Drawing(title, "".join(body), height, max(names + 330, left + 610), fluid=False)

    def _x(self, group: int) -> float:
        return LANE * self.lanes[group] + LANE / 2

    def _colour(self, group: int) -> int | None:
        tag = self.tags.get(group)
        return None if tag is None else tag.colour

    def _line(self, group: int) -> str:
        (first, last), x, colour = self.spans[group], self._x(group), self._colour(group)
        if first == last:
            return ""
        style, width = ("grid", 2) if colour is None else (f"s{colour}", 4)
        ends = f'x1="{x:g}" x2="{x:g}" y1="{_y(first):g}" y2="{_y(last):g}"'
        return f'<line class="{style}" style="stroke-width:{width}" {ends}/>'

    def _joint(self, number: int, layer: Layer) -> str:
        """What a layer reads, hollow, what it writes, filled, and a line that joins them."""
        groups, y = _groups(layer), _y(number)
        if not groups:
            return ""
        places = [self._x(group) for group in groups]
        parts = [f'<line class="axis" x1="{min(places):g}" x2="{max(places):g}" y1="{y:g}" y2="{y:g}"/>']
        for group in groups:
            colour, writes = self._colour(group), group in layer.makes
            fill, stroke = (PLAIN, "axis") if colour is None else (f"c{colour}", f"s{colour}")
            look = fill if writes else f"hollow {stroke}"
            solid = "" if writes else ' style="stroke-dasharray:none;stroke-width:2"'
            tip = f"{'writes' if writes else 'reads'} {self.coupling.groups[group].name}"
            dot = f'cx="{self._x(group):g}" cy="{y:g}" r="{5 if writes else 4}"'
            parts.append(f'<circle class="{look}"{solid} {dot}><title>{safe(tip)}</title></circle>')
        return "".join(parts)

    def _words(self, number: int, row: Row, left: float, names: float) -> str:
        layer, y = self.layers[row.first], _y(number) + 4
        name = _words(left, y, shortened(visible(layer.name), NAME), "ink mono", layer.node)
        if layer.group is None:
            return name + _words(names, y, f"{layer.op_type}, {layer.channels:,} channels, pinned", "dim")
        made, tag = [self.coupling.groups[group] for group in layer.makes], self.tags.get(layer.group)
        each = f" of {made[0].width:,} channels" if len(made) == 1 and made[0].width > 1 else ""
        several = f" in {len(made)} groups" if len(made) > 1 else ""
        units = sum(group.size for group in made)
        said = f"{layer.op_type}, {layer.channels:,} channels, {units:,} units{each}{several}"
        if tag is None:
            return name + _words(names + 24, y, said, "dim")
        return (
            name + _words(names, y, tag.letter, f"c{tag.colour} strong") + _words(names + 24, y, said, "dim")
        )

    def _fold(self, number: int, row: Row, left: float) -> str:
        return _words(left, _y(number) + 4, self._repeated(row), "dim small")

    def _repeated(self, row: Row) -> str:
        ends = (self.layers[row.first].name, self.layers[row.last].name)
        first, last = (shortened(visible(name), FOLDED) for name in ends)
        times = "once" if row.count == 1 else f"{row.count} times"
        return f"... the same {times} more: {first} to {last}"

    # --- DOT ------------------------------------------------------------------------------------------

    def dot(self) -> str:
        """The same for Graphviz: layers as boxes, groups as ellipses; a layer leads to what it writes."""
        lines = [
            "digraph coupling {", "  rankdir=TB; node [fontname=Helvetica, fontsize=11]; edge [color=gray40];",
        ]  # fmt: skip
        first_read: dict[int, int] = {}
        for number, layer in self.shown:
            for group in layer.reads:
                first_read.setdefault(group, number)
            label = f"{layer.name}\n{layer.op_type}, {layer.channels:,} channels"
            pinned = ", style=dashed" if layer.group is None else ""
            lines.append(f"  layer{number} [shape=box, label={_quoted(label)}{pinned}];")
        for group in self.spans:
            size, name = self.coupling.groups[group].size, self.coupling.groups[group].name
            lines.append(
                f"  group{group} [shape=ellipse, label={_quoted(f'{name}{chr(10)}{size:,} units')}];"
            )
        for number, layer in self.shown:
            for group in layer.makes:
                back = " [constraint=false]" if first_read.get(group, number) < number else ""
                lines.append(f"  layer{number} -> group{group}{back};")
            lines += [
                f"  group{group} -> layer{number};" for group in layer.reads if group not in layer.makes
            ]
        lines += [f"  // {self._repeated(row)}" for row in self.rows if row.folded]
        return "\n".join([*lines, "}"]) + "\n"


def _groups(layer: Layer) -> list[int]:
    return sorted({*layer.reads, *layer.makes})


def _y(row: float) -> float:
    return HEAD + ROW * row + ROW / 2


def _words(x: float, y: float, words: str, style: str, tip: str = "") -> str:
    more = f"<title>{safe(tip)}</title>" if tip else ""
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{safe(words)}{more}</text>'


def _legend() -> str:
    lines: Sequence[str] = (
        "A line is a group: what can only be cut together. Layers with a filled dot write its channels,",
        "with a hollow one read them. Letters mark groups that several layers write.",
    )
    return "".join(_words(0, 12 + 16 * i, line, "dim small") for i, line in enumerate(lines))


def _quoted(words: str) -> str:
    """A string of DOT, its lines kept."""
    lines = (visible(line) for line in words.split("\n"))
    return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'
