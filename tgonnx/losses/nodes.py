"""What a loss is written with: the model's outputs, the answers and the teacher's outputs as values of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING

import onnx
from onnx import NodeProto, TensorProto, helper

from tgonnx.errors import UnsupportedError
from tgonnx.graph.builder import Emitter, Value
from tgonnx.ops.aspects.traits import Traits, traits_of

if TYPE_CHECKING:
    from tgonnx.losses.fit import Fit
    from tgonnx.losses.loss import Loss

ANSWER = "tgonnx.answer/"  # + output: labels int64 or targets float32, one per sample
TEACHER = "tgonnx.teacher/"  # + output: what the original model says


class Nodes:
    """The nodes that are added to `model`, which is changed in place, for the output of `fit`.

    `answers` are the shapes of a batch of answers by output, `outputs` those of what the teacher says, `imitation` is
    the share of a loss that should follow the teacher.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        fit: Fit,
        answers: Mapping[str, tuple[int, ...]] | None = None,
        outputs: Mapping[str, tuple[int, ...]] | None = None,
        imitation: float = 0.0,
    ) -> None:
        self.graph, self.fit = model.graph, fit
        self.answers, self.outputs, self.imitation = answers or {}, outputs or {}, imitation
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.emitter = Emitter("tgonnx.objective/")
        self.types = {v.name: v.type.tensor_type.elem_type for v in (*self.graph.output, *self.graph.input)}

    def of(self, fit: Fit) -> Nodes:
        """The same graph for another output."""
        other = copy(self)
        other.fit = fit
        return other

    @property
    def loss(self) -> Loss:
        """The loss of the output."""
        return self.fit.definition

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """The shape of a batch of answers."""
        return self.answers.get(self.fit.output, ())

    def answer(self) -> Value:
        """The answers of a batch: labels int64, targets float32."""
        labels = self.loss.answers == "label"
        kind = TensorProto.INT64 if labels else TensorProto.FLOAT
        return self.input(ANSWER + self.fit.output, kind, self.answer_shape)

    def taught(self, output: str) -> Value:
        """What the teacher says for an output, float32. Raises UnsupportedError if it says nothing there."""
        if output not in self.outputs:
            raise UnsupportedError(
                f"loss {self.fit.loss}: the model has no output of floats that it can follow"
            )
        return self.input(TEACHER + output, TensorProto.FLOAT, self.outputs[output])

    def scores(self) -> Value:
        """The output of the loss as float32, before the activation that the loss takes off if the model ends so."""
        found = self.activation(self.fit.output)
        if found is None:
            return self.float32(self.fit.output)
        return self.moved(self.float32(found[0].input[0], self.fit.output), found[1])

    def log_probabilities(self, output: str) -> Value | None:
        """In the shape of the output, if the model ends with a Softmax that the loss takes off."""
        found = self.activation(output)
        if found is None:
            return None
        softmax, moves = found
        axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
        scores = self.float32(softmax.input[0], output)
        return self.moved(self.emitter.op("LogSoftmax", scores, axis=axis), moves)

    def activation(self, output: str) -> tuple[NodeProto, list[NodeProto]] | None:
        """The activation that the loss takes off, if it ends the model, and the nodes behind that move its values."""
        name, moves = output, list[NodeProto]()
        while name in self.makers and _keeps_values(traits_of(self.makers[name])):
            maker = self.makers[name]
            moves[:0] = [] if traits_of(maker).elementwise else [maker]
            name = maker.input[0]
        maker = self.makers.get(name)
        return (maker, moves) if maker is not None and maker.op_type == self.loss.strips else None

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

    def float32(self, name: str, output: str = "") -> Value:
        """A value as float32; it is an output of the model, or has the type of one."""
        elem_type = self.types.get(output or name, TensorProto.FLOAT)
        value = self.emitter.value(name, elem_type)
        return value if elem_type == TensorProto.FLOAT else value.cast(TensorProto.FLOAT)

    def input(self, name: str, elem_type: int, shape: tuple[int, ...]) -> Value:
        """An input of the graph, which is added if it is not there."""
        if all(value.name != name for value in self.graph.input):
            self.graph.input.append(helper.make_tensor_value_info(name, elem_type, list(shape)))
        return self.emitter.value(name, elem_type)

    def name(self, value: Value, name: str) -> Value:
        """The same value under a fixed name."""
        named = self.emitter.op("Identity", value)
        self.emitter.nodes[-1].output[0] = name
        return self.emitter.value(name, named.elem_type)


def _keeps_values(are: Traits) -> bool:
    """Whether the output holds the numbers of input 0, each once, in whatever type and axes."""
    return are.rearranges or (are.elementwise and are.carries == (0,))
