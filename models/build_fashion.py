"""Build and train `fashion_resnet20.onnx` and pack `fashion_mnist.npz`, with tgonnx's own engine.

apt-get install dataset-fashion-mnist
python models/build_fashion.py [--epochs 6] [--threads 2]
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tgonnx.data.samples import Batch, Dataset, Split
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.graph.builder import Emitter, Value
from tgonnx.losses.fit import validate
from tgonnx.losses.metric import Metric
from tgonnx.training.fine_tune import fine_tune
from tgonnx.training.progress import Journal, Progress
from tgonnx.training.recipe import Settings
from tgonnx.training.statistics import refresh_statistics
from tgonnx.training.task import Task, Teacher

FOLDER = Path("/usr/share/datasets/fashion-mnist")
HERE = Path(__file__).resolve().parent
WIDTH, BLOCKS, CLASSES = 16, 3, 10
PACKED, PACKED_TEST = 10_000, 2_000


def fashion_mnist() -> dict[str, np.ndarray]:
    """All images as uint8 [N, 1, 28, 28] and labels, named for the model built here."""

    def read(name: str, header: int) -> np.ndarray:
        with gzip.open(FOLDER / f"{name}-ubyte.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    return {
        "image": read("train-images-idx3", 16).reshape(-1, 1, 28, 28),
        "label": read("train-labels-idx1", 8).astype(np.int64),
        "test_image": read("t10k-images-idx3", 16).reshape(-1, 1, 28, 28),
        "test_label": read("t10k-labels-idx1", 8).astype(np.int64),
    }


class ResNet20:
    """He et al. 2016: three stages of three blocks; projections (1 x 1) where the width changes."""

    def __init__(self, width: int, seed: int) -> None:
        self.e = Emitter("")
        self.rng = np.random.default_rng(seed)
        self.stored: list[TensorProto] = []
        x = self.e.op("Relu", self.convolution(self.e.value("image"), "stem", 1, width, 3, 1))
        channels = width
        for stage in range(3):
            for block in range(BLOCKS):
                out, stride = width * 2**stage, 2 if stage and not block else 1
                name = f"stage{stage + 1}.block{block + 1}"
                y = self.e.op("Relu", self.convolution(x, f"{name}.conv1", channels, out, 3, stride))
                y = self.convolution(y, f"{name}.conv2", out, out, 3, 1)
                skip = x if channels == out else self.convolution(x, f"{name}.skip", channels, out, 1, stride)
                x, channels = self.e.op("Relu", y + skip), out
        features = self.e.op("Flatten", self.e.op("GlobalAveragePool", x), axis=1)
        weight = self.store("classifier.weight", self.rng.normal(0, 0.1, (CLASSES, channels)))
        bias = self.store("classifier.bias", np.zeros(CLASSES))
        self.e.op("Gemm", features, weight, bias, transB=1)
        self.e.nodes[-1].output[0] = "scores"
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.e.nodes,
            "fashion_resnet20",
            [info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
            [info("scores", TensorProto.FLOAT, ["N", CLASSES])],
            self.stored,
        )
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        self.model.producer_name = "tgonnx models/build_fashion.py"
        onnx.checker.check_model(self.model, full_check=True)

    def store(self, name: str, array: np.ndarray) -> Value:
        self.stored.append(numpy_helper.from_array(array.astype(np.float32), name))
        return self.e.value(name)

    def convolution(self, x: Value, name: str, channels: int, out: int, kernel: int, stride: int) -> Value:
        """Convolution and BatchNormalization; He et al. 2015 initial values."""
        scale = np.sqrt(2 / (channels * kernel * kernel))
        weight = self.store(f"{name}.weight", self.rng.normal(0, scale, (out, channels, kernel, kernel)))
        sizes = {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4, "strides": [stride, stride]}
        y = self.e.op("Conv", x, weight, **sizes)
        start = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
        norm = [self.store(f"{name}.bn.{key}", np.full(out, value)) for key, value in start.items()]
        return self.e.op("BatchNormalization", y, *norm, epsilon=1e-5, momentum=0.9)


class Augmented(Split):
    """Images mirrored at random."""

    def take(self, chosen: np.ndarray) -> Batch:
        batch = super().take(chosen)
        images = batch.feeds["image"]
        rng = np.random.default_rng(int(chosen[0]) * 65537 + int(chosen[-1]))
        mirrored = rng.random(len(images)) < 0.5
        images[mirrored] = images[mirrored][..., ::-1]
        return Batch({"image": images}, batch.answer)


def train(model: onnx.ModelProto, dataset: Dataset, epochs: int, threads: int, seed: int) -> onnx.ModelProto:
    """Train from random weights: SGD with momentum, one cycle of the learning rate."""
    fit = validate(dataset, model)
    assert dataset.held_out is not None
    split = Augmented(dataset.train.samples, dataset.train.indices)
    task = Task(split, fit, Teacher(model, fit, threads, imitation=0.0), Metric(fit, dataset.held_out, model))
    recipe = Settings(lr=0.1, batch=128, weight_decay=5e-3, optimizer="sgd", seed=seed, threads=threads)
    steps = epochs * task.steps_per_epoch(recipe.batch)
    began = time.monotonic()

    def show(progress: Progress) -> None:
        if progress.step % 100 == 0 or (progress.metric is not None and progress.step % 468 == 0):
            print(f"{time.monotonic() - began:6.0f} s  {progress}", flush=True)

    trained = fine_tune(model, task, steps, recipe, Journal(show))
    plain = Task(dataset.train, fit, task.teacher, task.metric)
    return refresh_statistics(trained, plain, recipe)


def main() -> None:
    """Train, report the accuracy on all test images, write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    values = fashion_mnist()
    packed = {
        name: array[: PACKED_TEST if name.startswith("test_") else PACKED].astype(np.uint8)
        for name, array in values.items()
    }
    np.savez_compressed(options.out / "fashion_mnist.npz", **packed)
    model = ResNet20(WIDTH, options.seed).model
    dataset = open_dataset(arrays(values, scale=1 / 255), model)
    model = train(model, dataset, options.epochs, options.threads, options.seed)
    assert dataset.held_out is not None
    accuracy = Metric(validate(dataset, model), dataset.held_out, model)(model)
    print(f"accuracy on {len(dataset.held_out)} test images: {accuracy:.4f}")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, options.out / "fashion_resnet20.onnx")


if __name__ == "__main__":
    main()
