"""The choice: one bool for each unit, the branches that go, and what is left of every initializer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from tgonnx.analysis.alternatives import Alternative
from tgonnx.analysis.branches import still_read
from tgonnx.analysis.coupling import Attention, Coupling
from tgonnx.errors import UsageError
from tgonnx.io.save import save_text
from tgonnx.io.summary import ROWS, Shown, Summary, left_out
from tgonnx.selection.mask_file import Contents, Elements, Kept, Open, as_text, read

SHORT = 12  # digits of a hash in a message


@dataclass(frozen=True, repr=False)
class Mask(Shown):
    """Which units stay. `open[u]` is True where unit u is kept; `groups` names and sizes the groups in unit order.

    `attention` is how the coupling was analysed that the mask belongs to. `structure` is the hash of its model's
    structure, and `initializers` the indices that stay of each axis of each initializer that is cut; both are empty in
    a mask of format 1, which knows its groups only. `branches` names the residual branches that are removed, by the
    values that their sums put out; `weights` says which elements stay of initializers that get zeros. `source` is the
    file that it was read from.
    """

    open: Open
    groups: tuple[tuple[str, int], ...] = field(default=())
    attention: Attention = "heads"
    structure: str = ""
    initializers: Kept = field(default_factory=dict)
    branches: tuple[str, ...] = ()
    weights: Elements = field(default_factory=dict)
    source: str = field(default="", compare=False)
    _coupling: Coupling | None = field(
        default=None, compare=False
    )  # what it was made from: `open` may be edited

    @classmethod
    def all_open(cls, coupling: Coupling) -> Mask:
        return cls._made(coupling, coupling.left_open.copy())

    @classmethod
    def of(cls, coupling: Coupling, open_units: Open) -> Mask:
        """Raises UsageError if the size does not fit or a group would be emptied."""
        opened = np.atleast_1d(np.asarray(open_units, bool))
        cls(opened, _outline(coupling), coupling.attention)._check_units(coupling)
        return cls._made(coupling, opened)

    @classmethod
    def _made(cls, coupling: Coupling, opened: Open) -> Mask:
        kept, structure = _kept(coupling, opened), coupling.model.structure
        return cls(
            opened,
            _outline(coupling),
            coupling.attention,
            structure,
            kept,
            coupling.closed,
            _coupling=coupling,
        )

    @property
    def keeps_everything(self) -> bool:
        """Whether nothing is closed."""
        return bool(self.open.all()) and not self.branches and not self.weights

    def counted(self, coupling: Coupling) -> Coupling:
        """The coupling of its model, in which branches that are removed and weights that are zero cost nothing."""
        if self.weights:
            return coupling.thinning({name: int(part.sum()) for name, part in self.weights.items()})
        return coupling.closing(self.branches)

    def thinned(self, weights: Elements) -> Mask:
        """The same with zeros in weights: which elements stay."""
        return replace(self, weights=dict(weights))

    def summary(self) -> Summary:
        """How much of each group stays, the most cut first."""
        ends = np.cumsum([0, *(size for _, size in self.groups)])
        parts = [
            (name, int(self.open[start : start + size].sum()), size)
            for (name, size), start in zip(self.groups, ends[:-1], strict=True)
        ]
        parts.sort(key=lambda part: part[1] / part[2])
        rows = [(name, f"{kept:,}", f"{size:,}", f"{kept / size:.0%}") for name, kept, size in parts[:ROWS]]
        size = f"keeps {int(self.open.sum()):,} of {len(self.open):,} units in {len(self.groups):,} groups"
        facts = [("structure", self.structure[:SHORT] + "...")] if self.structure else []
        facts += [("removed", f"branch {name}") for name in self.branches[:ROWS]]
        if self.weights:
            total, kept = (
                sum(f(part) for part in self.weights.values()) for f in (np.size, np.count_nonzero)
            )
            facts.append(
                ("zeros", f"{total - kept:,} of {total:,} elements of {len(self.weights):,} weights")
            )
        return Summary(
            f"Mask: {size}",
            facts,
            ("group", "kept", "units", "left"),
            rows,
            left_out(len(parts) - ROWS, "groups"),
        )

    def kept(self, coupling: Coupling) -> Kept:
        """The indices that stay of each axis that is cut: initializer -> axis -> rising indices.

        Raises UsageError unless the mask belongs to this model.
        """
        self.check(coupling)
        return _kept(coupling, self.open)

    def check(self, coupling: Coupling) -> None:
        """Raise UsageError unless the mask belongs to this model and leaves every group something."""
        if self.structure and self.structure != coupling.model.structure:
            ours, theirs = self.structure[:SHORT], coupling.model.structure[:SHORT]
            raise self._refused(
                f"the mask belongs to another model: structure {ours}... in the mask, {theirs}... of "
                f"{coupling.model.source}, where {self._difference(coupling)}; make a mask of this model"
            )
        self._check_units(coupling)
        read = self.structure and self._coupling is None
        if read and not _same(self.initializers, _kept(coupling, self.open)):
            raise self._refused("the mask keeps other indices of the initializers than its groups say")

    def _check_units(self, coupling: Coupling) -> None:
        if self.weights and (self.branches or not self.open.all()):
            raise self._refused("the mask sets single weights to zero and cuts channels or branches, too")
        for name, part in self.weights.items():
            tensor = coupling.model.initializers.get(name)
            if tensor is None or tuple(tensor.dims) != part.shape:
                raise self._refused(
                    f"the mask keeps elements of {name!r} {list(part.shape)}, which the model has not"
                )
        self._check_parts(coupling)
        self._check_layers(coupling)
        if len(self.open) != coupling.units or self.groups != _outline(coupling):
            raise self._refused(
                f"the mask has {len(self.open)} units in other groups than the model's {coupling.units}"
            )
        stay = coupling.closing(self.branches).left_open
        if self.open[~stay].any():
            raise self._refused("the mask removes an alternative and keeps channels of it")
        for group in coupling.groups:
            if stay[group.units].any() and not self.open[group.units].any():
                raise self._refused(f"the mask empties group {group.name}")
        counts, most = (
            np.bincount(coupling.kind_of[units], minlength=int(coupling.kind_of.max(initial=-1)) + 1)
            for units in (self.open, stay)
        )
        if any(most[list(kinds)].any() and not counts[list(kinds)].any() for kinds in coupling.guards):
            raise self._refused("the mask leaves an axis without channels")

    def _check_layers(self, coupling: Coupling) -> None:
        """Raise UsageError if a layer is left out that puts out other channels than it takes."""
        if not self.branches or len(self.open) != coupling.units or self.open.all():
            return
        stays, axes = np.append(self.open, True), coupling.labelling.axes
        for branch in coupling.branches:
            if branch.layer and branch.name in self.branches:
                pairs = zip(axes.get(branch.shortcut, ()), axes.get(branch.sum, ()), strict=True)
                if any((stays[coupling.units_of(a)] != stays[coupling.units_of(b)]).any() for a, b in pairs):
                    raise self._refused(
                        f"the mask removes the layer of {branch.name!r} and keeps other channels of what it takes"
                    )

    def _check_parts(self, coupling: Coupling) -> None:
        """Raise UsageError unless the model has what is removed whole, and something is left where it goes."""
        try:
            parts = coupling.parts(self.branches)
        except KeyError as error:
            name = error.args[0]
            raise self._refused(
                f"the mask removes the branch of {name!r}, and the model has none there"
            ) from None
        model, left, names = coupling.model, still_read(coupling.model, parts), {*self.branches}
        for meeting in coupling.offered if any(isinstance(part, Alternative) for part in parts) else ():
            if all(alternative.name in names for alternative in meeting.alternatives):
                raise self._refused(f"the mask removes all alternatives of {meeting.name!r}: one must stay")
        empty = {name for place, names in left.items() if not names for name in model.nodes[place].outputs}
        if not empty:
            return
        gone = coupling.closing(self.branches).gone.nodes
        readers = (node for node in model.nodes if node.index not in left and node.index not in gone)
        if bare := empty & {*model.outputs, *(name for node in readers for name in node.inputs)}:
            raise self._refused(
                f"the mask leaves nothing of {min(bare)!r}: the branch there and its shortcut go"
            )

    def _refused(self, reason: str) -> UsageError:
        return UsageError(f"{self.source}: {reason}" if self.source else reason)

    def _difference(self, coupling: Coupling) -> str:
        """The first thing that this model has not as the mask's has it."""
        for name, axes in self.initializers.items():
            tensor = coupling.model.initializers.get(name)
            if tensor is None:
                return f"{name!r} is no initializer"
            for axis, indices in axes.items():
                if axis >= len(tensor.dims) or indices.max(initial=-1) >= tensor.dims[axis]:
                    return f"{name!r} has shape {list(tensor.dims)}, and index {indices.max()} of axis {axis} is kept"
        if self.groups != _outline(coupling):
            return "the groups are others"
        return "nodes, types or shapes differ, and groups do not"

    def save(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        protect: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        """Write JSON, completely or not at all: kept units by group, kept indices by initializer and axis.

        `protect` lists files that must not be overwritten. Raises UsageError.
        """
        kept = self.initializers if self._coupling is None else _kept(self._coupling, self.open)
        contents = Contents(
            self.open, self.groups, self.attention, self.structure, kept, self.branches, self.weights
        )
        save_text(as_text(contents), path, overwrite, protect)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mask:
        """Read a mask. Raises UsageError naming the file and what is wrong with it."""
        return cls(**vars(read(path)), source=os.fspath(path))


def _outline(coupling: Coupling) -> tuple[tuple[str, int], ...]:
    return tuple((group.name, group.size) for group in coupling.groups)


def _kept(coupling: Coupling, opened: Open) -> dict[str, dict[int, np.ndarray]]:
    """What stays of each axis of which something goes."""
    stays, found = np.append(opened, True), dict[str, dict[int, np.ndarray]]()
    for axis, units in coupling.cut_axes:
        if not (open_indices := stays[units]).all():
            found.setdefault(axis.value, {})[axis.axis] = np.flatnonzero(open_indices)
    return found


def _same(a: Kept, b: Kept) -> bool:
    return a.keys() == b.keys() and all(
        a[name].keys() == b[name].keys()
        and all(np.array_equal(indices, b[name][axis]) for axis, indices in a[name].items())
        for name in a
    )
