"""Inputs to time a model with: of the sizes that its cost is counted at."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from tgonnx.errors import ModelError
from tgonnx.graph.declared import model_inputs
from tgonnx.runtime.equivalence import runnable_feeds
from tgonnx.runtime.feeds import Drawer
from tgonnx.runtime.sessions import Feeds, open_session
from tgonnx.runtime.trial_sizes import Size


def timing_feeds(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], batch: int = 1, threads: int = 0
) -> Feeds:
    """Random inputs of `batch` samples, in these shapes where the model takes them.

    Raises ModelError, UnsupportedError.
    """
    session, names = open_session(model, threads), [value.name for value in model_inputs(model)]
    if shapes and all(name in shapes for name in names):
        wanted = tuple((name, (batch, *shapes[name][1:]) if shapes[name] else ()) for name in names)
        for each in (wanted, tuple((name, shapes[name]) for name in names)):
            feeds = Drawer(model).draw(Size(shapes=each), np.random.default_rng(0))
            try:
                session.run(feeds)
                return feeds
            except ModelError:  # the first axis is not that of the samples
                continue
    return runnable_feeds(model, session, batch=batch)[0]
