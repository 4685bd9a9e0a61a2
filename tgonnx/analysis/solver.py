"""From what the rules say to units, groups, sites and reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx

from tgonnx import ops
from tgonnx.analysis.axis_graph import Axis, places
from tgonnx.analysis.choices import OpenChoice, solve_choices
from tgonnx.analysis.classes import Classes
from tgonnx.analysis.coupling import Attention, Coupling, Group, Pinned, PlacedSite
from tgonnx.analysis.joined import joining_nodes
from tgonnx.analysis.labelling import Labelling
from tgonnx.analysis.model import Model, Node, known_elements
from tgonnx.analysis.sizes_read import sizes_read
from tgonnx.errors import UnsupportedError
from tgonnx.ops.aspects.relations import (
    Choice,
    Labels,
    Relation,
    Site,
    Tie,
    distinct,
    flat,
    is_whole,
    pairs,
    unique,
)
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.ops.aspects.view import Operand, Unlabelled, View
from tgonnx.ops.unprunable import COMPILED_DOMAINS
from tgonnx.options import attention_of

OF_HEADS = ("heads", "in each head")  # alternatives of operators that know what heads are


def analyze(model: Model, attention: Attention = "heads") -> Coupling:
    """Find units, groups and sites. Needs shapes only, no weights; a model is analysed once.

    `attention` says which factor of a heads x head-dim axis is cut. Raises UnsupportedError for a file that a
    runtime has compiled for one device.
    """
    attention = attention_of(attention)
    if attention not in model.couplings:
        model.couplings[attention] = solve(model, attention)
    return model.couplings[attention]


def solve(model: Model, attention: Attention = "heads") -> Coupling:
    """`analyze`, done anew."""
    _refuse_compiled(model)
    solver = _Solver(model)
    solver.run(attention)
    return solver.result(attention)


class _Solver:
    """Collects the relations of all nodes and solves them."""

    def __init__(self, model: Model) -> None:
        self.model, self.labelling = model, Labelling(model)
        self.views: list[View] = []
        self.reasons: list[tuple[str, str, str]] = []  # node, op_type, text
        self.pins: list[tuple[Labels, int]] = []
        self.ties: list[tuple[int, Tie]] = []
        self.sites: list[tuple[int, Site]] = []
        self.choices: list[OpenChoice] = []

    def run(self, attention: Attention) -> None:
        of_input = self._reason("", "input", "an axis of a model input")
        of_output = self._reason("", "output", "an axis of a model output")
        self.pins.append((self.labelling.all_of(self.model.inputs), of_input))
        read = sizes_read(self.model)
        for node in self.model.nodes:
            self._collect(node, read.get(node.index, frozenset()))
        self.pins.append((self.labelling.all_of(self.model.outputs), of_output))
        self.classes = Classes(self.labelling.size)
        if self.ties:
            tied = [pairs(tie.a, tie.b) for _, tie in self.ties]
            self.classes.union(np.concatenate([a for a, _ in tied]), np.concatenate([b for _, b in tied]))
        for labels, reason in self.pins:
            self.classes.pin(labels, reason)
        for _, site in self.sites:
            if site.paired:
                self.classes.mark(site.labels)
        solve_choices(self.classes, self.choices, _Preference(self.classes, attention))
        for choice in self.choices:
            self._state(choice.node, choice.decided.relations if choice.decided is not None else ())

    def _collect(self, node: Node, sizes_read: frozenset[int]) -> None:
        """Label what a node makes, and note what its rule says."""
        labelling, why = self.labelling, ""

        def ask() -> list[Relation]:
            nonlocal why
            view = _view(self.model, labelling, node, sizes_read)
            self.views[node.index :] = [view]
            relations, why = self._relations(node, view)
            return relations

        relations, too_long = labelling.label_outputs(node, ask)
        self._state(node.index, relations)
        ties = tuple(relation for relation in relations if isinstance(relation, Tie))
        for relation in relations:
            if isinstance(relation, Choice):
                text = "a product of axes that is cut along another factor"
                reason = self._reason(node.label, node.op_type, text)
                self.choices.append(OpenChoice(node.index, relation.alternatives, reason, ties))
        self._pin(labelling.unsaid(node, relations), node, why)
        self._pin(too_long, node, "the axis is too long to be followed index by index")
        labelling.spread(relations)

    def _state(self, node: int, relations: Iterable[Relation]) -> None:
        for relation in relations:
            if isinstance(relation, Tie):
                self.ties.append((node, relation))
            elif isinstance(relation, Site):
                self.sites.append((node, relation))

    def _pin(self, labels: Labels, node: Node, why: str) -> None:
        if labels.size:
            self.pins.append((labels, self._reason(node.label, node.op_type, why)))
            self.labelling.pin(labels)

    def _reason(self, node: str, op_type: str, text: str) -> int:
        self.reasons.append((node, op_type, text))
        return len(self.reasons) - 1

    def _relations(self, node: Node, view: View) -> tuple[list[Relation], str]:
        """What the node's rule says, and why whatever it leaves out is kept."""
        entry = ops.rule.get(node.op_type, node.domain)
        if entry is None:
            return [], f"no rule for {node.domain or 'ai.onnx'}::{node.op_type}"
        if node.captures:
            return [], "control flow"
        unknown = next((name for name in (*node.inputs, *node.outputs) if self.labelling.lacks(name)), None)
        if unknown is not None:  # to a rule it would look like an operand that is left out
            return [], f"{unknown!r} has no known shape"
        try:
            relations = list(entry(view))
        except Unlabelled as error:
            return [], str(error)
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:  # not foreseen: kept whole
            return [], f"its rule failed ({type(error).__name__}: {error})"
        if any(isinstance(r, Site) and r.kind == "normalize" for r in flat(relations)) and not ops.gated.get(
            node.op_type, node.domain
        ):
            return [], f"{node.op_type} has no form over the open channels only"
        types = self.model.first.types
        if any(
            isinstance(r, Site) and types[node.inputs[r.input]] == onnx.TensorProto.BOOL
            for r in flat(relations)
        ):
            return [], "a gate cannot act on booleans"
        return relations, f"{node.op_type} needs every index of this axis"

    def result(self, attention: Attention) -> Coupling:
        roots = self.classes.find(np.arange(self.labelling.size))
        free = self.classes.reason[roots] == Classes.FREE
        groups, unit_of = self._groups(roots, free)
        return Coupling(
            self.model,
            self.labelling,
            tuple(self.views),
            unit_of,
            roots,
            tuple(self.ties),
            groups,
            tuple(self._placed_sites(unit_of)),
            self._pinned(roots, unit_of),
            attention,
            self._of_attention(groups, unit_of),
        )

    def _of_attention(self, groups: tuple[Group, ...], unit_of: npt.NDArray[np.int64]) -> frozenset[int]:
        """Numbers of the groups of heads, or of their width.

        Heads run beside the matrices in products of two activations. An axis of a weight that is a product of such a
        factor and of something else is one of attention, whichever of the two is cut.
        """
        owner = {unit: number for number, group in enumerate(groups) for unit in group.units.tolist()}
        heads, found = self._heads(), set[int]()
        for choice in self.choices:
            if choice.decided is None:
                continue
            factors = (distinct(alternative.factor) for alternative in choice.alternatives)
            are = {bool(np.isin(self.classes.find(labels), heads).any()) for labels in factors}
            if len(are) > 1 or choice.decided.name in OF_HEADS:
                units = unit_of[distinct(choice.decided.factor)]
                found |= {owner[unit] for unit in units[units >= 0].tolist()}
        return frozenset(number for number in found if self._is_wide(groups[number], unit_of))

    def _is_wide(self, group: Group, unit_of: npt.NDArray[np.int64]) -> bool:
        """Whether a unit holds several indices of an axis of a weight, as heads do, and what all heads have."""
        return any(
            int((unit_of[self.labelling.axes[member.value][member.axis]] == group.units[0]).sum()) > 1
            for member in group.members
            if member.value in self.model.initializers
        )

    def _heads(self) -> Labels:
        """The classes of all axes before the matrices that both operands of a product of activations have.

        What is pinned for another reason than that a choice was made, as samples and positions are, is none.
        """
        found, axes = [np.zeros(0, np.int64)], self.labelling.axes

        def classes(name: str, end: int | None = None) -> Labels:
            parts = [distinct(labels) for labels in axes[name][:end]]
            return self.classes.find(np.concatenate([np.zeros(0, np.int64), *parts]))

        for index in sorted({index for index, site in self.sites if site.paired}):
            node = self.model.nodes[index]
            if all(name in axes for name in (*node.inputs[:2], node.outputs[0])):
                both = np.intersect1d(classes(node.inputs[0]), classes(node.inputs[1]))
                found.append(np.intersect1d(both, classes(node.outputs[0], -2)))
        roots = unique(np.concatenate(found))
        loose = [Classes.FREE, *(choice.reason for choice in self.choices)]
        return roots[np.isin(self.classes.reason[roots], loose)]

    def _groups(
        self, roots: Labels, free: npt.NDArray[np.bool_]
    ) -> tuple[tuple[Group, ...], npt.NDArray[np.int64]]:
        """Units and groups.

        Classes with the same number of labels in the same axes are of one kind. Kinds of one unit each (a channel
        shuffle takes every channel to another place) are put together by the first weight that they come from.
        """
        names = [Axis(name, i) for name, parts in self.labelling.axes.items() for i in range(len(parts))]
        axis_of = self.labelling.owner()
        weights = np.array([a.value in self.model.static for a in names], bool)
        place = places(names, self.model.nodes)
        token = np.random.default_rng(0).integers(0, 2**63, len(names), dtype=np.uint64)
        signature, first = np.zeros(self.labelling.size, np.uint64), np.full(self.labelling.size, len(names))
        np.add.at(signature, roots, token[axis_of])
        in_weight = weights[axis_of]
        np.minimum.at(first, roots[in_weight], place[axis_of[in_weight]])
        candidates = unique(roots[free])
        candidates = candidates[first[candidates] < len(names)]
        kinds: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for root in candidates.tolist():
            kinds[(int(signature[root]),)].append(root)
        families: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
        for kind, members in kinds.items():
            key = kind if len(members) > 1 else (-1, int(first[members[0]]))
            families[key].append(members)
        order = np.argsort(roots, kind="stable")
        unit_number = np.full(self.labelling.size, -1, np.int64)
        groups: list[Group] = []
        start = 0
        for family in families.values():
            members = [root for kind in family for root in kind]
            if len(members) < 2:
                continue
            units = np.arange(start, start + len(members))
            start += len(members)
            unit_number[members] = units
            spans = [np.searchsorted(roots, [r, r + 1], sorter=order) for r in (kind[0] for kind in family)]
            held = [axis_of[order[low:high]] for low, high in spans]
            member_axes = tuple(names[a] for a in unique(np.concatenate(held)))
            width = max(int(np.bincount(axes).max()) for axes in held)
            kind_of = np.repeat(np.arange(len(family)), [len(kind) for kind in family])
            groups.append(Group(_group_name(member_axes, self.model), units, member_axes, width, kind_of))
        return tuple(groups), np.where(free, unit_number[roots], -1)

    def _placed_sites(self, unit_of: npt.NDArray[np.int64]) -> Iterator[PlacedSite]:
        for node, site in self.sites:
            if not is_whole(site.labels) and (unit_of[site.labels] >= 0).any():
                yield PlacedSite(site.kind, node, site.input, site.axis, unit_of[site.labels])

    def _pinned(self, roots: Labels, unit_of: npt.NDArray[np.int64]) -> tuple[Pinned, ...]:
        """Axes of float weights and of their products that stay, with the first reason found."""
        found: list[tuple[str, int, Labels]] = []
        for name, tensor in self.model.initializers.items():
            if tensor.data_type not in (1, 10, 11, 16):
                continue
            for axis, labels in enumerate(self.labelling.axes.get(name, ())):
                kept = labels[unit_of[labels] < 0]
                if len(kept) and len(labels) > 1:
                    found.append((name, axis, kept))
        first = [int(roots[kept[0]]) for _, _, kept in found]
        single = {root for root in first if self.classes.reason[root] == Classes.FREE}
        joined = joining_nodes(self.ties, roots, self.labelling.owner(), single) if single else {}
        return tuple(
            Pinned(name, axis, len(kept), *self._why(roots[kept], joined)) for name, axis, kept in found
        )

    def _why(self, kept: Labels, joined: dict[int, int]) -> tuple[str, str, str]:
        """Node, operator and reason that keep the first of these classes."""
        root = int(kept[0])
        if (number := int(self.classes.reason[root])) != Classes.FREE:
            return self.reasons[number]
        count = int((kept == root).sum())
        if count == 1 or root not in joined:
            return "", "", "it is the only unit of its kind"
        node = self.model.nodes[joined[root]]
        return node.label, node.op_type, f"all {count} channels are tied together, by {node.label}"


class _Preference:
    """Ranks the alternatives of free choices: heads before head-dim (or the reverse), then the larger factor.

    Marked classes are summed over in products of two activations.
    """

    def __init__(self, classes: Classes, attention: Attention) -> None:
        self.classes, self.attention = classes, attention

    def __call__(self, choice: OpenChoice) -> list[tuple[int, ...]]:
        factors = [distinct(a.factor) for a in choice.alternatives]
        summed = [bool(self.classes.marked[self.classes.find(labels)].any()) for labels in factors]
        contrast = len(set(summed)) > 1
        ranks: list[tuple[int, ...]] = []
        for alternative, is_summed in zip(choice.alternatives, summed, strict=True):
            wanted = is_summed == (self.attention == "head-dim")
            ranks.append((int(contrast and wanted), int(wanted), len(alternative.factor)))
        return ranks


def _view(model: Model, labelling: Labelling, node: Node, sizes_read: frozenset[int]) -> View:
    return View(
        node.label,
        node.op_type,
        model.first.opsets.get(node.domain, 1),
        node.attributes,
        tuple(_operand(model, labelling, name, i) for i, name in enumerate(node.inputs)),
        tuple(_operand(model, labelling, name, i) for i, name in enumerate(node.outputs)),
        sizes_read,
        model.opset,
    )


def _operand(model: Model, labelling: Labelling, name: str, index: int) -> Operand | None:
    if name not in labelling.axes:
        return None
    known, elements = model.symbols.static(name), known_elements(model, name)
    return Operand(name, index, labelling.axes[name], name in model.static, known, elements)


def _refuse_compiled(model: Model) -> None:
    """What onnxruntime writes with all its optimisations on holds blocked layouts and weights packed for one CPU."""
    for node in model.nodes:
        if node.domain in COMPILED_DOMAINS or traits_of(node).compiled:
            raise UnsupportedError(
                f"{model.source}: node {node.label} ({node.domain}::{node.op_type}) is of a file that onnxruntime "
                "optimised for one device; prune the model it was made from"
            )


def _group_name(members: tuple[Axis, ...], model: Model) -> str:
    """The first weight that the group's channels come from."""
    return next((str(m) for m in members if m.value in model.initializers), str(members[0]))
