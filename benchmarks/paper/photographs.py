"""Photographs and cut-outs of Debian packages, and pictures that are made up where `--quick` needs none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PHOTOGRAPHS = (  # apt-get install mate-backgrounds lomiri-wallpapers-16.04 opencv-doc
    "/usr/share/backgrounds",
    "/usr/share/doc/opencv-doc/examples/data",
)
STAMPS = "/usr/share/tuxpaint/stamps"  # apt-get install tuxpaint-stamps-default


def photographs(folders: Sequence[str], shorter: int, without: Sequence[str] = ()) -> list[Image.Image]:
    """All photographs of some folders in colour, their shorter side shrunk to so many pixels, in the order of names.

    Smaller ones and grey ones are left out, and so is the stereo pair of opencv-doc, which is for a test. Ends the
    program, naming the packages, where there are fewer than ten.
    """
    files = {path.name: path for folder in folders for path in sorted(Path(folder).rglob("*.jpg"))}
    found = []
    for _, path in sorted(files.items()):
        with Image.open(path) as image:
            if min(image.size) < shorter or image.mode != "RGB" or path.stem.startswith(("aloe", *without)):
                continue
            image.draft(
                "RGB", (2 * shorter, 2 * shorter)
            )  # large JPEGs are decoded at a fraction of their size
            scale = shorter / min(image.size)
            found.append(
                image.convert("RGB").resize([max(shorter, round(side * scale)) for side in image.size])
            )
    if len(found) < 10:
        sys.exit(f"{len(found)} photographs in {', '.join(folders)}: install mate-backgrounds and opencv-doc")
    return found


def stamps(folder: str, size: int) -> list[Image.Image]:
    """All cut-outs of a folder, RGBA, their longer side of so many pixels. Ends the program where there are none."""
    found = []
    for path in sorted(Path(folder).rglob("*.png")):
        with Image.open(path) as image:
            cut_out = image.convert("RGBA")
        if cut_out.getchannel("A").getextrema()[0] == 0:
            cut_out.thumbnail((size, size))
            found.append(cut_out)
    if not found:
        sys.exit(f"{folder}: no cut-outs; install tuxpaint-stamps-default")
    return found


def made_up(count: int, size: int, seed: int) -> list[Image.Image]:
    """Clouds of colour at several scales in place of photographs."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        layers = np.zeros((size, size, 3))
        for cells in (3, 8, 20, 50):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            layers += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) / np.sqrt(cells)
        low, high = layers.min(), layers.max()
        found.append(Image.fromarray((255 * (layers - low) / (high - low)).astype(np.uint8)))
    return found


def made_up_stamps(count: int, size: int, seed: int) -> list[Image.Image]:
    """Ellipses that are cut out of made-up photographs."""
    found = []
    for cloud in made_up(count, size, seed):
        mask = Image.new("L", cloud.size)
        ImageDraw.Draw(mask).ellipse((1, size // 6, size - 2, size - size // 6), fill=255)
        cloud.putalpha(mask)
        found.append(cloud)
    return found
