"""Broken input of every kind: one clear line, the right exit code, no traceback, no file left behind."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from tests.test_loading import externalise, mlp
from tgonnx.cli.app import main

Change = Callable[[onnx.ModelProto], None]


def changed(change: Change) -> Callable[[Path], None]:
    """Write the good model with one change."""

    def write(folder: Path) -> None:
        model = mlp()
        change(model)
        (folder / "m.onnx").write_bytes(model.SerializeToString())

    return write


def content(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "m.onnx").write_bytes(data) and None


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def external(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        externalise(mlp(), folder)
        change(folder)

    return write


def relocate(location: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "m.onnx", load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = location
        (folder / "m.onnx").write_bytes(model.SerializeToString())

    return change


def set_weight(array: np.ndarray) -> Change:
    return lambda model: model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w1"))


def weight(value: float) -> np.ndarray:
    array = np.zeros((8, 64), np.float32)
    array[3, 5] = value
    return array


def cyclic(model: onnx.ModelProto) -> None:
    model.graph.node[1].CopyFrom(helper.make_node("Add", ["h", "b"], ["a"], name="act"))
    model.graph.node.insert(2, helper.make_node("Neg", ["a"], ["b"], name="back"))


def as_input(name: str, sizes: list[int]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))

    return change


def drop(field: str, index: int | None = None) -> Change:
    def change(model: onnx.ModelProto) -> None:
        items = getattr(model.graph, field)
        del items[slice(None) if index is None else slice(index, index + 1)]

    return change


def set_field(field: str, value: object, node: int | None = None) -> Change:
    return lambda model: setattr(model if node is None else model.graph.node[node], field, value)


def opset(version: int) -> Change:
    return lambda model: setattr(model.opset_import[0], "version", version)


def entry(index: int, change: Callable[[TensorProto], object]) -> Change:
    return lambda model: change(model.graph.initializer[index]) and None


def set_dims(*dims: int) -> Callable[[TensorProto], object]:
    def change(tensor: TensorProto) -> None:
        tensor.dims[:] = dims

    return change


def rename(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "h"


def misspelt(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute.append(helper.make_attribute("slope", 0.1))


def no_channels(folder: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
    onnx.save(parser.parse_model(text), folder / "m.onnx")


def written(text: str) -> Callable[[Path], None]:
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> g ' + text)
    return lambda folder: onnx.save(model, folder / "m.onnx")


GOOD = mlp().SerializeToString()
# case: (how m.onnx is made, exit code, what the line says)
MODELS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing": (lambda folder: None, 2, "no such file"),
    "a folder": (lambda folder: (folder / "m.onnx").mkdir(), 2, "is a folder"),
    "empty": (content(b""), 3, "the file is empty"),
    "truncated": (content(GOOD[: len(GOOD) // 2]), 3, "truncated"),
    "noise": (content(bytes(range(255, 0, -1)) * 9), 3, "not an ONNX model"),
    "text": (content(b"hello, this is no model\n"), 3, "a text file"),
    "html": (content(b"<!DOCTYPE html><html>404</html>"), 3, "a text file"),
    "lfs pointer": (
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        3,
        "Git LFS pointer",
    ),
    "pytorch zip": (content(zipped("m/data.pkl", "m/data/0")), 3, "PyTorch checkpoint"),
    "keras zip": (content(zipped("config.json", "model.weights.h5")), 3, "Keras model"),
    "npz": (content(zipped("a.npy")), 3, "NumPy .npz"),
    "zip": (content(zipped("m.onnx")), 3, "a zip archive"),
    "pickle": (content(pickle.dumps({"a": 1}, 2)), 3, "pickle"),
    "hdf5": (content(b"\x89HDF\r\n\x1a\n" + bytes(99)), 3, "HDF5"),
    "tflite": (content(b"\x1c\0\0\0TFL3" + bytes(99)), 3, "TensorFlow Lite"),
    "gzip": (content(gzip.compress(GOOD)), 3, "gzip"),
    "safetensors": (content((2).to_bytes(8, "little") + b"{}" + bytes(9)), 3, "safetensors"),
    "no graph": (content(onnx.ModelProto(ir_version=8).SerializeToString()), 3, "no graph"),
    "no nodes": (changed(drop("node")), 3, "no nodes"),
    "no outputs": (changed(drop("output")), 3, "no outputs"),
    "opset 999": (changed(opset(999)), 3, "opset 999 is outside 7.."),
    "opset 6": (changed(opset(6)), 3, "opset 6 is outside 7.."),
    "no opset": (
        changed(lambda model: model.ClearField("opset_import")),
        3,
        "opset of the standard operators",
    ),
    "opset twice": (changed(lambda m: m.opset_import.append(m.opset_import[0])), 3, "declared twice"),
    "ir version 99": (changed(set_field("ir_version", 99)), 3, "IR version 99"),
    "no ir version": (changed(lambda model: model.ClearField("ir_version")), 3, "IR version 0"),
    "unknown operator": (
        changed(set_field("op_type", "Relux", 1)),
        3,
        "node 'act' (Relux): opset 17 has no such",
    ),
    "undeclared domain": (changed(set_field("domain", "my.ops", 1)), 3, "my.ops"),
    "undeclared domain of the runtime": (
        changed(set_field("domain", "com.microsoft", 1)),
        3,
        "opset_import does not name its domain 'com.microsoft'",
    ),
    "unknown attribute": (changed(misspelt), 3, "slope"),
    "cycle": (changed(cyclic), 3, "cycle: node '"),
    "missing initializer": (changed(drop("initializer", 1)), 3, "node 'last' (MatMul) reads 'w2'"),
    "undefined output": (changed(drop("node", 2)), 3, "output 'y' is not made"),
    "a value made twice": (changed(rename), 3, "node 'act' (Relu) makes 'h' again"),
    "initializer twice": (
        changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        3,
        "two initializers",
    ),
    "nan weight": (
        changed(set_weight(weight(np.nan))),
        3,
        "initializer 'w1' of node 'first' (MatMul) contains NaN",
    ),
    "infinite weight": (changed(set_weight(weight(np.inf))), 3, "contains infinite values"),
    "empty weight": (changed(set_weight(np.zeros((8, 0), np.float32))), 3, "is empty: 8x0"),
    "short weight": (
        changed(entry(0, set_dims(8, 65))),
        3,
        "'w1' holds 2048 bytes, its shape and type need 2080",
    ),
    "negative size": (changed(entry(0, set_dims(-8, -64))), 3, "negative size"),
    "huge shape": (changed(entry(0, set_dims(2**40, 2**40))), 3, "holds 2048 bytes"),
    "no type": (
        changed(entry(0, lambda tensor: setattr(tensor, "data_type", 0))),
        3,
        "no valid element type",
    ),
    "shapes do not fit": (changed(as_input("x", [1, 9])), 3, "node 'first' (MatMul)"),
    "external data above": (external(relocate("../weights.bin")), 3, "outside the model's folder"),
    "external data absolute": (external(relocate("/etc/passwd")), 3, "outside the model's folder"),
    "external data missing": (external(lambda folder: (folder / "weights.bin").unlink()), 3, "is missing"),
    "external data short": (
        external(lambda folder: (folder / "weights.bin").write_bytes(b"1234")),
        3,
        "are not in 'weights.bin'",
    ),
    "nothing prunable": (no_channels, 4, "nothing can be pruned"),
    "scalars only": (written("(float x) => (float y) { y = Relu(x) }"), 4, "nothing can be pruned"),
    "no tensor": (
        written("(optional(float[2]) x) => (bool y) { y = OptionalHasElement(x) }"),
        4,
        "nothing can be pruned",
    ),
}


def refused(arguments: list[str], code: int, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command fails as it should: one line that says what, an exit code, the same as JSON."""
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert part in shown.err
    assert "Traceback" not in shown.err
    assert len(shown.err) < 500
    assert main([*arguments, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert part in error["message"]
    assert error["exit_code"] == code


@pytest.mark.parametrize("case", MODELS)
def test_a_broken_model_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, code, part = MODELS[case]
    make(tmp_path)
    before = sorted(os.listdir(tmp_path))
    model = str(tmp_path / "m.onnx")
    refused(["mask", model, "-o", str(tmp_path / "mask.json")], code, part, capsys)
    refused(["gate", model, "-o", str(tmp_path / "out.onnx")], code, part, capsys)
    assert sorted(os.listdir(tmp_path)) == before


# case: arguments after the good model in m.onnx, exit code, what the line says
USAGE: dict[str, tuple[list[str], int, str]] = {
    "no such command": (["prunes"], 2, "No such command"),
    "no such option": (["mask", "m.onnx", "-o", "k.json", "--targets", "1"], 2, "No such option"),
    "no output": (["mask", "m.onnx"], 2, "Missing option"),
    "target above 1": (["mask", "m.onnx", "-o", "k.json", "--target", "flops=2"], 2, "at most 1"),
    "target of nothing": (["mask", "m.onnx", "-o", "k.json", "--target", "speed=0.5"], 2, "not one of flops"),
    "target no number": (["mask", "m.onnx", "-o", "k.json", "--target", "flops=half"], 2, "not a number"),
    "target too low": (["mask", "m.onnx", "-o", "k.json", "--target", "flops=0.0001"], 7, "must stay"),
    "round to 0": (["mask", "m.onnx", "-o", "k.json", "--round-to", "0"], 2, "--round-to"),
    "freeze matches nothing": (
        ["mask", "m.onnx", "-o", "k.json", "--freeze", "zz*"],
        2,
        "matches no prunable group",
    ),
    "missing folder": (["gate", "m.onnx", "-o", "none/out.onnx"], 2, "does not exist"),
    "output is a folder": (["gate", "m.onnx", "-o", "."], 2, "is a folder"),
    "output is the input": (["gate", "m.onnx", "-o", "m.onnx", "--overwrite"], 2, "never overwritten"),
    "mask is missing": (["apply", "m.onnx", "--mask", "none.json", "-o", "out.onnx"], 2, "none.json: "),
    "mask is no mask": (["apply", "m.onnx", "--mask", "m.onnx", "-o", "out.onnx"], 2, "not a mask file"),
    "mask of another model": (["apply", "m.onnx", "--mask", "other.json", "-o", "out.onnx"], 2, "mask"),
    "negative tolerance": (["verify", "m.onnx", "m.onnx", "--rtol", "-1"], 2, "--rtol"),
    "bench without models": (["bench"], 2, "Missing argument"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_use_is_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, code, part = USAGE[case]
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "m.onnx")
    other = {"format": "tgonnx-mask-1", "groups": [{"group": "g", "units": 3, "keep": [0]}]}
    Path("other.json").write_text(json.dumps(other))
    refused(arguments, code, part, capsys)
    assert sorted(os.listdir()) == ["m.onnx", "other.json"]
    assert Path("m.onnx").read_bytes() == GOOD
