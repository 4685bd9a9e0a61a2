"""The paper's synthetic experiment (Figure 2): which of 20 hidden sine nodes are kept when one is enough?

    python benchmarks/synthetic.py [--steps 1500] [--seeds 3]

The network y = sum_i c_i s_i sin(w_i x) learns y = sin(x). The selection s is either 20 trainable gates, with
a penalty on the number of open gates, or the softmax relaxation of the architecture search literature, which
adds up many nodes instead of choosing one.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from tgonnx import engines
from tgonnx.engines import EngineName, ParameterGroup, StepSpec
from tgonnx.ops import trainable_gate as gates

NODES = 20
KEPT = 0.01  # a node counts as kept if its share of the sum of |decision weights| exceeds one percent


def training_copy(selection: str, seed: int) -> StepSpec:
    """Mean squared error plus `penalty` times the share of open gates; `selection`: a gate shape, softmax."""
    rng = np.random.default_rng(seed)
    if selection == "softmax":
        choose = "s = Softmax <axis = 0> (logits)"
    else:
        choose = f"s = {gates.DOMAIN}.{gates.op_type(selection)} (logits)"  # type: ignore[arg-type]
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18, "{gates.DOMAIN}" : {gates.VERSION}]>
        sine (float[N, 1] x, float[N, 1] t, float penalty) => (float loss, float error)
        <float[1, {NODES}] w, float[{NODES}] c, float[{NODES}] logits> {{
            {choose}
            wx = MatMul (x, w)  h = Sin (wx)  cs = Mul (c, s)  hs = Mul (h, cs)
            last = Constant <value = int64[1] {{1}}> ()
            y = ReduceSum <keepdims = 1> (hs, last)
            d = Sub (y, t)  q = Mul (d, d)  error = ReduceMean <keepdims = 0> (q)
            kept = ReduceMean <keepdims = 0> (s)  cost = Mul (kept, penalty)  loss = Add (error, cost)
        }}"""
    )
    if selection != "softmax":
        model.functions.append(gates.function(selection))  # type: ignore[arg-type]
    initial = {
        "w": rng.normal(size=(1, NODES)),
        "c": rng.normal(size=NODES),
        "logits": rng.uniform(0.1, 0.5, NODES),
    }
    for name, value in initial.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    onnx.checker.check_model(model)
    weights = ParameterGroup(("w", "c"), "adamw", "lr")
    return StepSpec(model, (weights, ParameterGroup(("logits",), "adamw", "gate_lr")))


def train(
    selection: str, seed: int, steps: int = 1500, engine: EngineName = "auto"
) -> tuple[np.ndarray[Any, Any], float]:
    """Train; return the decision weight s_i of every node and the final mean squared error."""
    trainer = engines.build(training_copy(selection, seed), engine, threads=1)
    rng = np.random.default_rng(seed + 1000)
    error = float("nan")
    for step in range(steps):
        x = rng.uniform(-np.pi, np.pi, (64, 1)).astype(np.float32)
        decay = 1.0 - step / steps
        feeds = {"x": x, "t": np.sin(x), "penalty": np.float32(1.0)}
        rates = {"lr": np.float32(0.05 * decay), "gate_lr": np.float32(0.03 * decay)}
        error = float(trainer.step({**feeds, **rates})["error"])
    logits = trainer.parameters()["logits"]
    if selection == "softmax":
        exponentials = np.exp(logits - logits.max())
        return exponentials / exponentials.sum(), error
    return (logits > 0).astype(np.float32), error


def kept(decisions: np.ndarray[Any, Any]) -> int:
    """How many nodes the decision uses."""
    return int((decisions > KEPT * decisions.sum()).sum()) if decisions.sum() else 0


def main() -> None:
    """Print a table: nodes kept and error for each selection and seed."""
    parser_ = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser_.add_argument("--steps", type=int, default=1500)
    parser_.add_argument("--seeds", type=int, default=3)
    options = parser_.parse_args()
    print(f"{'selection':12} {'seed':>4} {'nodes kept':>10} {'error':>10}")
    for selection in (*gates.SHAPES, "softmax"):
        for seed in range(options.seeds):
            decisions, error = train(selection, seed, options.steps)
            print(f"{selection:12} {seed:4} {kept(decisions):10} {error:10.2e}")


if __name__ == "__main__":
    main()
