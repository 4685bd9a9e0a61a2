"""The whole pipeline: analyse, learn or choose, cut, train on, verify."""

from tgonnx.pipeline.embedding import embed
from tgonnx.pipeline.evaluating import Evaluation, evaluate
from tgonnx.pipeline.plan import steps_for
from tgonnx.pipeline.pruning import prune, tune
from tgonnx.pipeline.result import Figures, PruneResult
from tgonnx.pipeline.sweeping import sweep

__all__ = ["Evaluation", "Figures", "PruneResult", "embed", "evaluate", "prune", "steps_for", "sweep", "tune"]
