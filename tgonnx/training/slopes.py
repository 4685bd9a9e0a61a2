"""What the task's loss says of each unit: its slope along the unit's gate, batch by batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tgonnx.analysis.coupling import Coupling
from tgonnx.engines import differentiate
from tgonnx.engines.trainer import session
from tgonnx.passes.gate_families import CHANNELS
from tgonnx.passes.prepare_training import LOGITS
from tgonnx.training.recipe import Settings
from tgonnx.training.step import training_copy, with_objective
from tgonnx.training.task import Task

BATCHES, SIZE = 64, 8  # small batches, for squares of means are not means of squares


def gate_slopes(coupling: Coupling, task: Task, recipe: Settings) -> NDArray[np.float64]:
    """The slope of the loss along each gate, all gates being open, [batches, units].

    Raises UnsupportedError if the model cannot be differentiated.
    """
    recipe = replace(recipe, batch=task.split.axes.fixed or min(SIZE, recipe.batch), gradient="one")
    drawn = [*islice(task.alike(recipe.batch, recipe.seed), BATCHES)]
    copy = training_copy(CHANNELS.insert(coupling.model.proto, coupling, None), recipe, drawn[0])
    spec = with_objective(copy, task, recipe, drawn[0])
    found, _ = differentiate(spec.model, [LOGITS], "portable")
    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    for tensor in model.graph.initializer:
        if tensor.name == LOGITS:
            tensor.CopyFrom(numpy_helper.from_array(np.ones(coupling.units, np.float32), LOGITS))
    del model.graph.output[:]
    slope = helper.make_tensor_value_info(found.gradients[LOGITS], TensorProto.FLOAT, [coupling.units])
    model.graph.output.append(slope)
    runner = session(model, recipe.threads)
    return np.stack([runner.run(None, task.teacher.feeds(batch))[0] for batch in drawn]).astype(np.float64)
