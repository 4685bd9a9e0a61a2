"""What a training step takes, beside PyTorch and with gates, and after pruning.

    python benchmarks/train_step.py FOLDER [--torch PYTHON] [--networks NAME ...] [--threads 1] [--rounds 12]
    python benchmarks/train_step.py check      # exit code 1 if a line that docs/training.md promises is missed
    python benchmarks/train_step.py one MODEL.onnx [--batch 64] [--threads 2] [--family channels]

The first measures seven networks, which `step_torch.py export FOLDER` wrote: forward, loss, backward and AdamW in each
engine, without gates and with gates, on the whole network and on what pruning leaves; in PyTorch (the interpreter
PYTHON, with torch) eager in both layouts. All of them take turns. Rows are medians, of processor time on one thread
and of the clock on two, and memory beyond what was there before the step was made. They are kept in
results/train_step.jsonl; the newest of its kind counts. `one` compares steps with and without gates of any model.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from step_turns import Network, Turn, Way, networks, serve
from tables import Promises, as_markdown

import tgonnx as tg
from tgonnx.data.sources import arrays, open_dataset
from tgonnx.engines import EngineName, Trainer
from tgonnx.engines.table import ENGINES
from tgonnx.losses.fit import validate
from tgonnx.passes.add_objective import HYSTERESIS, MU, RHO, Penalty
from tgonnx.passes.gate_families import CHANNELS, FAMILIES, WEIGHTS
from tgonnx.runtime.feeds import random_feeds
from tgonnx.training.recipe import Settings
from tgonnx.training.step import make_trainer
from tgonnx.training.task import Task, Teacher

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "train_step.jsonl"
TORCH = ("nchw", "channels_last")
FORMS = ("whole", "gates", "0.5", "0.25")  # the network, the gated one, and with so much of its FLOPs
SECONDS = 0.3  # of a turn, about
MEDIAN, MOST, GATED, MEMORY = 1.0, 1.25, 1.05, 1.5
LEFT = {"0.5": 0.60, "0.25": 0.40}  # share of the FLOPs: of the time
SCALARS = {"tgonnx.lr": 1e-4, "tgonnx.gate_lr": 1e-4, MU: 0.0, RHO: 1.0, HYSTERESIS: 0.5}


@dataclass(frozen=True)
class Row:
    """One way to train one network: milliseconds of a step, MB. `runtime` has the version."""

    network: str
    form: str
    way: str
    runtime: str
    threads: int
    processor: float
    clock: float
    memory: float


def stepper(
    path: Path, engine: EngineName, form: str, threads: int, network: Network | None, batch: int = 64
) -> Callable[[], float]:
    """One training step of a model: of labels for a network, else of what the original says."""
    model = tg.load(str(path))
    values = (
        {"x": network.inputs(), "label": network.labels()}
        if network
        else random_feeds(model.original, np.random.default_rng(0), batch)
    )
    dataset = open_dataset(arrays(values | {f"test_{n}": v for n, v in values.items()}), model.original)
    fit = validate(dataset, model.original)
    task = Task(dataset.train, fit, Teacher(model.original, fit, threads, 0.0 if network else 0.5), None)
    recipe = Settings(batch=network.batch if network else batch, threads=threads, engine=engine)
    first = next(task.batches(recipe.batch, 0))
    trainer = _trainer(model, form, task, recipe, first)
    feeds = task.teacher.feeds(first) | {name: np.array(v, np.float32) for name, v in SCALARS.items()}
    return lambda: float(next(iter(trainer.step(feeds).values())))


def _trainer(model: tg.Model, form: str, task: Task, recipe: Settings, first: object) -> Trainer:
    if form == "whole":
        return make_trainer(model.proto, task, recipe, first)
    coupling = tg.analyze(model)
    if form in FAMILIES or form == "gates":
        family = FAMILIES.get(form, CHANNELS)
        penalty = Penalty(family.costs(coupling), "nonzeros" if family is WEIGHTS else "flops", 5.0, family)
        return make_trainer(family.insert(model.proto, coupling, None), task, recipe, first, penalty)
    pruned = tg.apply(coupling, tg.select(coupling, f"flops={form}"))
    return make_trainer(tg.load(pruned).proto, task, recipe, first)


def measured(
    ways: dict[tuple[str, str], Way], rounds: int
) -> Iterator[tuple[tuple[str, str], list[Turn], float]]:
    """Turns of each way, and its memory."""
    counts = {key: max(1, round(SECONDS / way.turn(2).processor)) for key, way in ways.items()}
    turns: dict[tuple[str, str], list[Turn]] = {key: [] for key in ways}
    for _ in range(rounds):
        for key, way in ways.items():
            turns[key].append(way.turn(counts[key]))
    for key, way in ways.items():
        yield key, turns[key], way.close()


def compare(network: Network, given: argparse.Namespace) -> None:
    """Rows of one network."""
    ways: dict[tuple[str, str], Way] = {}
    torch = [given.torch or sys.executable, str(HERE / "step_torch.py")]
    for layout in TORCH if network.shape[1:] else TORCH[:1]:
        ways["whole", f"torch {layout}"] = Way([*torch, "step", network.name, layout, str(given.threads)])
    path = str(given.what) + f"/{network.name}.onnx"
    for engine in given.engines:
        for form in given.forms:
            ways[form, engine] = _ours(path, engine, form, given, network.name)
    reference = ways["whole", f"torch {TORCH[0]}"].loss
    for (form, name), way in ways.items():
        if form == "whole" and abs(way.loss - reference) > 1e-3 * abs(reference):
            raise SystemExit(
                f"{network.name}: the first loss of {name} is {way.loss}, torch's is {reference}"
            )
    for (form, name), turns, memory in measured(ways, given.rounds):
        runtime = "" if name.startswith("torch") else importlib.metadata.version(_package())
        figures = (
            1e3 * statistics.median(getattr(t, what) for t in turns) for what in ("processor", "clock")
        )
        keep(Row(network.name, form, name, runtime, given.threads, *figures, memory))


def _package() -> str:
    found = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return "onnxruntime-training-cpu" if "onnxruntime-training-cpu" in found else "onnxruntime"


def _ours(path: str, engine: str, form: str, given: argparse.Namespace, name: str = "") -> Way:
    more = ["--networks", name] if name else ["--batch", str(given.batch)]
    command = [sys.executable, str(HERE / "train_step.py"), "serve", path, "--engines", engine]
    return Way([*command, "--forms", form, "--threads", str(given.threads), *more])


def keep(row: Row) -> None:
    with open(ROWS, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")
    print(
        f"{row.network} {row.form}, {row.way} {row.runtime}, {row.threads} thread(s): {row.processor:.1f} ms of the "
        f"processor, {row.clock:.1f} ms of the clock, {row.memory:.0f} MB",
        flush=True,
    )


Rows = dict[tuple[str, str, str, int], Row]  # network, form, way with runtime, threads


def known() -> Rows:
    """The newest row of each kind."""
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {(row.network, row.form, f"{row.way} {row.runtime}".strip(), row.threads): row for row in rows}


def took(row: Row) -> float:
    """Processor time on one thread, the clock on several."""
    return row.processor if row.threads == 1 else row.clock


def memory(row: Row) -> float:
    return row.memory


def cheapest(
    rows: Rows, network: str, threads: int, torch: bool, what: Callable[[Row], float] = took
) -> Row | None:
    """The best whole step of PyTorch, or of the engines."""
    found = [
        row
        for (name, form, way, t), row in rows.items()
        if (name, form, t) == (network, "whole", threads) and way.startswith("torch") == torch
    ]
    return min(found, key=what, default=None)


def report() -> None:
    """The tables of docs/training.md."""
    rows = known()
    for threads in sorted({row.threads for row in rows.values()}):
        ways = list(dict.fromkeys(way for (_, form, way, t) in rows if t == threads and form == "whole"))
        lines = []
        for network in networks():
            cells = [rows.get((network.name, "whole", way, threads)) for way in ways]
            ours, theirs = (cheapest(rows, network.name, threads, torch) for torch in (False, True))
            if ours and theirs:
                least = [cheapest(rows, network.name, threads, torch, memory) for torch in (False, True)]
                share = least[0].memory / least[1].memory if least[0] and least[1] else float("nan")
                times = [f"{took(cell):.0f}" if cell else "" for cell in cells]
                lines.append((network.name, *times, f"{took(ours) / took(theirs):.2f}", f"{share:.1f}"))
        print(f"\n{threads} thread(s)\n")
        print(as_markdown(("network", *ways, "best / best", "memory"), lines))
    lines = []
    for network in networks():
        for way in dict.fromkeys(key[2] for key in rows if not key[2].startswith("torch")):
            whole = rows.get((network.name, "whole", way, 1))
            parts = [rows.get((network.name, form, way, 1)) for form in FORMS[1:]]
            if whole and any(parts):
                shares = [f"{took(part) / took(whole):.2f}" if part else "" for part in parts]
                lines.append((network.name, way, *shares))
    print("\n" + as_markdown(("network", "engine", *FORMS[1:]), lines))


def check() -> int:
    """1 if a promise is broken."""
    rows, promises = known(), Promises()
    hold, broken = promises.hold, promises.broken
    for threads in (1, 2):
        ratios = dict[str, float]()
        for network in networks():
            ours, theirs = (cheapest(rows, network.name, threads, torch) for torch in (False, True))
            least = [cheapest(rows, network.name, threads, torch, memory) for torch in (False, True)]
            if ours and theirs and least[0] and least[1]:
                ratios[network.name] = took(ours) / took(theirs)
                hold(
                    ratios[network.name] <= MOST,
                    f"{network.name}, {threads} thread(s): {ratios[network.name]:.2f} times PyTorch's step",
                )
                share = ours.memory / theirs.memory
                hold(
                    share <= MEMORY,
                    f"{network.name}, {threads} thread(s): {share:.1f} times PyTorch's memory",
                )
        middle = statistics.median(ratios.values()) if ratios else float("inf")
        hold(
            len(ratios) == len(networks()) and middle <= MEDIAN,
            f"{threads} thread(s): median of {len(ratios)} networks {middle:.2f} times PyTorch's step",
        )
    for (network, form, way, threads), row in rows.items():
        whole = rows.get((network, "whole", way, threads))
        if form != "whole" and whole:
            share, limit = took(row) / took(whole), LEFT.get(form, GATED)
            hold(
                share <= limit, f"{network} {form}, {way}, {threads} thread(s): {share:.3f} of the whole step"
            )
    return int(bool(broken))


def one(given: argparse.Namespace) -> None:
    """Processor time of steps of any model with and without gates."""
    print("| engine | step without gates | with gates | ratio |\n|---|---|---|---|")
    for engine in given.engines:
        ways = {
            (form, engine): _ours(str(given.model), engine, form, given) for form in ("whole", given.family)
        }
        found = [
            statistics.median(t.processor for t in turns) for _, turns, _ in measured(ways, given.rounds)
        ]
        plain, gated = (1e3 * seconds for seconds in found)
        print(f"| {engine} | {plain:.0f} ms | {gated:.0f} ms | {gated / plain:.3f} |")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", help="a folder of exported networks, check, report or one")
    parser.add_argument(
        "model", type=Path, nargs="?", default=HERE.parent / "models" / "fashion_resnet20.onnx"
    )
    parser.add_argument("--torch", default="", help="the Python that has torch; default: this one")
    parser.add_argument("--networks", nargs="+", default=[n.name for n in networks()])
    usable = [name for name, engine in ENGINES.items() if not engine.missing()]
    parser.add_argument("--engines", nargs="+", default=usable)
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--family", choices=list(FAMILIES), default=CHANNELS.name)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args(words)
    chosen = [network for network in networks() if network.name in given.networks]
    if given.what == "serve":
        network = chosen[0] if len(chosen) == 1 else None
        serve(
            lambda: stepper(
                given.model, given.engines[0], given.forms[0], given.threads, network, given.batch
            )
        )
    elif given.what == "check":
        return check()
    elif given.what == "one":
        one(given)
    else:
        for network in chosen if given.what != "report" else ():
            compare(network, given)
        report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
