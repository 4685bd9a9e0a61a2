"""A small model and data for each task of docs/tasks.md, under the names that the page uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

Arrays = dict[str, np.ndarray]
CLASSES, SIDE = 3, 16


def model(text: str, shapes: dict[str, tuple[int, ...]], **stored: np.ndarray) -> onnx.ModelProto:
    """A model in onnx's text form, with random weights of these shapes and what is `stored`."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    rng = np.random.default_rng(0)
    values = {
        name: (rng.normal(size=s) / np.sqrt(max(np.prod(s[1:]), 1))).astype(np.float32)
        for name, s in shapes.items()
    }
    made.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in {**values, **stored}.items())
    onnx.checker.check_model(made, full_check=True)
    return made


def pictures(folder: Path, count: int, labelled: bool) -> None:
    """PNG files: noise, brighter in the channel that is the class."""
    from PIL import Image

    rng = np.random.default_rng(1)
    for number in range(count):
        kind = number % CLASSES
        pixels = rng.integers(0, 160, (SIDE, SIDE, 3))
        pixels[:, :, kind] += 95
        place = folder / "red green blue".split()[kind] if labelled else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")


BACKBONE = """
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1, b1)
    r = Relu(a)
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (r, w2)
    f = Relu(c)
"""
CONVOLVED = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3)}


def classifier() -> onnx.ModelProto:
    text = f"""net (float[N, 3, {SIDE}, {SIDE}] image) => (float[N, {CLASSES}] scores) {{ {BACKBONE}
        g = GlobalAveragePool(f)
        h = Flatten(g)
        scores = Gemm <transB = 1> (h, w3, b3)
    }}"""
    return model(text, {**CONVOLVED, "w3": (CLASSES, 16), "b3": (CLASSES,)})


def detector() -> onnx.ModelProto:
    text = f"""net (float[N, 3, {SIDE}, {SIDE}] image) => (float[N, 64, 4] boxes, float[N, 64, 5] classes) {{ {BACKBONE}
        p = Conv <kernel_shape = [1, 1]> (f, w3)
        q = Conv <kernel_shape = [1, 1]> (f, w4)
        flat_p = Reshape(p, to_boxes)
        flat_q = Reshape(q, to_classes)
        boxes = Transpose <perm = [0, 2, 1]> (flat_p)
        turned = Transpose <perm = [0, 2, 1]> (flat_q)
        classes = Sigmoid(turned)
    }}"""
    sizes = {"to_boxes": np.array([0, 4, -1]), "to_classes": np.array([0, 5, -1])}
    return model(text, {**CONVOLVED, "w3": (4, 16, 1, 1), "w4": (5, 16, 1, 1)}, **sizes)


def segmenter() -> onnx.ModelProto:
    text = f"""net (float[N, 3, {SIDE}, {SIDE}] image) => (float[N, {CLASSES}, {SIDE}, {SIDE}] scores) {{ {BACKBONE}
        u = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (f, w3)
        v = Relu(u)
        scores = Conv <kernel_shape = [1, 1]> (v, w4)
    }}"""
    return model(text, {**CONVOLVED, "w3": (16, 8, 2, 2), "w4": (CLASSES, 8, 1, 1)})


def tokens() -> onnx.ModelProto:
    split = "Reshape({0}, heads)\n {0}t = Transpose <perm = {1}> ({0}s)"
    parts = "\n".join(
        f"{name}s = {split.format(name, '[0, 2, 3, 1]' if name == 'k' else '[0, 2, 1, 3]')}" for name in "qkv"
    )
    text = f"""net (int64[N, T] ids) => (float[N, T, 20] scores) {{
        h = Gather(embedding, ids)
        q = MatMul(h, wq)
        k = MatMul(h, wk)
        v = MatMul(h, wv)
        {parts}
        products = MatMul(qt, kt)
        shares = Softmax <axis = -1> (products)
        mixed = MatMul(shares, vt)
        back = Transpose <perm = [0, 2, 1, 3]> (mixed)
        joined = Reshape(back, whole)
        o = MatMul(joined, wo)
        e = Add(h, o)
        wide = MatMul(e, w1)
        active = Relu(wide)
        narrow = MatMul(active, w2)
        s = Add(e, narrow)
        scores = MatMul(s, w3)
    }}"""
    shapes = {"embedding": (20, 16), **{name: (16, 16) for name in ("wq", "wk", "wv", "wo")}}
    shapes |= {"w1": (16, 32), "w2": (32, 16), "w3": (16, 20)}
    return model(text, shapes, heads=np.array([0, 0, 4, 4]), whole=np.array([0, 0, 16]))


def tagger() -> onnx.ModelProto:
    text = f"""net (float[T, N, 6] x) => (float[T, N, {CLASSES}] tags) {{
        y = LSTM <hidden_size = 12> (x, w, r)
        steps = Squeeze(y, one)
        tags = MatMul(steps, w2)
    }}"""
    return model(text, {"w": (1, 48, 6), "r": (1, 48, 12), "w2": (12, CLASSES)}, one=np.array([1]))


def stateful() -> onnx.ModelProto:
    text = """net (float[N, 8] x, float[N, 6] state) => (float[N, 2] y, float[N, 6] next) {
        wide = MatMul(x, w1)
        a = Relu(wide)
        u = MatMul(a, w2)
        v = MatMul(state, w3)
        s = Add(u, v)
        next = Tanh(s)
        deep = MatMul(next, w4)
        b = Relu(deep)
        y = MatMul(b, w5)
    }"""
    return model(text, {"w1": (8, 24), "w2": (24, 6), "w3": (6, 6), "w4": (6, 16), "w5": (16, 2)})


def segments(rng: np.random.Generator) -> Arrays:
    """Pixels of byte, and the brightest channel of each, a row of them marked as to be ignored."""
    image = rng.integers(0, 255, (80, 3, SIDE, SIDE)).astype(np.uint8)
    label = image.argmax(1)
    label[:, 0] = 255
    return {"image": image, "label": label}


TASKS: dict[str, tuple[Callable[[], onnx.ModelProto], Callable[[np.random.Generator], Arrays] | None]] = {
    "classifier": (classifier, None),
    "detector": (detector, None),
    "segmenter": (segmenter, segments),
    "tokens": (tokens, lambda rng: {"ids": rng.integers(0, 20, (120, 7))}),
    "tagger": (tagger, lambda rng: {"x": rng.normal(size=(5, 120, 6)).astype(np.float32)}),
    "stateful": (
        stateful,
        lambda rng: {
            name: rng.normal(size=(120, n)).astype(np.float32) for name, n in (("x", 8), ("state", 6))
        },
    ),
}


def put(folder: Path) -> None:
    """Models and data of all tasks, in a folder."""
    rng = np.random.default_rng(0)
    for name, (make, data) in TASKS.items():
        onnx.save(make(), folder / f"{name}.onnx")
        if data is not None:
            np.savez(folder / f"{name}.npz", **data(rng))
    pictures(folder / "photographs", 90, labelled=True)
    pictures(folder / "pictures", 60, labelled=False)
