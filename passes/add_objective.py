"""The objective: a task loss, and the paper's penalty (Kim et al., equation 7) on what the open gates cost.

Handled:
* `ce`: cross-entropy of labels. A Softmax at the end of the model is taken off first, as it is for `distill`,
  also where reshapes or transposes follow (a Softmax of opset 12 stands between two reshapes).
  With `imitation`, that share of the loss is cross-entropy of the original model's probabilities (less their
  entropy), which keeps small data sets from being learned by heart;
* `bce`: binary cross-entropy of logits; a Sigmoid at the end is taken off first;
* `mse`, `l1`: the first output against targets;
* `distill`: every float output against the original model's. Probabilities by Kullback-Leibler divergence,
  other outputs by squared error over the variance that the original's output has in the batch.

The penalty is mu d + strength d^2 with d = C(w)/Ctot - rho, mu and rho being inputs. The paper's form with a
fixed lambda is mu = 0, strength = lambda, rho = the target; the host makes an augmented Lagrangian of it by
changing mu and rho from step to step. C(w) has the terms of `CostModel`: at gates of zero and one it is what
the report counts.

The price of a gate g is g + h (g - g^2), h being an input. That is g at zero and one, but its slope is 1 + h where
the gate is closed and 1 - h where it is open. A trained network lies in a minimum: at an open gate the task's slope is
near zero, at a closed one about twice what opening it gains. With h = 0 each price thus closes a gate that it opens
again a step later; with h = 1 a gate rests where it costs least (exactly so for a quadratic loss with its minimum
at the open gate).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from tgonnx.analysis.cost import CostModel, Kind
from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Emitter, Value
from tgonnx.losses.fit import Fit
from tgonnx.passes.insert_gates import GATES

ANSWER = "tgonnx.answer"  # labels int64 or targets float32, one per sample
TEACHER = "tgonnx.teacher/"  # + output: what the original model says
MU, RHO, HYSTERESIS = "tgonnx.mu", "tgonnx.rho", "tgonnx.hysteresis"  # scalars
LOSS, TASK, COST = "tgonnx.loss", "tgonnx.task_loss", "tgonnx.cost"  # scalars; COST is a ratio
_PASSES = ("Identity", "Cast", "Dropout")
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


@dataclass(frozen=True)
class Penalty:
    """`strength` multiplies the squared excess of cost, in units of the loss."""

    cost: CostModel
    kind: Kind
    strength: float


def add_objective(
    model: onnx.ModelProto,
    fit: Fit,
    answer_shape: tuple[int, ...] | None = None,
    outputs: Mapping[str, tuple[int, ...]] | None = None,
    penalty: Penalty | None = None,
    imitation: float = 0.0,
) -> onnx.ModelProto:
    """A copy whose outputs are the loss, the task's part of it and, with a penalty, the cost ratio.

    `answer_shape` is the shape of a batch of labels or targets, `outputs` those of the float outputs to
    distill (the first output if `imitation` is not 0). Raises UnsupportedError if there is nothing to distill.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    writer = _Writer(copy)
    distilled = fit.loss == "distill"
    task = writer.distill(outputs or {}) if distilled else writer.supervised(fit, answer_shape or ())
    if imitation and fit.loss == "ce":
        same = writer.probabilities(fit.output, (outputs or {})[fit.output], fit.class_axis)
        task = task * (1 - imitation) + same * imitation
    del copy.graph.output[:]
    loss = task
    if penalty is not None:
        ratio = writer.name(writer.cost_ratio(penalty.cost, penalty.kind), COST)
        excess = ratio - writer.input(RHO, TensorProto.FLOAT, ())
        loss = task + (writer.input(MU, TensorProto.FLOAT, ()) * excess + excess * excess * penalty.strength)
    writer.finish(loss, task, penalty is not None)
    return copy


class _Writer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.emitter = Emitter("tgonnx.objective/")
        self.types = {v.name: v.type.tensor_type.elem_type for v in (*self.graph.output, *self.graph.input)}

    def input(self, name: str, elem_type: int, shape: tuple[int, ...]) -> Value:
        self.graph.input.append(helper.make_tensor_value_info(name, elem_type, list(shape)))
        return self.emitter.value(name, elem_type)

    def name(self, value: Value, name: str) -> Value:
        """The same value under a fixed name."""
        named = self.emitter.op("Identity", value)
        self.emitter.nodes[-1].output[0] = name
        return self.emitter.value(name, named.elem_type)

    def finish(self, loss: Value, task: Value, penalised: bool) -> None:
        self.name(loss, LOSS)
        self.name(task, TASK)
        self.graph.node.extend(self.emitter.nodes)
        for name in (LOSS, TASK, *([COST] if penalised else [])):
            self.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))

    def before(self, output: str, op_type: str) -> tuple[NodeProto, list[NodeProto]] | None:
        """The node of `op_type` that ends the model, and the nodes behind it that move its values."""
        name, moves = output, list[NodeProto]()
        while name in self.makers and self.makers[name].op_type in (*_PASSES, *_MOVES):
            maker = self.makers[name]
            moves[:0] = [maker] if maker.op_type in _MOVES else []
            name = maker.input[0]
        maker = self.makers.get(name)
        return (maker, moves) if maker is not None and maker.op_type == op_type else None

    def moved(self, value: Value, moves: Sequence[NodeProto]) -> Value:
        """What `moves` do, done to another value."""
        for move in moves:
            copy = NodeProto()
            copy.CopyFrom(move)
            copy.name = copy.output[0] = self.emitter.fresh(move.op_type)
            copy.input[0] = value.name
            self.emitter.nodes.append(copy)
            value = self.emitter.value(copy.output[0], value.elem_type)
        return value

    def log_probabilities(self, output: str) -> Value | None:
        """In the shape of the output, if the model ends with a Softmax."""
        found = self.before(output, "Softmax")
        if found is None:
            return None
        softmax, moves = found
        axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
        scores = self.float32(softmax.input[0], output)
        return self.moved(self.emitter.op("LogSoftmax", scores, axis=axis), moves)

    def float32(self, name: str, output: str = "") -> Value:
        """A value as float32; it is an output of the model, or has the type of one."""
        elem_type = self.types.get(output or name, TensorProto.FLOAT)
        value = self.emitter.value(name, elem_type)
        return value if elem_type == TensorProto.FLOAT else value.cast(TensorProto.FLOAT)

    def supervised(self, fit: Fit, answer_shape: tuple[int, ...]) -> Value:
        if fit.loss == "ce":
            return self._cross_entropy(fit, answer_shape)
        answer = self.input(ANSWER, TensorProto.FLOAT, answer_shape)
        if fit.loss == "bce":
            found = self.before(fit.output, "Sigmoid")
            if found is None:
                x = self.float32(fit.output)
            else:
                x = self.moved(self.float32(found[0].input[0], fit.output), found[1])
            # -(t log s(x) + (1 - t) log(1 - s(x))) = max(x, 0) - x t + log(1 + exp(-|x|))
            soft = self.emitter.op("Log", self.emitter.op("Exp", -self.emitter.op("Abs", x)) + 1.0)
            return (self.emitter.op("Relu", x) - x * answer + soft).mean(None, False)
        difference = self.float32(fit.output) - answer
        if fit.loss == "l1":
            return self.emitter.op("Abs", difference).mean(None, False)
        return (difference * difference).mean(None, False)

    def _cross_entropy(self, fit: Fit, answer_shape: tuple[int, ...]) -> Value:
        labels = self.input(ANSWER, TensorProto.INT64, answer_shape)
        logs = self.log_probabilities(fit.output)
        scores = self.float32(fit.output) if logs is None else logs
        rank = len(answer_shape) + 1
        if fit.class_axis not in (None, 1) and rank > 2:
            scores = scores.transpose([0, rank - 1, *range(1, rank - 1)])
        kind = "SoftmaxCrossEntropyLoss" if logs is None else "NegativeLogLikelihoodLoss"
        return self.emitter.op(kind, scores, labels, reduction="mean")

    def distill(self, outputs: Mapping[str, tuple[int, ...]]) -> Value:
        if not outputs:
            raise UnsupportedError("loss distill: the model has no output of floats")
        parts = [self._imitate(name, shape) for name, shape in outputs.items()]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _imitate(self, name: str, shape: tuple[int, ...]) -> Value:
        teacher = self.input(TEACHER + name, TensorProto.FLOAT, shape)
        logs = self.log_probabilities(name)
        if logs is not None:
            return self._divergence(teacher, logs)
        centred = teacher - teacher.mean(None, False)
        difference = self.float32(name) - teacher
        return (difference * difference).mean(None, False) / ((centred * centred).mean(None, False) + 1e-12)

    def probabilities(self, name: str, shape: tuple[int, ...], class_axis: int | None) -> Value:
        """Kullback-Leibler divergence of the student's probabilities from the teacher's."""
        teacher = self.input(TEACHER + name, TensorProto.FLOAT, shape)
        logs = self.log_probabilities(name)
        if logs is None:
            axis = 1 if class_axis is None else class_axis
            teacher = self.emitter.op("Softmax", teacher, axis=axis)
            logs = self.emitter.op("LogSoftmax", self.float32(name), axis=axis)
        return self._divergence(teacher, logs)

    def _divergence(self, teacher: Value, log_student: Value) -> Value:
        """The mean over the distributions, of which there are as many as the probabilities add up to."""
        log_teacher = self.emitter.op("Log", self.emitter.op("Max", teacher, self.emitter.scalar(1e-8)))
        return (teacher * (log_teacher - log_student)).sum(None, False) / teacher.sum(None, False)

    def cost_ratio(self, cost: CostModel, kind: Kind) -> Value:
        """C(w) / Ctot: each term is its share of the total times the kept fraction of every axis."""
        e = self.emitter
        full = cost.fixed + cost.lengths @ cost.sizes
        terms = [t for t in cost.terms[kind] if all(full[a] for a in t.axes)]
        rank = max(len(t.axes) for t in terms)
        share = [
            t.coefficient * np.prod(full[list(t.axes)], dtype=np.float64) / cost.totals[kind] for t in terms
        ]
        per_unit = cost.lengths[:, cost.kind_of] / np.maximum(full, 1)[:, None]
        fixed = cost.fixed / np.maximum(full, 1)
        # one axis more, of fraction 1, fills up terms of fewer axes
        per_unit = np.vstack([per_unit, np.zeros(per_unit.shape[1])]).astype(np.float32)
        gates = e.value(GATES).reshape([-1, 1])
        priced = gates + self.input(HYSTERESIS, TensorProto.FLOAT, ()) * (gates - gates * gates)
        kept = e.matmul(e.constant(per_unit), priced).reshape([-1])
        kept = kept + e.constant(np.append(fixed, 1.0).astype(np.float32))
        axes = np.array([[*t.axes, *[len(full)] * (rank - len(t.axes))] for t in terms], np.int64)
        product = e.constant(np.array(share, np.float32))
        for column in axes.T:
            product = product * e.op("Gather", kept, e.constant(column), axis=0)
        return product.sum(None, False)
