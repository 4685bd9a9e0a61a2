"""A step of a build: prune, measure, and fail if the result is not within the budget.

    python examples/ci.py model.onnx data.npz small.onnx --target flops=0.5 --max-drop 0.02 --max-bytes 700000

Exit code 1 if the budget is exceeded; what tgonnx refuses ends with its own exit code.
"""

from __future__ import annotations

import argparse
import sys

import tgonnx as tg


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--target", default="flops=0.5")
    parser.add_argument(
        "--max-drop", type=float, default=0.01, help="of the metric, 0.01 is one point of accuracy"
    )
    parser.add_argument("--max-bytes", type=int, default=sys.maxsize, help="of the file")
    parser.add_argument("--epochs", type=int, help="of training; without, nothing is trained (--calibrate)")
    given = parser.parse_args(words)
    learn = {"calibrate": True} if given.epochs is None else {"epochs": given.epochs}
    try:
        result = tg.prune(given.model, given.data, given.target, seed=0, **learn)
        result.save(given.out, overwrite=True)
        measured = tg.evaluate([given.model, given.out], given.data, repeats=10)
    except tg.TgonnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(measured)
    before, after = measured.models
    broken = [] if result.target_met else [f"{result.target} is not met: {result.achieved:.3f} is left"]
    if after.file_bytes > given.max_bytes:
        broken.append(f"{after.file_bytes:,} bytes, at most {given.max_bytes:,} are allowed")
    if before.metric is None or after.metric is None:
        broken.append("the data have no labels: nothing says what was lost")
    elif before.metric - after.metric > given.max_drop:
        broken.append(f"{measured.metric} fell from {before.metric:.4f} to {after.metric:.4f}")
    for reason in broken:
        print(f"over budget: {reason}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
