"""Averages of BatchNormalization, measured anew."""

from __future__ import annotations

from itertools import islice

import numpy as np
import onnx

from tgonnx.engines.trainer import session
from tgonnx.graph.proto import with_values
from tgonnx.graph.types import Array
from tgonnx.ops.aspects.traits import traits_of
from tgonnx.passes.prepare_training import prepare_training
from tgonnx.training.recipe import Settings
from tgonnx.training.task import Task

REFRESH_BATCHES = 40


def refresh_statistics(
    proto: onnx.ModelProto, task: Task, recipe: Settings, batches: int = REFRESH_BATCHES
) -> onnx.ModelProto:
    """The model with BatchNormalization's averages measured anew: mean and variance over some batches."""
    if not any(traits_of(node).statistics for node in proto.graph.node):
        return proto
    drawn = list(islice(task.alike(recipe.batch, recipe.seed + 2), 1))
    copy = prepare_training(proto, {name: value.shape for name, value in drawn[0].feeds.items()})
    if not copy.statistics:
        return proto
    model = copy.model
    for node in model.graph.node:
        if traits_of(node).statistics:
            _forget(node)
    del model.graph.output[:]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in copy.statistics.items():
        tensor = stored[name]
        model.graph.output.append(onnx.helper.make_tensor_value_info(value, tensor.data_type, tensor.dims))
    runner = session(model, recipe.threads)
    sums: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    count = min(batches, max(1, 3 * task.steps_per_epoch(recipe.batch)))
    for batch in islice(task.alike(recipe.batch, recipe.seed + 2), count):
        for name, value in zip(copy.statistics, runner.run(None, dict(batch.feeds)), strict=True):
            precise = value.astype(np.float64)
            sums[name] = sums.get(name, 0.0) + precise
            squares[name] = squares.get(name, 0.0) + precise**2
    means = {name: total / count for name, total in sums.items()}
    for node in proto.graph.node:  # the variance of all samples: within batches, and between their means
        if not (places := traits_of(node).statistics):
            continue
        mean, variance = (node.input[place] for place in places)
        if variance in means and mean in squares:
            means[variance] = means[variance] + np.maximum(squares[mean] / count - means[mean] ** 2, 0)
    return with_values(proto, means)


def _forget(node: onnx.NodeProto) -> None:
    """Give out the statistics of the batch alone."""
    for attribute in node.attribute:
        if attribute.name == "momentum":
            node.attribute.remove(attribute)
            break
    node.attribute.append(onnx.helper.make_attribute("momentum", 0.0))
