"""How often is tgonnx wrong? Inputs of every kind at hand, on every runtime at hand, counted with the faults found.

    python benchmarks/reliability.py --minutes 10 [--other PYTHON] [--zoo FOLDER] [--wheels FOLDER] [--markdown FILE]

Random models, models in other forms, damaged files (each for --minutes), packed graphs of tests/zoo or all of --zoo,
and trained models that others published, which are downloaded into --wheels. --other is a Python with another
onnxruntime, which then does the same. Exit code 1: a fault was found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx
import onnxruntime

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from fuzz_damage import check_damaged  # noqa: E402 (tests are not a package that is installed)
from fuzz_forms import check_mutated  # noqa: E402
from independent import axes_of, faults_of  # noqa: E402
from oracle import check_exact  # noqa: E402
from random_graphs import random_model  # noqa: E402
from tables import as_markdown, graphs  # noqa: E402
from test_random_graphs import OPSETS, check_wild  # noqa: E402
from third_party import MODELS, check_trained, unpacked  # noqa: E402
from zoo.pack import HERE as PACKED  # noqa: E402
from zoo.pack import SUFFIX, unpack  # noqa: E402


@dataclass
class Line:
    """How many inputs of one kind were tried on one runtime, and what went wrong with which."""

    kind: str
    runtime: str = (
        f"onnxruntime {onnxruntime.__version__}, Python {sys.version_info[0]}.{sys.version_info[1]}"
    )
    tried: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, check: Callable[[], object]) -> None:
        """Try one input; whatever is raised is a fault of it."""
        self.tried += 1
        try:
            note = check()
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self.faults.append(f"{name}: {text[:200]}")
        else:
            self.notes += [f"{name}: {note}"] if isinstance(note, str) else []


def check_random(seed: int) -> None:
    """One random model of fixed sizes, all invariants."""
    check_exact(random_model(seed, OPSETS[seed % len(OPSETS)], 2 + seed % 4), seed)


SEEDED: dict[str, Callable[[int], object]] = {
    "random models of fixed sizes": check_random,
    "random models of free sizes": check_wild,
    "models in other forms": check_mutated,
    "damaged files": check_damaged,
}


def check_graph(model: onnx.ModelProto) -> None:
    """A graph of an exporter, half of it removed, at batches 1, 2 and 3."""
    sizes = [{name: batch for name in axes_of(model)} for batch in (1, 2, 3)]
    faults, looked, _ = faults_of(model, sizes=sizes)
    assert looked, "the original does not run"
    assert not faults, faults[0]


def measure(options: argparse.Namespace) -> Iterator[Line]:
    """Every kind, on this runtime."""
    for kind, check in SEEDED.items():
        yield for_minutes(kind, check, options.seed, options.minutes)
    line = Line("exported graphs at batches 1, 2 and 3")
    if options.zoo:
        for name, path in graphs(options.zoo):
            line.add(name, lambda path=path: check_graph(onnx.load(path)))
    else:
        for path in sorted(PACKED.glob(f"*{SUFFIX}")):
            line.add(path.name, lambda path=path: check_graph(unpack(path)))
    yield line
    if options.wheels:
        line = Line("trained models of others, pruned to half of their FLOPs")
        for trained in MODELS:
            path = unpacked(trained, options.wheels)
            line.add(path.name, lambda path=path, trained=trained: check_trained(trained, path))
        yield line


def for_minutes(kind: str, check: Callable[[int], object], seed: int, minutes: float) -> Line:
    """Seed after seed, each in a child process, so that a crash of the runtime is a fault and not the end."""
    line, end = Line(kind), time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        with ProcessPoolExecutor(1) as pool:
            for _ in range(50):
                line.add(f"seed {seed}", lambda seed=seed: pool.submit(check, seed).result())
                seed += 1
                if time.monotonic() > end or "BrokenProcessPool" in "".join(line.faults[-1:]):
                    break
    return line


def elsewhere(python: Path, options: argparse.Namespace) -> list[Line]:
    """The same on another runtime."""
    command = [
        str(python),
        __file__,
        "--json",
        "--minutes",
        str(options.minutes),
        "--seed",
        str(options.seed),
    ]
    command += ["--zoo", str(options.zoo)] if options.zoo else []
    command += ["--wheels", str(options.wheels)] if options.wheels else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [Line(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def report(lines: list[Line]) -> str:
    """The page docs/reliability.md."""
    rows = [(line.kind, line.runtime, str(line.tried), str(len(line.faults))) for line in lines]
    parts = [
        "# Reliability",
        "What was tried, on which runtimes, and what went wrong: `python benchmarks/reliability.py` wrote this page. A "
        "fault is a difference between the original and the model with all gates open, or between the gated and the "
        "pruned model, at any size at which the original runs; an internal error, a traceback, a second line on "
        "stderr; a file left behind.",
        as_markdown(("inputs", "runtime", "tried", "faults"), rows),
    ]
    for line in lines:
        for title, entries in (("Faults", line.faults), ("Notes", line.notes)):
            if entries:
                parts += [f"## {title}: {line.kind}, {line.runtime}", "\n".join(f"* {e}" for e in entries)]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="for each kind of drawn input")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--other", type=Path, help="a Python with another onnxruntime")
    parser.add_argument("--zoo", type=Path, help="a folder of .onnx files instead of tests/zoo")
    parser.add_argument("--wheels", type=Path, help="a folder that keeps the downloaded trained models")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--json", action="store_true", help="print the lines as JSON, last")
    options = parser.parse_args()
    lines = []
    for line in measure(options):
        lines.append(line)
        print(f"{line.kind}: {line.tried} tried, {len(line.faults)} faults", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([asdict(line) for line in lines]))
        return 0
    if options.other:
        lines += elsewhere(options.other, options)
    page = report(lines)
    if options.markdown:
        options.markdown.write_text(page)
    print(page)
    return int(any(line.faults for line in lines))


if __name__ == "__main__":
    sys.exit(main())
