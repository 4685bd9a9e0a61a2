"""What it costs to import tgonnx, and to ask the command for help, in units of `import onnx`.

    python benchmarks/import_time.py [--runs 15]

Seconds of CPU time (user and system, of a fresh process each, less those of an empty one), medians of runs that take
turns. Exit code 1: a ratio is above its limit.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

PROGRAMS = {
    "nothing": "pass",
    "import onnx": "import onnx",
    "import tgonnx": "import tgonnx",
    "tgonnx --help": "import tgonnx.cli; tgonnx.cli.main(['--help'])",
    "load, analyze, select": "import tgonnx; tgonnx.load, tgonnx.analyze, tgonnx.select",
    "every public name": "from tgonnx import *",
}
LIMITS = {"import tgonnx": 1.6, "tgonnx --help": 2.0}
UNIT = "import onnx"


def seconds(program: str) -> float:
    """CPU time of a fresh process that runs `program`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(runs: int) -> dict[str, float]:
    """The median CPU time of each program, less that of an empty one."""
    for program in PROGRAMS.values():  # bytecode is written once
        seconds(program)
    found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(runs):
        for name, program in PROGRAMS.items():
            found[name].append(seconds(program))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {name: value - medians["nothing"] for name, value in medians.items() if name != "nothing"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="processes of each kind")
    times = measured(parser.parse_args().runs)
    failed = False
    for name, value in times.items():
        ratio, limit = value / times[UNIT], LIMITS.get(name)
        failed |= limit is not None and ratio > limit
        allowed = "" if limit is None else f"  at most {limit}"
        print(f"{name:24}{value * 1000:8.0f} ms{ratio:8.2f} x{allowed}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
