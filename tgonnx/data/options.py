"""How data are to be read: what the user may say beside the data themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Resize = Literal["stretch", "crop", "letterbox"]
Color = Literal["rgb", "bgr"]
Layout = Literal["auto", "nchw", "nhwc"]


@dataclass(frozen=True, kw_only=True)
class ArrayOptions:
    """For arrays of any origin.

    * `scale` multiplies uint8 arrays where the model wants floats (1: pixels of 0..255; 1/255: of 0..1). Without it,
      an entry `scale` of the arrays is taken, or what the original does clearly better with.
    * `ignore_label`: labels of this number count for nothing. Without it, 255 and -100 do in dense labels, where they
      are no classes.
    * `const`: inputs that are the same for all samples, by name.
    * `axes`: the axis of an input that counts samples, by name; None where none does.
    """

    scale: float | None = None
    ignore_label: int | None = None
    const: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """For files of images. The model is given (pixel * scale - mean) / std.

    * `mean`, `std`: one number or one for each channel, in the model's order, in units of the scaled pixels; or
      "imagenet" for those of ImageNet (`std` may then be left out);
    * `scale`: by default 1/255 for a model of floats. Models of integers are given the pixels as they are, and take
      none of the three;
    * `size`: height and width, or one number for both, for models that leave it open;
    * `resize`: "stretch" to the size, "crop" the middle of the image at the size that covers it, or "letterbox" the
      whole image onto grey (114);
    * `color`: order of the channels;
    * `layout`: where the channels are; "auto" looks for 1 or 3 in the shape;
    * `classes`: names of the folders in the order of the model's classes, or a file with one a line. Without it they
      are numbered in alphabetical order;
    * `cache`: bytes of decoded images to keep in a temporary file.
    """

    mean: float | Sequence[float] | Literal["imagenet"] = 0.0
    std: float | Sequence[float] | Literal["imagenet"] | None = None
    scale: float | None = None
    size: int | tuple[int, int] | None = None
    resize: Resize = "stretch"
    color: Color = "rgb"
    layout: Layout = "auto"
    classes: str | os.PathLike[str] | Sequence[str] | None = None
    cache: int = 2 << 30
