"""Reading a model into the form that analysis, surgery and training know."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import onnx

from tgonnx.analysis.input_shapes import check_shapes
from tgonnx.analysis.model import Model, Source
from tgonnx.analysis.shapes import Shape
from tgonnx.errors import UsageError
from tgonnx.io import read as files
from tgonnx.io.hollow import Hollow
from tgonnx.io.limits import check_elements
from tgonnx.io.stamp import hash_of
from tgonnx.options import is_a
from tgonnx.passes import Pipeline, perform
from tgonnx.passes.file_form import PutFormAside
from tgonnx.passes.fold_shapes import fold
from tgonnx.passes.normalize import (
    ConstantsToInitializers,
    InlineFunctions,
    ResolveInitializerAliases,
    UnshareConstants,
)
from tgonnx.runtime.sessions import runtime_accepts


def read(source: Source) -> onnx.ModelProto:
    """A model from a path, from bytes or as a proto, checked; onnxruntime is the second opinion on its shapes.

    Raises UsageError if it is none of these or the path is not there, ModelError for everything wrong with the model.
    """
    if not isinstance(source, str | os.PathLike | bytes | onnx.ModelProto):
        raise UsageError(f"a model is a path, bytes or an onnx.ModelProto, not a {type(source).__name__}")
    return files.read(source, runtime_accepts)


def load(source: Model | Source, sizes: Mapping[str, Shape] | None = None) -> Model:
    """Read, check and normalise a model; what is loaded already is returned, or with other `sizes` made anew.

    `sizes` are concrete shapes of named inputs: what is counted, tried and analysed first. They do not narrow what is
    written. Dynamic axes of other inputs get sizes that fit.
    Raises ModelError naming the file and the reason, UsageError for a path that does not exist or sizes that cannot be.
    """
    is_a("sizes", sizes or {}, Mapping, "a mapping of the names of inputs to shapes")
    if isinstance(source, Model):
        return source if sizes is None else replace(load(source.original, sizes), source=source.source)
    original = read(source)
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "model"
    check_shapes(original, sizes or {}, name)
    digest = "" if original is source else hash_of(original)  # now, as only one copy is there
    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    steps = (InlineFunctions(), PutFormAside(), ConstantsToInitializers(), ResolveInitializerAliases())
    proto = Pipeline(steps)(proto).model
    proto, symbols = fold(proto, sizes or {})
    check_elements(symbols.first.shapes, name)
    proto = perform(UnshareConstants(), proto).model
    for state in (symbols.first, symbols.second):
        for tensor in proto.graph.initializer:
            if tensor.name not in state.shapes:
                state.declare_initializer(tensor)
    size = original.ByteSize()
    if original is source:  # the caller holds it anyway
        return Model(original, proto, symbols, name, dict(sizes or {}), file_bytes=size)
    given = _sharing(original, proto)
    return Model(given, proto, symbols, name, dict(sizes or {}), file_bytes=size, read_digest=digest)


def _sharing(original: onnx.ModelProto, proto: onnx.ModelProto) -> Hollow:
    """The original with the weights of `proto`, as far as they are the same."""
    hollow, there = Hollow.of(original), {tensor.name: tensor for tensor in proto.graph.initializer}
    stored = {}
    for name, tensor in hollow.stored.items():
        own = there.get(name)
        if own is None or own != tensor:
            own = onnx.TensorProto()
            own.CopyFrom(tensor)
        stored[name] = own
    return Hollow(hollow.proto, stored)
