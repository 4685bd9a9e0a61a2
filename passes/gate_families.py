"""Gate families: what can be gated, each with all that differs between them.

A family has one gate for each thing that may go. Pipeline and objective ask it, so that another one is a file and a
word in `FAMILIES`. Masks know channels, branches and single weights, so that cutting is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.gate_cost import BranchCost, WeightCost
from tgonnx.analysis.kinds import Kind, Measure
from tgonnx.analysis.target import Target
from tgonnx.graph.builder import Value
from tgonnx.passes.gate_branches import ALL_GATES, BRANCH_GATES, gate_branches
from tgonnx.passes.gate_choices import gate_choices
from tgonnx.passes.gate_weights import WEIGHT_GATES, gate_weights
from tgonnx.passes.insert_gates import GATES, insert_gates
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.branch_order import fit_both, fit_branches
from tgonnx.selection.budget import fit
from tgonnx.selection.choice_fit import fit_choices
from tgonnx.selection.mask import Mask
from tgonnx.selection.scoring import Scores
from tgonnx.selection.weight_choice import fit_weights


class Costs(Protocol):
    """What says how a kind of cost is written from prices."""

    def measure(self, kind: Kind) -> Measure:
        """The kind of cost of that name."""


@dataclass(frozen=True, kw_only=True)
class GateFamily:
    """A family of gates.

    * `vector` is the value of a gated graph that holds its gates, float32 [gates]; `count` says how many there are;
    * `insert` gates a copy of a model: with a mask its gates are constants, else `vector` is an input;
    * `price` says how much of each unit a cost counts, [gates, 1], from the gates and their hysteresis, a scalar, and
      `costs` what is counted;
    * `commit` makes a mask of scores, one for each gate, that meets a target within bounds (raises TargetError);
    * `cut` deletes from a copy of a model what a mask closes;
    * `rivals`: how many are open never changes (`tgonnx.training.rivals`); to cost less than the target costs nothing.
    """

    name: str
    vector: str
    insert: Callable[[onnx.ModelProto, Coupling, Mask | None], onnx.ModelProto]
    price: Callable[[Value, Value], Value]
    count: Callable[[Coupling], int]
    costs: Callable[[Coupling], Costs]
    commit: Callable[[Coupling, Scores, Target, Bounds], Mask]
    cut: Callable[[onnx.ModelProto, Coupling, Mask], onnx.ModelProto]
    rivals: bool = False


def hysteretic(gates: Value, hysteresis: Value) -> Value:
    """g + h (g - g^2), [units, 1]: g at zero and one, with a slope of 1 + h where closed and 1 - h where open."""
    return gates + hysteresis * (gates - gates * gates)


def _branches_gated(proto: onnx.ModelProto, coupling: Coupling, mask: Mask | None) -> onnx.ModelProto:
    return gate_branches(proto, coupling) if mask is None else insert_gates(proto, coupling, mask)


def _both_gated(proto: onnx.ModelProto, coupling: Coupling, mask: Mask | None) -> onnx.ModelProto:
    gated = insert_gates(proto, coupling, mask)
    return gate_branches(gated, coupling) if mask is None else gated


def _weights_gated(proto: onnx.ModelProto, coupling: Coupling, mask: Mask | None) -> onnx.ModelProto:
    return gate_weights(proto, coupling) if mask is None else insert_gates(proto, coupling, mask)


def _choices_gated(proto: onnx.ModelProto, coupling: Coupling, mask: Mask | None) -> onnx.ModelProto:
    return gate_choices(proto, coupling) if mask is None else insert_gates(proto, coupling, mask)


CHANNELS = GateFamily(  # of layers, and whole heads of attention: everything that a coupling has units for
    name="channels",
    vector=GATES,
    insert=insert_gates,
    price=hysteretic,
    count=lambda coupling: coupling.units,
    costs=lambda coupling: coupling.cost_model,
    commit=fit,
    cut=remove_channels,
)
BLOCKS = GateFamily(  # residual branches
    name="blocks",
    vector=BRANCH_GATES,
    insert=_branches_gated,
    price=hysteretic,
    count=lambda coupling: len(coupling.branches),
    costs=lambda coupling: BranchCost(coupling, of_units=False),
    commit=fit_branches,
    cut=remove_channels,
)
CHANNELS_AND_BLOCKS = GateFamily(  # in one vector: channels first
    name="channels and blocks",
    vector=ALL_GATES,
    insert=_both_gated,
    price=hysteretic,
    count=lambda coupling: coupling.units + len(coupling.branches),
    costs=BranchCost,
    commit=fit_both,
    cut=remove_channels,
)
WEIGHTS = GateFamily(  # single elements of kernels and matrices
    name="weights",
    vector=WEIGHT_GATES,
    insert=_weights_gated,
    price=hysteretic,
    count=lambda coupling: sum(coupling.model.single_weights.values()),
    costs=WeightCost,
    commit=fit_weights,
    cut=remove_channels,
)
CHOICES = GateFamily(  # alternatives where several values meet
    name="choices",
    vector=BRANCH_GATES,
    insert=_choices_gated,
    price=lambda gates, hysteresis: gates,
    count=lambda coupling: len(coupling.branches),
    costs=lambda coupling: BranchCost(coupling, of_units=False),
    commit=fit_choices,
    cut=remove_channels,
    rivals=True,
)
FAMILIES = {family.name: family for family in (CHANNELS, BLOCKS, CHANNELS_AND_BLOCKS, WEIGHTS, CHOICES)}


def family_of(bounds: Bounds) -> GateFamily:
    """The family of what may be cut."""
    if bounds.chooses:
        return CHOICES
    if bounds.cuts_weights:
        return WEIGHTS
    if not bounds.cuts_branches:
        return CHANNELS
    return CHANNELS_AND_BLOCKS if bounds.cuts_units else BLOCKS
