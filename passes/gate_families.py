"""Gate families: what can be gated, each with all that differs between them.

A family has one gate for each unit. Pipeline and objective ask it, so that another one (whole blocks, single weights)
is a file and a word in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from tgonnx.analysis.coupling import Coupling
from tgonnx.analysis.target import Target
from tgonnx.graph.builder import Value
from tgonnx.passes.insert_gates import GATES, insert_gates
from tgonnx.passes.remove_channels import remove_channels
from tgonnx.selection.bounds import Bounds
from tgonnx.selection.budget import fit
from tgonnx.selection.mask import Mask
from tgonnx.selection.scoring import Scores


@dataclass(frozen=True, kw_only=True)
class GateFamily:
    """A family of gates.

    * `vector` is the value of a gated graph that holds its gates, float32 [units];
    * `insert` gates a copy of a model: with a mask its gates are constants, else `vector` is an input;
    * `price` says how much of each unit a cost counts, [units, 1], from the gates and their hysteresis, a scalar;
    * `commit` makes a mask of scores, one for each unit, that meets a target within bounds (raises TargetError);
    * `cut` deletes from a copy of a model what a mask closes.
    """

    name: str
    vector: str
    insert: Callable[[onnx.ModelProto, Coupling, Mask | None], onnx.ModelProto]
    price: Callable[[Value, Value], Value]
    commit: Callable[[Coupling, Scores, Target, Bounds], Mask]
    cut: Callable[[onnx.ModelProto, Coupling, Mask], onnx.ModelProto]


def hysteretic(gates: Value, hysteresis: Value) -> Value:
    """g + h (g - g^2), [units, 1]: g at zero and one, with a slope of 1 + h where closed and 1 - h where open."""
    return gates + hysteresis * (gates - gates * gates)


CHANNELS = GateFamily(  # of layers, and whole heads of attention: everything that a coupling has units for
    name="channels",
    vector=GATES,
    insert=insert_gates,
    price=hysteretic,
    commit=fit,
    cut=remove_channels,
)
FAMILIES = {family.name: family for family in (CHANNELS,)}
