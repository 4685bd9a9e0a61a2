"""How data are to be read: what the user may say beside the data themselves.

Light to import: the command line is made from these fields. What is written there as text (`0.5,0.4`, `224x320`,
`sr=16000`) is read here, too.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tgonnx.errors import OptionError
from tgonnx.options import number, option, settle

Resize = Literal["stretch", "crop", "letterbox"]
Color = Literal["rgb", "bgr"]
Layout = Literal["auto", "nchw", "nhwc"]
Numbers = float | tuple[float, ...] | Literal["imagenet"]  # one, or one for each channel
_SMALLEST, _LARGEST = 1e-37, 3e38  # that float32 divides by, and holds


def _numbers(name: str, value: Any) -> Numbers:
    if isinstance(value, str) and value == "imagenet":
        return "imagenet"
    parts = value.split(",") if isinstance(value, str) else value
    try:
        found = tuple(map(float, parts)) if isinstance(parts, Iterable) else (float(parts),)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(abs(each) < _LARGEST for each in found):
        raise OptionError(name, f"{value!r:.80} is neither numbers with commas between them nor imagenet")
    return found[0] if len(found) == 1 else found


def _divisors(name: str, value: Any) -> Numbers:
    found = _numbers(name, value)
    parts = found if isinstance(found, tuple) else () if isinstance(found, str) else (found,)
    if any(abs(each) < _SMALLEST for each in parts):
        raise OptionError(name, f"{value!r:.80}: nothing can be divided by 0")
    return found


def _factor(name: str, value: Any) -> float:
    """A number above 0, as text also a fraction: 1/255."""
    over, slash, under = value.partition("/") if isinstance(value, str) else ("", "", "")
    if slash and (below := number(name, under)):
        return _factor(name, number(name, over) / below)
    found = number(name, value)
    if not found:
        raise OptionError(name, "0 is not a number above 0")
    return found


def _size(name: str, value: Any) -> int | tuple[int, int]:
    parts = value.lower().replace(",", "x").split("x") if isinstance(value, str) else value
    try:
        found = [
            int(part) if isinstance(part, str) else operator.index(part)
            for part in (parts if isinstance(parts, Iterable) else (parts,))
        ]
    except (TypeError, ValueError):
        found = []
    if len(found) not in (1, 2) or min(found) < 1:
        raise OptionError(name, f"{value!r:.80} is neither a number nor height x width, as 224x320")
    return found[0] if len(found) == 1 else (found[0], found[1])


def _classes(name: str, value: Any) -> str | os.PathLike[str] | tuple[str, ...]:
    if isinstance(value, str | os.PathLike):
        return value
    names = tuple(value) if isinstance(value, Iterable) else ()
    if not names or not all(isinstance(each, str) for each in names):
        raise OptionError(name, f"{value!r:.80} is neither a list of names nor a file with one a line")
    return names


def _constants(name: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    found = {}
    for text, of, said in _pairs(name, value, "an input and its numbers, as sr=16000"):
        try:
            numbers = [float(part) for part in said.split(",")]
        except ValueError:
            raise OptionError(name, f"{text!r} is not an input and its numbers, as sr=16000") from None
        whole = [int(each) if each.is_integer() else each for each in numbers]
        found[of] = whole[0] if len(whole) == 1 else whole
    return found


def _axes(name: str, value: Any) -> Mapping[str, int | None]:
    wanted = "an input and the axis that counts its samples, as x=1 or sr=none"
    pairs = (
        [(item, *item) for item in value.items()]
        if isinstance(value, Mapping)
        else _pairs(name, value, wanted)
    )
    found: dict[str, int | None] = {}
    for said, of, axis in pairs:
        try:
            none = axis is None or axis == "none"
            found[of] = None if none else int(axis) if isinstance(axis, str) else operator.index(axis)
        except (TypeError, ValueError):
            raise OptionError(name, f"{said!r:.80} is not {wanted}") from None
    return found


def _pairs(name: str, value: Any, wanted: str) -> list[tuple[str, str, str]]:
    """Of each text like NAME=VALUE itself and its parts."""
    found = []
    for text in (value,) if isinstance(value, str) or not isinstance(value, Iterable) else value:
        of, equals, said = text.partition("=") if isinstance(text, str) else ("", "", "")
        if not equals or not of:
            raise OptionError(name, f"{text!r:.80} is not {wanted}")
        found.append((text, of, said))
    return found


@dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """For pixels, whether they are in arrays or in files of images. Raises OptionError, as all classes here do."""

    scale: float | None = option(
        None,
        "Pixels are multiplied by it before the mean is taken off; auto: 1/255 for images, and for arrays of bytes "
        "what the original does better with.",
        kind=float,
        form=_factor,
    )

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class ArrayOptions(PixelOptions):
    """For arrays of any origin.

    * `scale` multiplies uint8 arrays where the model wants floats (1: pixels of 0..255; 1/255: of 0..1). Without it,
      an entry `scale` of the arrays is taken, or what the original does clearly better with.
    * `ignore_label`: labels of this number count for nothing. Without it, 255 and -100 do in dense labels, where they
      are no classes.
    * `const`: inputs that are the same for all samples, by name.
    * `axes`: the axis of an input that counts samples, by name; None where none does.
    """

    ignore_label: int | None = option(None, "Labels of this number count for nothing.", kind=int)
    const: Mapping[str, Any] = option(
        (),
        "An input that is the same for all samples, as sr=16000.",
        many=True,
        metavar="NAME=NUMBERS",
        form=_constants,
    )
    axes: Mapping[str, int | None] = option(
        (),
        "The axis of an input that counts samples, as x=1; none where none does.",
        many=True,
        metavar="NAME=AXIS",
        form=_axes,
    )


@dataclass(frozen=True, kw_only=True)
class ImageOptions(PixelOptions):
    """For files of images. The model is given (pixel * scale - mean) / std.

    * `scale`: by default 1/255 for a model of floats. Models of integers are given the pixels as they are, and take
      none of the three;
    * `mean`, `std`: one number or one for each channel, in the model's order, in units of the scaled pixels; or
      "imagenet" for those of ImageNet (`std` may then be left out);
    * `size`: height and width, or one number for both, for models that leave it open;
    * `resize`: "stretch" to the size, "crop" the middle of the image at the size that covers it, or "letterbox" the
      whole image onto grey (114);
    * `color`: order of the channels;
    * `layout`: where the channels are; "auto" looks for 1 or 3 in the shape;
    * `classes`: names of the folders in the order of the model's classes, or a file with one a line. Without it they
      are numbered in alphabetical order;
    * `cache`: bytes of decoded images to keep in a temporary file.
    """

    mean: float | Sequence[float] | Literal["imagenet"] = option(
        0.0,
        "Taken off the scaled pixels: a number, one for each channel, or imagenet.",
        metavar="NUMBERS",
        form=_numbers,
    )
    std: float | Sequence[float] | Literal["imagenet"] | None = option(
        None,
        "What they are divided by: a number, one for each channel, or imagenet; auto: 1, or imagenet as the mean.",
        kind=float,
        metavar="NUMBERS",
        form=_divisors,
    )
    size: int | tuple[int, int] | None = option(
        None,
        "Images of this size, for models that leave it open: 224 or 224x320.",
        kind=int,
        metavar="SIZE",
        form=_size,
    )
    resize: Resize = option("stretch", "How images get their size.", names=get_args(Resize))
    color: Color = option("rgb", "Order of the channels.", names=get_args(Color))
    layout: Layout = option("auto", "Where the channels are.", names=get_args(Layout))
    classes: str | os.PathLike[str] | Sequence[str] | None = option(
        None,
        "A file with the names of the class folders, one a line, in the model's order.",
        kind=str,
        metavar="FILE",
        form=_classes,
    )
    cache: int = option(2 << 30, "Bytes of decoded images to keep in a temporary file.", low=0)


@dataclass(frozen=True, kw_only=True)
class DataOptions(ArrayOptions, ImageOptions):
    """For data of either kind: what the command line is told before it has seen which."""
