"""The paper's Table 3: FlowNetS, pruned while it learns optical flow.

    python benchmarks/paper/flow.py [--quick] [--width 8] [--pairs 4000] [--epochs 3]

Pairs are made in the manner of Flying Chairs (Dosovitskiy et al. 2015): photographs move as a whole, cut-outs on them,
each by an affine motion, so that the flow is known exactly. The network (`--width` is that of its first layer, 64 in
the paper) is trained first; then it is trained on for the same budget unpruned, and with gates to 60% and 45% of its
channels. The error is the mean end-point error in pixels on pairs of photographs that were not learned from, and on a
real stereo pair where opencv-doc has it. Needs pillow and the Debian packages mate-backgrounds, opencv-doc and
tuxpaint-stamps-default.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from building import Network, floats
from keeping import Desk, Row, arguments, table
from photographs import PHOTOGRAPHS, STAMPS, made_up, made_up_stamps, photographs, stamps
from PIL import Image

import tgonnx as tg
from tgonnx.graph.builder import Value
from tgonnx.runtime.sessions import open_session

UNIT = 20.0  # pixels that a predicted flow of 1 stands for
WEIGHTS = {2: 0.005, 3: 0.01, 4: 0.02, 5: 0.08, 6: 0.32}  # of the scales in the loss
TARGETS = (0.45, 0.6)
SIDE = 128  # of the pairs, pixels
TIMED = (384, 512)  # of the inputs that are timed, as in the paper
Array = np.ndarray[Any, Any]


# --- the network and its loss -----------------------------------------------------------------------------


class FlowNetS(Network):
    """Dosovitskiy et al. 2015: two images in, the flow at a quarter of their size first, then coarser ones."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__(seed)
        x, kept = self.value("pair"), {}
        layers = [
            ("conv1", 1, 7, 2),
            ("conv2", 2, 5, 2),
            ("conv3", 4, 5, 2),
            ("conv3_1", 4, 3, 1),
            ("conv4", 8, 3, 2),
        ]
        layers += [("conv4_1", 8, 3, 1), ("conv5", 8, 3, 2), ("conv5_1", 8, 3, 1), ("conv6", 16, 3, 2)]
        channels, widths = 6, {}
        for name, wide, kernel, stride in layers:
            x = self.leaky(self.conv(x, name, (channels, wide * width, kernel), stride, bias=True))
            channels = wide * width
            kept[name[4]], widths[name[4]] = x, channels
        flows = {6: self.flow(6, x, channels)}
        for level, wide in ((5, 8), (4, 4), (3, 2), (2, 1)):
            deeper = self.leaky(self.up(x, f"deconv{level}", channels, wide * width))
            coarser = self.up(flows[level + 1], f"up{level + 1}", 2, 2)
            x = self.e.concat([kept[str(level)], deeper, coarser], 1)
            channels = widths[str(level)] + wide * width + 2
            flows[level] = self.flow(level, x, channels)
        outputs = [floats(f"flow{level}", "N", 2, f"H{level}", f"W{level}") for level in sorted(flows)]
        self.net = self.model("flownets", [floats("pair", "N", 6, "H", "W")], outputs)

    def leaky(self, x: Value) -> Value:
        return self.e.op("LeakyRelu", x, alpha=0.1)

    def flow(self, level: int, x: Value, channels: int) -> Value:
        """The flow that a level predicts, an output."""
        found = self.conv(x, f"predict{level}", (channels, 2, 3), bias=True)
        self.named(found, f"flow{level}")
        return self.value(f"flow{level}")

    def up(self, x: Value, name: str, channels: int, out: int) -> Value:
        """Twice as high and wide."""
        scale = np.sqrt(2 / (channels * 4))
        weight = self.store(f"{name}.weight", self.rng.normal(0, scale, (channels, out, 4, 4)))
        bias = self.store(f"{name}.bias", np.zeros(out))
        return self.e.op(
            "ConvTranspose", x, weight, bias, kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1]
        )


def multi_scale_loss() -> onnx.ModelProto:
    """The weighted end-point errors of all scales, each against the mean of the flow in its pixels."""
    net = Network(0)
    total = None
    for level, weight in WEIGHTS.items():
        wanted, cells = net.value("target_flow2"), 2 ** (level - 2)
        if cells > 1:
            wanted = net.e.op("AveragePool", wanted, kernel_shape=[cells, cells], strides=[cells, cells])
        off = net.value(f"flow{level}") - wanted
        error = net.e.op("Sqrt", (off * off).sum([1]) + 1e-6).mean(None, False) * weight
        total = error if total is None else total + error
    assert total is not None
    net.named(total, "loss")
    inputs = [floats(f"flow{level}", "N", 2, f"H{level}", f"W{level}") for level in WEIGHTS]
    return net.model("multi_scale", [*inputs, floats("target_flow2", "N", 2, "H2", "W2")], [floats("loss")])


def end_point_error(output: Array, answer: Array) -> float:
    """In pixels, at a quarter of the size: what chooses the best epoch."""
    return UNIT * float(np.sqrt(np.square(output - answer).sum(1)).mean())


end_point_error.higher_is_better = False  # type: ignore[attr-defined]


# --- pairs ------------------------------------------------------------------------------------------------


def turned(degrees: float, zoom: float, shift: Array, about: Array) -> Array:
    """The affine map that turns and zooms about a point and then shifts, as a 3 x 3 matrix."""
    angle = np.deg2rad(degrees)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = np.eye(3)
    found[:2, :2], found[:2, 2] = turn, about + shift - turn @ about
    return found


def sampled(image: Image.Image, place: Array) -> Image.Image:
    """What is seen of an image where `place` maps points of the view to points of the image."""
    numbers = tuple(place[:2].ravel())
    return image.transform((SIDE, SIDE), Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR)


def pair(
    rng: np.random.Generator, photos: list[Image.Image], cut_outs: list[Image.Image]
) -> tuple[Array, Array]:
    """Two images [6, SIDE, SIDE] uint8, and the flow from the first to the second [2, SIDE, SIDE] in pixels."""
    middle = np.full(2, SIDE / 2)
    photo = photos[rng.integers(len(photos))]
    room = (np.array(photo.size) - SIDE) / 2
    shift = rng.uniform(-0.6, 0.6, 2) * room + np.array(photo.size) / 2 - middle
    motion = turned(rng.normal(0, 2), np.exp(rng.normal(0, 0.02)), rng.normal(0, 4, 2).clip(-10, 10), middle)
    layers = [(photo.convert("RGBA"), turned(rng.uniform(-10, 10), 1.0, shift, middle), motion)]
    for _ in range(rng.integers(2, 6)):
        cut_out = cut_outs[rng.integers(len(cut_outs))]
        centre = np.array(cut_out.size) / 2
        where = rng.uniform(0.1, 0.9, 2) * SIDE
        place = turned(rng.uniform(-30, 30), np.exp(rng.normal(0, 0.3)), centre - where, where)
        own = turned(rng.normal(0, 5), np.exp(rng.normal(0, 0.05)), rng.normal(0, 5, 2).clip(-12, 12), where)
        layers.append((cut_out, place, motion @ own))
    points = np.stack([*np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5), np.ones((SIDE, SIDE))])
    views, flow = [], np.zeros((2, SIDE, SIDE))
    for first in (True, False):
        view = Image.new("RGBA", (SIDE, SIDE))
        for image, place, moves in layers:
            seen = sampled(image, place if first else place @ np.linalg.inv(moves))
            view = Image.alpha_composite(view, seen)
            if first:
                there = np.asarray(seen)[..., 3] > 127
                flow[:, there] = (np.tensordot(moves - np.eye(3), points, 1)[:2])[:, there]
        views.append(np.moveaxis(np.asarray(view.convert("RGB")), -1, 0))
    return np.concatenate(views), flow


def pairs(
    count: int, photos: list[Image.Image], cut_outs: list[Image.Image], seed: int
) -> tuple[Array, Array]:
    """So many pairs, uint8, and flows, float32."""
    rng = np.random.default_rng(seed)
    images, flows = np.empty((count, 6, SIDE, SIDE), np.uint8), np.empty((count, 2, SIDE, SIDE), np.float32)
    for number in range(count):
        images[number], flows[number] = pair(rng, photos, cut_outs)
    return images, flows


def quarter(flows: Array) -> Array:
    """The mean over squares of 4 x 4 pixels, in units of the network."""
    count, _, height, width = flows.shape
    return flows.reshape(count, 2, height // 4, 4, width // 4, 4).mean((3, 5)) / UNIT


def stereo(folders: Sequence[str]) -> tuple[Array, Array, Array] | None:
    """A real stereo pair at the size of the pairs, its flow, and where that is known; None where it is not there."""
    folder = next((Path(each) for each in folders if (Path(each) / "aloeGT.png").exists()), None)
    if folder is None:
        return None
    height = SIDE
    views = [Image.open(folder / f"aloe{side}.jpg") for side in "LR"]
    shrink = height / views[0].height
    size = (round(views[0].width * shrink), height)
    images = [np.moveaxis(np.asarray(view.convert("RGB").resize(size)), -1, 0)[..., :SIDE] for view in views]
    depth = np.asarray(
        Image.open(folder / "aloeGT.png").convert("L").resize(size, Image.Resampling.NEAREST), float
    )
    known = depth[:, :SIDE] > 0
    flow = np.stack([-depth[:, :SIDE] * shrink, np.zeros((SIDE, SIDE))])
    return np.concatenate(images)[None], flow[None], known


# --- the experiment -----------------------------------------------------------------------------------------


def predicted(model: onnx.ModelProto, images: Array) -> Array:
    """Flows in pixels at the size of the images."""
    session = open_session(model, 1)
    coarse = [
        session.run({"pair": part.astype(np.float32) / 255})["flow2"]
        for part in np.split(images, len(images))
    ]
    low, high = np.arange(SIDE // 4) + 0.5, (np.arange(SIDE) + 0.5) / 4
    weights = np.array(
        [np.interp(high, low, unit) for unit in np.eye(SIDE // 4)]
    )  # bilinear, borders repeated
    return UNIT * np.einsum("nchw,hy,wx->ncyx", np.concatenate(coarse), weights, weights)


def error(found: Array, flow: Array, known: Array | bool = True) -> float:
    """The mean end-point error in pixels where the flow is known."""
    return float(np.sqrt(np.square(found - flow).sum(1)).mean(where=known))


class Experiment:
    """The trained network, its pairs, and how a row is made."""

    def __init__(self, desk: Desk, options: argparse.Namespace) -> None:
        self.desk, self.options, quick = desk, options, desk.quick
        photos = made_up(6, 200, 0) if quick else photographs(options.photographs, 240)
        cut_outs = made_up_stamps(6, 40, 1) if quick else stamps(options.stamps, 48)
        held = max(2, len(photos) // 5)
        order = np.random.default_rng(0).permutation(len(photos))
        for_test, to_learn = ([photos[i] for i in part] for part in (order[:held], order[held:]))
        images, flows = pairs(options.pairs, to_learn, cut_outs, 0)
        self.test, self.flows = pairs(options.pairs // 10, for_test, cut_outs, 1)
        self.data = tg.data.arrays(
            {
                "pair": images, "target_flow2": quarter(flows),
                "test_pair": self.test, "test_target_flow2": quarter(self.flows),
            },
            scale=1 / 255,
        )  # fmt: skip
        loss = desk.networks / "multi_scale.onnx"
        onnx.save(multi_scale_loss(), loss)
        self.common: dict[str, Any] = {
            "loss": str(loss), "metric": end_point_error, "optimizer": "adam", "batch": 8, "from_scratch": True,
            "threads": options.threads, "verify_seconds": 2.0,
        }  # fmt: skip
        name = f"flownets-{options.width}-{options.pairs}"
        self.model = str(desk.network(name, self.trained))

    def trained(self) -> onnx.ModelProto:
        """From random weights, three times as long as what follows."""
        net, epochs = FlowNetS(self.options.width).net, 3 * self.options.epochs
        return tg.tune(net, self.data, epochs=epochs, lr=1e-3, clip=1.0, **self.common).model

    def __call__(self, job: Row) -> Row:
        """The row of a job."""
        how = {"epochs": self.options.epochs, "lr": 5e-4, **self.common}
        if job["method"] == "no motion":
            model, facts = None, {}
        elif job["method"] == "unpruned":
            result = tg.tune(self.model, self.data, **how)
            model, facts = result.model, {"left": 1.0}
        else:
            result = tg.prune(self.model, self.data, f"channels={job['target']}", criterion="gates", **how)
            model, facts = result.model, {"left": round(result.achieved, 4)}
        if model is not None:
            onnx.save(model, self.desk.networks / f"{job['method']}-{job['target']}.onnx")
            facts |= {"bytes": result.after.file_bytes, "flops": result.after.cost.flops}
        return facts | self.errors(model)

    def errors(self, model: onnx.ModelProto | None) -> Row:
        """End-point errors of a model, or of saying that nothing moves."""
        found = np.zeros_like(self.flows) if model is None else predicted(model, self.test)
        figures = {"epe": round(error(found, self.flows), 4)}
        if (real := None if self.desk.quick else stereo(self.options.photographs)) is not None:
            seen = np.zeros_like(real[1]) if model is None else predicted(model, real[0])
            figures["stereo"] = round(error(seen, real[1], real[2]), 4)
        return figures

    def times(self) -> None:
        """Milliseconds of all networks that there are, in turns, at the paper's size of images."""
        rows = [row for row in self.desk.rows() if "bytes" in row]
        files = [str(self.desk.networks / f"{row['method']}-{row['target']}.onnx") for row in rows]
        size = (SIDE, SIDE) if self.desk.quick else TIMED
        images = np.random.default_rng(0).integers(0, 256, (4, 6, *size), dtype=np.uint8)
        data = tg.data.arrays({"pair": images}, scale=1 / 255)
        found = tg.evaluate(files, data, threads=1, part="all").models
        times = {
            f"{row['method']} {row['target']}": each.latency.p50
            for row, each in zip(rows, found, strict=True)
        }
        self.desk.run([{"method": "times", "of": sorted(times)}], lambda job: {"ms": times})

    def picture(self) -> None:
        """Flows of three pairs: the first image, what is true, and what each network says."""
        models = {row["method"] + str(row["target"]): row for row in self.desk.rows() if "bytes" in row}
        columns = [np.moveaxis(self.test[:3, :3], 1, -1), coloured(self.flows[:3])]
        for row in models.values():
            model = onnx.load(self.desk.networks / f"{row['method']}-{row['target']}.onnx")
            columns.append(coloured(predicted(model, self.test[:3])))
        grid = np.concatenate([np.concatenate(list(column), 0) for column in columns], 1)
        Image.fromarray(grid.astype(np.uint8)).save(self.desk.picture("flows.png"))


def coloured(flows: Array, most: float = 12.0) -> Array:
    """Flows as colours [N, height, width, 3]: the hue is the direction, saturation the length."""
    angle = (np.arctan2(flows[:, 1], flows[:, 0]) / (2 * np.pi)) % 1.0
    length = np.minimum(np.hypot(flows[:, 0], flows[:, 1]) / most, 1.0)
    parts = np.stack([angle, length, np.ones_like(angle)], -1)
    return np.stack(
        [np.asarray(Image.fromarray((255 * p).astype(np.uint8), "HSV").convert("RGB")) for p in parts]
    )


def report(desk: Desk) -> None:
    """Print the table."""
    rows = desk.rows()
    times = next((row["ms"] for row in reversed(rows) if row["method"] == "times"), {})
    lines = []
    for row in (row for row in rows if "epe" in row):
        ms = times.get(f"{row['method']} {row['target']}")
        size, left = (f"{row['bytes'] / 1e6:.2f}", f"{row['left']:.2f}") if "bytes" in row else ("", "")
        real = f"{row['stereo']:.2f}" if "stereo" in row else ""
        lines.append((row["method"], left, size, f"{row['epe']:.2f}", real, f"{ms:.1f}" if ms else ""))
    table(("network", "channels left", "MB", "end-point error", "stereo pair", "ms"), lines)


def main() -> None:
    numbers = {"--width": 8, "--pairs": 4000, "--epochs": 3}
    options = arguments(
        __doc__,
        *((name, {"type": int, "default": value}) for name, value in numbers.items()),
        ("--photographs", {"nargs": "+", "default": PHOTOGRAPHS}),
        ("--stamps", {"default": STAMPS}),
    )
    if options.quick:
        options.width, options.pairs, options.epochs = 4, 80, 1
    desk = Desk("flow", options.quick, options.out)
    if not options.table:
        asked = {name.strip("-"): getattr(options, name.strip("-")) for name in numbers}
        wanted = [("no motion", 1.0), ("unpruned", 1.0), *(("joint", target) for target in TARGETS)]
        experiment = Experiment(desk, options)
        desk.run([{"method": method, "target": target} | asked for method, target in wanted], experiment)
        experiment.times()
        experiment.picture()
    report(desk)


if __name__ == "__main__":
    main()
