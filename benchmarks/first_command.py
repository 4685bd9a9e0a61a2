"""CPU time of the README's first command, beside that of an older commit, in turns.

    python benchmarks/first_command.py [--commit 58e8577] [--turns 1] [--most 1.2]

Both run from their sources with the packages of this Python, on one thread. Exit code 1 where the median here is more
than `--most` times the older one's.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "prune models/fashion_resnet20.onnx --data models/fashion_mnist.npz --target flops=0.5 --threads 1"


def seconds(source: Path, folder: Path, more: tuple[str, ...] = ()) -> float:
    """User and system time of the command from these sources, children included."""
    out = folder / f"{source.name}.onnx"
    command = [sys.executable, "-m", "tgonnx", *COMMAND.split(), *more, "-o", str(out), "--overwrite", "-q"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=source, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default="58e8577")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--most", type=float, default=1.2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, older = Path(name), Path(name) / "older"
        subprocess.run(["git", "worktree", "add", "--detach", older, options.commit], cwd=ROOT, check=True)
        try:
            pairs = [
                (seconds(ROOT, folder, ("--no-run-dir",)), seconds(older, folder))
                for _ in range(options.turns)
            ]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", older], cwd=ROOT, check=True)
    here, there = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{here:.0f} s here, {there:.0f} s at {options.commit}: {here / there:.2f} times")
    return int(here > options.most * there)


if __name__ == "__main__":
    sys.exit(main())
