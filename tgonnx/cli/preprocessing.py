"""How the data at a path are read, as options that are written as text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tgonnx.errors import OptionError
from tgonnx.options import option, settle

if TYPE_CHECKING:  # heavy, and not needed for --help
    from tgonnx.data.sources import Source


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What `tgonnx.data.options` holds, from text. Raises OptionError."""

    scale: float | None = option(
        None,
        "Pixels are multiplied by it before the mean is taken off; auto: 1/255 for images, and for arrays of bytes "
        "what the original does better with.",
        kind=float,
        low=0,
    )
    mean: str | None = option(
        None,
        "Taken off the scaled pixels: a number, one for each channel, or imagenet.",
        kind=str,
        metavar="NUMBERS",
    )
    std: str | None = option(
        None,
        "What they are divided by: a number, one for each channel, or imagenet.",
        kind=str,
        metavar="NUMBERS",
    )
    size: str | None = option(
        None, "Images of this size, for models that leave it open: 224 or 224x320.", kind=str, metavar="SIZE"
    )
    resize: str = option("stretch", "How images get their size: stretch, crop or letterbox.", metavar="NAME")
    color: str = option("rgb", "Order of the channels: rgb or bgr.", metavar="NAME")
    layout: str = option("auto", "Where the channels are: nchw, nhwc or auto.", metavar="NAME")
    classes: str | None = option(
        None,
        "A file with the names of the class folders, one a line, in the model's order.",
        kind=str,
        metavar="FILE",
    )
    ignore_label: int | None = option(
        None, "Labels of this number count for nothing.", kind=int, low=-(2**31)
    )
    const: tuple[str, ...] = option(
        (), "An input that is the same for all samples, as sr=16000.", many=True, metavar="NAME=NUMBERS"
    )

    def __post_init__(self) -> None:
        settle(self)

    def source(self, path: str | os.PathLike[str]) -> Source:
        """The data at a path, read so. Raises UsageError, OptionError."""
        from tgonnx.data.options import ArrayOptions, ImageOptions
        from tgonnx.data.sources import read

        arrays = ArrayOptions(
            scale=self.scale,
            ignore_label=self.ignore_label,
            const=dict(_constant(text) for text in self.const),
        )
        images: dict[str, Any] = {
            "mean": _numbers("mean", self.mean),
            "std": _numbers("std", self.std),
            "scale": self.scale,
            "size": _size(self.size),
            "classes": self.classes,
        }
        chosen = {name: value for name, value in images.items() if value is not None}
        chosen |= {name: getattr(self, name) for name in ("resize", "color", "layout")}
        place = os.fspath(path)
        if os.path.isdir(place) or place.lower().endswith(".csv"):
            rest = ArrayOptions(ignore_label=arrays.ignore_label, const=arrays.const)
            return read(place, arrays=rest, images=ImageOptions(**chosen), is_images=True)
        return read(
            place, arrays=arrays, images=ImageOptions(**{k: v for k, v in chosen.items() if k != "scale"})
        )


def _numbers(name: str, text: str | None) -> Any:
    if text is None or text == "imagenet":
        return text
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(
            name, f"{text!r} is neither numbers with commas between them nor imagenet"
        ) from None
    return found[0] if len(found) == 1 else found


def _size(text: str | None) -> Any:
    if text is None:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) for part in parts):
        raise OptionError("size", f"{text!r} is neither a number nor height x width, as 224x320")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def _constant(text: str) -> tuple[str, Any]:
    name, equals, values = text.partition("=")
    try:
        numbers = [float(part) for part in values.split(",")]
    except ValueError:
        numbers = []
    if not equals or not name or not numbers:
        raise OptionError("const", f"{text!r} is not an input and its numbers, as sr=16000")
    whole = [int(number) if number.is_integer() else number for number in numbers]
    return name, whole[0] if len(whole) == 1 else whole
