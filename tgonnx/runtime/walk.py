"""Running a model on many batches piece by piece: what one piece gives is what the next one starts from.

Whoever changes a model layer after layer, looking at what each layer is given, would otherwise run all that stands
before a layer again for each. What is kept between two pieces is bounded: where it would take more room, the next
piece starts where the last one did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from tgonnx.graph.proto import with_values
from tgonnx.graph.types import Array
from tgonnx.runtime.noise import read_by
from tgonnx.runtime.sessions import Feeds, Session, open_session


class Walk:
    """The values of a model on `batches`, asked for in the order of its nodes.

    Only what `wanted` values depend on is run. `room` is how many bytes may be kept.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        batches: Sequence[Mapping[str, Array]],
        wanted: Collection[str],
        room: int,
        threads: int = 0,
    ) -> None:
        self.model, self.batches, self.threads = model, batches, threads
        self.room = room
        self._nodes = _needed_nodes(model, wanted)
        self._place = {name: place for place, node in enumerate(self._nodes) for name in node.output if name}
        self._given = {value.name for value in model.graph.input}
        self._start, self._kept = 0, batches

    def __call__(self, names: Collection[str]) -> Iterator[Feeds]:
        """These values of each batch."""
        known = self._known()
        open_names = [name for name in names if name not in known]
        session, reads = self._piece(open_names) if open_names else (None, set[str]())
        for kept in self._kept:
            found = {name: np.asarray(kept[name]) for name in names if name in known}
            if session is not None:
                found |= session.run({name: kept[name] for name in reads})
            yield found

    def change(self, values: Mapping[str, Array]) -> None:
        """Give initializers other values, which no node that was passed by `advance` may read."""
        self.model = with_values(self.model, values)

    def advance(self, name: str) -> None:
        """Keep what is needed from the node on that makes `name`, as far as there is room."""
        place = self._place.get(name, 0)
        if place <= self._start:
            return
        live = self._live(place)
        first = next(iter(self(live)))
        if not all(isinstance(value, np.ndarray) and value.dtype != object for value in first.values()):
            return
        if sum(value.nbytes for value in first.values()) * len(self.batches) > self.room:
            return
        self._kept = [*self(live)]
        self._start = place

    def _known(self) -> set[str]:
        """What the current piece starts from."""
        return self._given if self._start == 0 else set(self._kept[0])

    def _live(self, place: int) -> list[str]:
        """What the nodes from `place` on read of those before, and of the inputs."""
        made = {name for node in self._nodes[:place] for name in node.output if name} | self._given
        read = {name for node in self._nodes[place:] for name in read_by(node)}
        return sorted(made & read)

    def _piece(self, names: Collection[str]) -> tuple[Session, set[str]]:
        """A session that makes `names` of what is known, and what of that it reads."""
        known, open_names = self._known(), set(names)
        nodes: list[onnx.NodeProto] = []
        for node in reversed(self._nodes[self._start :]):
            if open_names & set(node.output):
                nodes.append(node)
                open_names |= read_by(node) - known
        reads = {name for node in nodes for name in read_by(node)}
        kinds = {name: np.asarray(self._kept[0][name]).dtype for name in sorted(reads & known)}
        graph = helper.make_graph(
            nodes[::-1],
            "piece",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), None)
                for name, kind in kinds.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in names],
            [tensor for tensor in self.model.graph.initializer if tensor.name in reads],
            sparse_initializer=[t for t in self.model.graph.sparse_initializer if t.values.name in reads],
        )
        piece = helper.make_model(
            graph,
            opset_imports=self.model.opset_import,
            ir_version=self.model.ir_version,
            functions=self.model.functions,
        )
        return open_session(piece, self.threads), reads & known


def _needed_nodes(model: onnx.ModelProto, wanted: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes that `wanted` values depend on, in order."""
    needed, kept = set(wanted), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= read_by(node)
    return kept[::-1]
