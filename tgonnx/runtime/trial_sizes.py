"""Sizes to try a model at where it leaves its axes open.

Which sizes a model accepts is not written in its file: candidates are listed, smallest first, and those at which the
model runs count. Heights differ from widths, lengths of different sequences from each other, and some are odd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import onnx

from tgonnx.errors import ModelError
from tgonnx.graph.declared import fixed_size, is_placeholder

BATCHES = (1, 3, 2, 5)
# (height, width); the first are of every kind, the others for models that take none of them
_IMAGES = (
    *((32, 32), (32, 48), (33, 47), (64, 64), (96, 64), (64, 96), (97, 65), (128, 128), (224, 224)),
    *((224, 320), (256, 256), (320, 256), (384, 384), (448, 448), (512, 512), (640, 640)),
    *((28, 28), (16, 16), (16, 24), (8, 8), (4, 32), (1, 32), (4, 47), (299, 299), (1024, 1024)),
)
_LENGTHS = (8, 5, 1, 13, 64, 131, 16, 32, 128, 256, 512, 400, 1024, 16000)
_IMAGES_WANTED, _LENGTHS_WANTED = 6, 5
_APART = 3  # between the lengths of sequences that differ


@dataclass(frozen=True)
class Size:
    """One choice for all open axes: samples, height and width of images, length of everything else.

    Axes of different names get different lengths if `apart`. `named` are given by the user and go first; `shapes`
    are those of whole inputs and leave no choice.
    """

    batch: int = 1
    image: tuple[int, int] = (64, 64)
    length: int = 8
    apart: bool = False
    named: tuple[tuple[str, int], ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


def shapes_at(inputs: list[onnx.ValueInfoProto], size: Size) -> dict[str, tuple[int, ...]]:
    """A shape for each tensor input; axes of one name get one size."""
    whole = dict(size.shapes)
    if whole:
        return {value.name: whole[value.name] for value in inputs}
    bound = dict(size.named)
    for value in inputs:  # the name of the samples' axis may stand elsewhere in an input before
        first = next(iter(value.type.tensor_type.shape.dim), None)
        if first is not None and fixed_size(first) is None and not is_placeholder(first.dim_param):
            bound.setdefault(first.dim_param, size.batch)
    lengths = _lengths(size)
    shapes = {}
    for value in inputs:
        shape = []
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            role = role_of(value, axis)
            if role == "fixed":
                shape.append(int(dim.dim_value))
            elif not is_placeholder(dim.dim_param) and dim.dim_param in bound:
                shape.append(bound[dim.dim_param])
            else:
                chosen = _chosen(role, size, lengths)
                if not is_placeholder(dim.dim_param):
                    bound[dim.dim_param] = chosen
                shape.append(chosen)
        shapes[value.name] = tuple(shape)
    return shapes


def _lengths(size: Size) -> Iterator[int]:
    length = size.length
    while True:
        yield length
        length += _APART if size.apart else 0


def _chosen(role: str, size: Size, lengths: Iterator[int]) -> int:
    if role == "batch":
        return size.batch
    if role == "height":
        return size.image[0]
    if role == "width":
        return size.image[1]
    return next(lengths)


def role_of(value: onnx.ValueInfoProto, axis: int) -> str:
    """What an axis of an input is, judged by its place: batch, height, width or length; fixed if its size is stated."""
    dims = value.type.tensor_type.shape.dim
    if fixed_size(dims[axis]) is not None:
        return "fixed"
    if axis == 0:
        return "batch"
    if len(dims) < 4:
        return "length"
    start = 1 if channels_last(value) else 2
    return {start: "height", start + 1: "width"}.get(axis, "length")


def channels_last(value: onnx.ValueInfoProto) -> bool:
    """Whether an input looks like images with their channels in the last axis."""
    dims = value.type.tensor_type.shape.dim
    few = (1, 2, 3, 4)
    return len(dims) == 4 and dims[3].dim_value in few and dims[1].dim_value not in few


class Trials:
    """The sizes at which a model runs, found by running it: `runs` raises `ModelError` where it does not.

    `start` says what is the same in all of them, `known` are sizes that come from elsewhere, `named` are lengths and
    sides that the graph names.
    """

    def __init__(
        self,
        inputs: list[onnx.ValueInfoProto],
        runs: Callable[[Size], None],
        start: Size,
        known: Sequence[Size] = (),
        named: Sequence[int] = (),
    ) -> None:
        self._runs, self._start, self._known = runs, start, known
        ranks = [(value, len(value.type.tensor_type.shape.dim)) for value in inputs]
        roles = {role_of(value, axis) for value, rank in ranks for axis in range(rank)}
        self._batches = BATCHES if "batch" in roles else (start.batch,)
        images = (*_IMAGES, *((size, size) for size in named))
        self._images = tuple(dict.fromkeys(images)) if roles & {"height", "width"} else (start.image,)
        lengths = (*_LENGTHS[:5], *named, *_LENGTHS[5:])
        self._lengths = tuple(dict.fromkeys(lengths)) if "length" in roles else (start.length,)
        self._tried: dict[Size, ModelError | None] = {}
        self._given: list[Size] = []

    def works(self, size: Size) -> bool:
        """Whether the model runs at a size; each is tried once."""
        if size not in self._tried:
            try:
                self._runs(size)
                self._tried[size] = None
            except ModelError as error:
                self._tried[size] = error
        return self._tried[size] is None

    def sizes(self) -> Iterator[Size]:
        """Each size at which the model runs, the smallest of each kind first.

        Raises what the first size raised if there is none.
        """
        base = next(filter(self.works, chain(self._first(), self._known)), None)
        if base is None:
            raise next(error for error in self._tried.values() if error is not None)
        self._given = [base]
        yield base
        for size in self._others(base, self.works):
            if size not in self._given and self.works(size):
                self._given.append(size)
                yield size

    def left(self) -> list[Size]:
        """What `sizes` would go on with, as far as is known without running the model."""
        planned = self._others(self._given[0], lambda size: self._tried.get(size) is None)
        return [size for size in dict.fromkeys(planned) if size not in self._given]

    def _first(self) -> Iterator[Size]:
        """Where to look for the smallest size: at every length first, then at every image, then at other batches."""
        for batch in self._batches:
            for image in self._images:
                for length in self._lengths[: _LENGTHS_WANTED if image != self._images[0] else None]:
                    for apart in (True, False) if len(self._lengths) > 1 else (False,):
                        yield replace(self._start, batch=batch, image=image, length=length, apart=apart)

    def _others(self, base: Size, works: Callable[[Size], bool]) -> Iterator[Size]:
        """Another batch at the smallest size, then other images and lengths in batches of 1 and 2, then the rest."""
        batches = [replace(base, batch=batch) for batch in self._batches]
        yield from batches[:2]
        yield from self._known
        images = (replace(base, image=image) for image in self._images)
        lengths = (replace(base, length=length) for length in self._lengths)
        chosen = (
            islice((size for size in candidates if size != base and works(size)), wanted)
            for candidates, wanted in ((images, _IMAGES_WANTED), (lengths, _LENGTHS_WANTED))
        )
        for number, size in enumerate(chain.from_iterable(chosen)):
            several = replace(size, batch=2)
            yield several if number % 2 and len(batches) > 1 and works(several) else size
        yield from batches
