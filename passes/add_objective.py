"""The objective: a task loss, and the paper's penalty (Kim et al., equation 7) on what the open gates cost.

Each loss writes its own nodes (`tgonnx.losses`), each in its file; the task's is their weighted sum over outputs.
Outputs for which nothing is given follow the original: else nothing would hold them.

The penalty is mu d + strength d^2 with d = C(w)/Ctot - rho, mu and rho being inputs. The paper's form with a
fixed lambda is mu = 0, strength = lambda, rho = the target; the host makes an augmented Lagrangian of it by
changing mu and rho from step to step. C(w) is written by the kind of cost: at gates of zero and one it is what
the report counts.

The price of a gate g is g + h (g - g^2), h being an input. That is g at zero and one, but its slope is 1 + h where
the gate is closed and 1 - h where it is open. A trained network lies in a minimum: at an open gate the task's slope is
near zero, at a closed one about twice what opening it gains. With h = 0 each price thus closes a gate that it opens
again a step later; with h = 1 a gate rests where it costs least (exactly so for a quadratic loss with its minimum
at the open gate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx
from onnx import TensorProto, helper

from tgonnx.analysis.kinds import Kind
from tgonnx.graph.builder import Value
from tgonnx.losses.fit import Fit
from tgonnx.losses.nodes import Nodes
from tgonnx.passes import PassResult, perform
from tgonnx.passes.gate_families import CHANNELS, Costs, GateFamily
from tgonnx.passes.merge_loss import merged

MU, RHO, HYSTERESIS = "tgonnx.mu", "tgonnx.rho", "tgonnx.hysteresis"  # scalars
LOSS, TASK, COST = "tgonnx.loss", "tgonnx.task_loss", "tgonnx.cost"  # scalars; COST is a ratio


@dataclass(frozen=True)
class Penalty:
    """What gates of `family` cost; `strength` multiplies the squared excess of it, in units of the loss."""

    cost: Costs
    kind: Kind
    strength: float
    family: GateFamily = CHANNELS


@dataclass(frozen=True)
class AddObjective:
    """`add_objective` as a pass."""

    name: ClassVar = "add-objective"
    in_place: ClassVar = False
    keeps_values: ClassVar = False  # its outputs are others

    fit: Fit
    answers: Mapping[str, tuple[int, ...]] | None = None
    outputs: Mapping[str, tuple[int, ...]] | None = None
    penalty: Penalty | None = None
    imitation: float = 0.0

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        return PassResult(_with_objective(model, self), True)


def add_objective(
    model: onnx.ModelProto,
    fit: Fit,
    answers: Mapping[str, tuple[int, ...]] | None = None,
    outputs: Mapping[str, tuple[int, ...]] | None = None,
    penalty: Penalty | None = None,
    imitation: float = 0.0,
) -> onnx.ModelProto:
    """A copy whose outputs are the loss, the task's part of it and, with a penalty, the cost ratio.

    `answers` are the shapes of a batch of labels or targets by output, `outputs` those of the outputs of which the
    original is asked: those that follow it, and if `imitation` is not 0 those that follow it for a part. Raises
    UnsupportedError if there is nothing to distill, and UsageError for an unknown loss.
    """
    return perform(AddObjective(fit, answers, outputs, penalty, imitation), model).model


def _with_objective(model: onnx.ModelProto, asked: AddObjective) -> onnx.ModelProto:
    fit, penalty = asked.fit, asked.penalty
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = Nodes(copy, fit, asked.answers, asked.outputs, asked.imitation)
    first, *others = (_weighted(nodes.of(part), part, copy) for part in fit.parts if part.weight)
    task = first
    for each in others:
        task = task + each
    del copy.graph.output[:]
    loss = task
    if penalty is not None:
        ratio = nodes.name(_cost_ratio(nodes, penalty), COST)
        excess = ratio - nodes.input(RHO, TensorProto.FLOAT, ())
        excess = nodes.emitter.op("Relu", excess) if penalty.family.rivals else excess
        loss = task + (nodes.input(MU, TensorProto.FLOAT, ()) * excess + excess * excess * penalty.strength)
    nodes.name(loss, LOSS)
    nodes.name(task, TASK)
    copy.graph.node.extend(nodes.emitter.nodes)
    for name in (LOSS, TASK, *([COST] if penalty is not None else [])):
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    return copy


def _weighted(nodes: Nodes, part: Fit, model: onnx.ModelProto) -> Value:
    """The loss of one output, as much as it counts."""
    found = part.definition.emit(nodes) if part.graph is None else merged(nodes, part.graph, model)
    return found if part.weight == 1 else found * part.weight


def _cost_ratio(nodes: Nodes, penalty: Penalty) -> Value:
    """C(w) / Ctot at the prices of the gates."""
    gates = nodes.emitter.value(penalty.family.vector).reshape([-1, 1])
    priced = penalty.family.price(gates, nodes.input(HYSTERESIS, TensorProto.FLOAT, ()))
    return penalty.cost.measure(penalty.kind).emit(nodes.emitter, priced)
