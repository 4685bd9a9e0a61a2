"""What is learned from, and how it is measured."""

from tgonnx.losses.figures import METRICS, MetricKind
from tgonnx.losses.loss import Loss, Seen
from tgonnx.losses.nodes import Nodes
from tgonnx.losses.table import LOSSES, register

__all__ = ["LOSSES", "METRICS", "Loss", "MetricKind", "Nodes", "Seen", "register"]
