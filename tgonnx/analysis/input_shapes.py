"""Shapes of inputs that a user names: what is counted and tried first, or what a model is fixed to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from tgonnx.analysis.shapes import Shape
from tgonnx.errors import UsageError
from tgonnx.graph.declared import fixed_size, is_placeholder, model_inputs


def parse_shapes(texts: Iterable[str], option: str = "--shape") -> dict[str, Shape]:
    """`x:1,3,224,320` and the like: input name, then its sizes. Raises UsageError."""
    shapes: dict[str, Shape] = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")  # names have colons, sizes have none
        try:
            shape = tuple(int(size) for size in sizes.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not colon or not name or not shape:
            raise UsageError(f"{option} {text!r} is not an input's name and its sizes, as in x:1,3,224,320")
        if name in shapes:
            raise UsageError(f"{option} names {name!r} twice")
        shapes[name] = shape
    return shapes


def check_shapes(model: onnx.ModelProto, shapes: Mapping[str, Shape], name: str) -> None:
    """Raise UsageError, starting with `name`, where `shapes` names no input, or not what the input may be."""
    inputs = {value.name: value.type.tensor_type.shape.dim for value in model_inputs(model)}
    for asked, shape in shapes.items():
        if asked not in inputs:
            raise UsageError(f"{name}: no input is named {asked!r}; there are {', '.join(inputs)}")
        dims = inputs[asked]
        fits = len(shape) == len(dims) and all(
            size > 0 and fixed_size(dim) in (None, size) for dim, size in zip(dims, shape, strict=True)
        )
        if not fits:
            stated = "x".join(str(fixed_size(dim) or dim.dim_param or "?") for dim in dims)
            raise UsageError(f"{name}: input {asked!r} is {stated}, it cannot be {'x'.join(map(str, shape))}")


def fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> onnx.ModelProto:
    """A copy whose inputs have these shapes and no others; axes of the same name are fixed with them everywhere.

    Raises UsageError for shapes that the inputs cannot have, or two sizes for one name.
    """
    check_shapes(model, shapes, "model")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    named: dict[str, int] = {}
    for value in model_inputs(result):
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            name = dim.dim_param
            if name and not is_placeholder(name) and named.setdefault(name, size) != size:
                raise UsageError(f"axis {name!r} cannot have {named[name]} and {size} elements")
            dim.dim_value = size
    for value in (*result.graph.input, *result.graph.output, *result.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]
    return result


def counted_shapes(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Of `shapes`, those of inputs that leave an axis behind the first one open: what is counted depends on them."""
    return {
        value.name: tuple(shapes[value.name])
        for value in model_inputs(model)
        if value.name in shapes
        and any(fixed_size(dim) is None for dim in value.type.tensor_type.shape.dim[1:])
    }


def shapes_text(shapes: Mapping[str, Shape]) -> str:
    """As `x 2x3x64x96, mask 2x8`."""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
