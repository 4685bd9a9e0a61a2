"""The third fuzzer: damaged models, masks and data get one line and a documented exit code, and leave nothing behind.

    python tests/fuzz_damage.py --minutes 60 --seed 3

A seed damages one file in its bytes, or in a field of its format, and runs one command on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from hunting import hunt
from onnx import TensorProto, helper, numpy_helper

from tgonnx.cli.app import main

CODES = {0, 1, 2, 3, 4, 5, 6, 7, 8}  # 130 is for interrupts
SECONDS, MEMORY = 60, 8 << 30  # for one command on a model of a few kilobytes; bytes of address space
Rng = np.random.Generator
WRITES = {"mask": "k2.json", "apply": "p.onnx", "gate": "g.onnx", "prune": "p.onnx"}


def small_model() -> onnx.ModelProto:
    """Convolutions, normalisation, a residual and a reshape in a few kilobytes."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (72, 5), "b3": (5,)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 4, n) for n, s in shapes.items()
    ]
    weights += [
        numpy_helper.from_array(rng.random(8, np.float32) + 0.5, name) for name in ("g", "h", "m", "v")
    ]
    weights.append(numpy_helper.from_array(np.array([0, -1]), "flat"))
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("BatchNormalization", ["a", "g", "h", "m", "v"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "act"),
        helper.make_node("Conv", ["r", "w2"], ["c"], "second", pads=[1] * 4),
        helper.make_node("Add", ["c", "r"], ["s"], "residual"),
        helper.make_node("Reshape", ["s", "flat"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def prepare(folder: Path) -> None:
    """The good files: a model, a mask and data."""
    onnx.save(small_model(), folder / "m.onnx")
    assert (
        main(["mask", str(folder / "m.onnx"), "-o", str(folder / "k.json"), "--target", "params=0.6", "-q"])
        == 0
    )
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 3, 6, 6)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, label=rng.integers(0, 5, 40))


# damage


def damaged_bytes(data: bytes, rng: Rng) -> bytes:
    """Bytes changed, cut out, inserted, repeated or cut off."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 40))
        way = rng.integers(5)
        if way == 0 and at < len(content):
            content[at] = int(rng.integers(256))
        elif way == 1:
            del content[at : at + length]
        elif way == 2:
            content[at:at] = rng.bytes(length)
        elif way == 3:
            content[at:at] = content[at : at + length]
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)


def messages(message: Message) -> Iterator[Message]:
    """A message and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if _repeated(field) else [value]:
                yield from messages(inner)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def damage_field(model: onnx.ModelProto, rng: Rng) -> None:
    """One field of one message changed, cleared, repeated or shuffled."""
    holders = [m for m in messages(model) if m.ListFields()]
    message = holders[int(rng.integers(len(holders)))]
    fields = message.DESCRIPTOR.fields
    field = fields[int(rng.integers(len(fields)))] if rng.random() < 0.3 else None
    if field is None:
        field, _ = message.ListFields()[int(rng.integers(len(message.ListFields())))]
    if _repeated(field):
        _damage_list(getattr(message, field.name), rng)
    elif field.message_type is not None or rng.random() < 0.2:
        message.ClearField(field.name)
    else:
        with contextlib.suppress(ValueError, TypeError):  # a number that the field cannot hold
            setattr(message, field.name, _other(getattr(message, field.name), rng))


def _damage_list(items: Any, rng: Rng) -> None:
    if not len(items):
        return
    at = int(rng.integers(len(items)))
    way = rng.integers(3)
    if way == 0:
        del items[at]
    elif way == 1:
        items.append(items[at])
    elif isinstance(items[at], Message):
        items[at].Clear()
    else:
        with contextlib.suppress(ValueError, TypeError):
            items[at] = _other(items[at], rng)


def _other(value: Any, rng: Rng) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(rng.choice([0, -1, 1, 2, 7, 64, 2**31, 2**40, 2**62, value + 1]))
    if isinstance(value, float):
        return float(rng.choice([0.0, -1.0, np.nan, np.inf, 1e30]))
    if isinstance(value, bytes):
        return damaged_bytes(value, rng)
    return str(rng.choice(["", "x", "w1", "\x1b[2J", "a" * 5000, "Conv", "Loop", "..", value + value]))


def damage_json(text: str, rng: Rng) -> str:
    """One entry of a mask changed, at any depth."""
    document = json.loads(text)
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not len(keys):
            return json.dumps(document)
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(place[key], dict | list) and rng.random() < 0.7:
            place = place[key]
            continue
        options = [None, -1, 2**70, "x", [], {}, [[]], 1.5, True, "\x1b[2J", [True] * 7, [2**40]]
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = options[int(rng.integers(len(options)))]
        return json.dumps(document)


def damage(folder: Path, rng: Rng) -> str:
    """Damage one of the files; which."""
    which = str(rng.choice(["m.onnx", "m.onnx", "k.json", "d.npz"]))
    path = folder / which
    if which == "m.onnx" and rng.random() < 0.6:
        model = onnx.load(path)
        for _ in range(int(rng.integers(1, 3))):
            damage_field(model, rng)
        path.write_bytes(model.SerializePartialToString())
    elif which == "k.json" and rng.random() < 0.7:
        path.write_text(damage_json(path.read_text(), rng))
    else:
        path.write_bytes(damaged_bytes(path.read_bytes(), rng))
    return which


# the property


def command(which: str, folder: Path, rng: Rng) -> list[str]:
    """A command that reads the file."""
    model, mask, data = (str(folder / name) for name in ("m.onnx", "k.json", "d.npz"))
    train = [
        "prune",
        model,
        "--data",
        data,
        "--target",
        "params=0.7",
        "--epochs",
        "1",
        "--threads",
        "1",
        "--no-run-dir",
    ]
    cut = [["apply", model, "--mask", mask], ["gate", model, "--mask", mask]]
    options: dict[str, Sequence[list[str]]] = {
        "m.onnx": [*cut, ["inspect", model], ["mask", model, "--target", "params=0.7"], ["verify", model, model],
                   ["prune", model, "--target", "params=0.7"]],
        "k.json": cut,
        "d.npz": [train],
    }  # fmt: skip
    chosen = options[which]
    words = list(chosen[int(rng.integers(len(chosen)))])
    if words[0] in WRITES:
        words += ["-o", str(folder / "out" / WRITES[words[0]])]
    return [*words, "-q"]


def check_damaged(seed: int) -> int:
    """Assert that one command ends well on one damaged file; its exit code."""
    rng = np.random.default_rng([seed, 4])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        which = damage(folder, rng)
        (folder / "out").mkdir()
        words = command(which, folder, rng)
        code, out, err = captured(lambda: main(words))
        judge(words, code, out, err, folder / "out")
    return code


def judge(words: list[str], code: int, out: str, err: str, folder: Path) -> None:
    """Assert what must be true after any command."""
    what = f"{words[0]} exit {code}: {err[:300]}"
    assert code in CODES, what
    assert "internal error" not in err, what
    assert "Traceback" not in err + out, what
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", err + out), f"control characters: {what!r}"
    assert err.count("\n") <= 1, f"more than a line: {what}"
    assert len(err) < 2000, f"a long line: {what}"
    assert bool(err) == (code != 0), f"silent failure, or noise: {what}"
    wanted = {WRITES[words[0]]} if words[0] in WRITES and code in (0, 7) else set()
    found = {path.name for path in folder.iterdir()}
    assert found == wanted, f"{found} were written: {what}"
    for path in folder.glob("*.onnx"):
        assert valid(path) or not valid(Path(words[1])), f"the checker refuses what was written: {what}"


def valid(path: Path) -> bool:
    """Whether onnx's checker, which knows less than runtimes do, takes a file."""
    try:
        onnx.checker.check_model(onnx.load(path))
    except Exception:  # of onnx and of protobuf
        return False
    return True


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """SIGALRM after the time that a command may take."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def captured(call: Callable[[], int]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, what C++ writes included."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        saved = os.dup(1), os.dup(2)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(2), "w")
        try:
            with limited():
                code = call()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.close()
            sys.stdout, sys.stderr = streams
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return code, texts[0], texts[1]


def limit_memory() -> None:
    """At most `MEMORY` bytes of address space for this process and those it starts."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    sys.exit(hunt(check_damaged, limit_memory))
