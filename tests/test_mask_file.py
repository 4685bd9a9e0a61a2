"""Mask files: format 2 belongs to one structure and says what is kept of every initializer; format 1 still does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from fuzz_damage import damage_json, damaged_bytes
from onnx import numpy_helper, parser
from random_graphs import random_model

import tgonnx as tg
from tgonnx.cli import main
from tgonnx.selection.budget import random_mask

DOCUMENT = Path(__file__).parent.parent / "docs" / "masks.md"
NET = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,2] y) {
    h = Conv<kernel_shape=[3,3]>(x, w1, b1)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w2)
}"""


def net(hidden: int = 6, seed: int = 0, text: str = NET) -> onnx.ModelProto:
    rng, proto = np.random.default_rng(seed), parser.parse_model(text)
    shapes = {"w1": (hidden, 3, 3, 3), "b1": (hidden,), "w2": (2, hidden)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return proto


def mask_file(model: onnx.ModelProto, path: Path) -> dict[str, Any]:
    random_mask(tg.analyze(tg.load(model)), 0.5).save(path)
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def as_format_1(document: dict[str, Any]) -> dict[str, Any]:
    return {"format": "tgonnx-mask-1"} | {key: document[key] for key in ("attention", "groups")}


def test_the_kept_indices_are_those_of_the_pruned_file(tmp_path: Path) -> None:
    for model in (net(), random_model(5, 17, 4), random_model(7, 12, 4)):
        document = mask_file(model, tmp_path / "k.json")
        (tmp_path / "k.json").rename(tmp_path / "mask.json")
        pruned = {t.name: t for t in tg.apply(model, tg.Mask.load(tmp_path / "mask.json")).graph.initializer}
        full = {t.name: numpy_helper.to_array(t) for t in tg.load(model).proto.graph.initializer}
        assert document["initializers"]
        for name, axes in document["initializers"].items():
            expected = full[name]
            for axis, kept in axes.items():
                expected = np.take(expected, kept, int(axis.removeprefix("axis ")))
            np.testing.assert_array_equal(numpy_helper.to_array(pruned[name]), expected)
        for name, tensor in pruned.items():
            if name not in document["initializers"] and name in full and tensor.data_type == 1:
                assert tuple(tensor.dims) == full[name].shape


def test_kept_says_in_python_what_the_file_says(tmp_path: Path) -> None:
    document = mask_file(net(), tmp_path / "k.json")
    kept = tg.Mask.load(tmp_path / "k.json").kept(tg.analyze(tg.load(net())))
    said = {name: {f"axis {a}": i.tolist() for a, i in axes.items()} for name, axes in kept.items()}
    assert said == document["initializers"]
    assert set(said) == {"w1", "b1", "w2"}
    assert list(said["w2"]) == ["axis 1"]
    assert document["format"] == "tgonnx-mask-2"


def test_a_mask_fits_the_model_with_other_weights_and_other_sizes_of_inputs(tmp_path: Path) -> None:
    mask_file(net(), tmp_path / "k.json")
    trained, fixed = net(seed=1), net()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    fixed.graph.node[0].name = "first"
    fixed.doc_string, fixed.producer_name = "read", "somebody"
    for model in (trained, fixed):
        tg.apply(model, tg.Mask.load(tmp_path / "k.json"))


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "wider": ({"hidden": 5}, "'w1' has shape [5, 3, 3, 3]"),
    "another name": ({"text": NET.replace("b1", "b2")}, "'b1' is no initializer"),
    "another operator": ({"text": NET.replace("Relu", "Sigmoid")}, "groups do not"),
    "another attribute": (
        {"text": NET.replace("kernel_shape=[3,3]", "kernel_shape=[3,3], pads=[1,1,1,1]")},
        "groups do not",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_mask_of_another_model_is_refused_in_one_line_with_both_hashes(case: str, tmp_path: Path) -> None:
    tg.Mask.of(first := tg.analyze(tg.load(net())), np.array([0, 0, 0, 0, 1, 1], bool)).save(
        tmp_path / "k.json"
    )
    changes, difference = CHANGES[case]
    other = net(**changes)
    if case == "another name":
        other.graph.initializer[1].name = "b2"
    coupling = tg.analyze(tg.load(other))
    with pytest.raises(tg.UsageError) as error:
        tg.Mask.load(tmp_path / "k.json").check(coupling)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "k.json"))
    assert difference in message
    assert "\n" not in message
    for model in (first.model, coupling.model):
        assert model.structure[:12] in message


def test_format_1_is_held_against_the_groups(tmp_path: Path) -> None:
    document = as_format_1(mask_file(net(), tmp_path / "k.json"))
    path = tmp_path / "one.json"
    path.write_text(json.dumps(document))
    old = tg.Mask.load(path)
    new = tg.Mask.load(tmp_path / "k.json")
    assert tg.apply(net(), old).SerializeToString() == tg.apply(net(), new).SerializeToString()
    assert old.kept(tg.analyze(tg.load(net()))).keys() == new.initializers.keys()
    old.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == document
    with pytest.raises(tg.UsageError, match=r"one\.json: the mask has 6 units in other groups"):
        old.check(tg.analyze(tg.load(net(hidden=5))))


@pytest.mark.parametrize(("key", "value", "message"), [
    ("structure", "abc", "'abc' is not a SHA-256"),
    ("structure", None, "None is not a SHA-256"),
    ("initializers", [], "no mapping of names"),
    ("initializers", {"w1": [0]}, "'w1' has no mapping of axes"),
    ("initializers", {"w1": {"0": [0]}}, "'0' is not an axis"),
    ("initializers", {"w1": {"axis 0": [1, 0]}}, "no rising indices"),
    ("initializers", {"w1": {"axis 0": [-1]}}, "no rising indices"),
    ("initializers", {"w1": {"axis 0": [0.5]}}, "no rising indices"),
    ("initializers", {}, "other indices of the initializers"),
    ("initializers", {"w1": {"axis 0": [0]}}, "other indices of the initializers"),
])  # fmt: skip
def test_a_file_that_is_wrong_or_contradicts_itself_is_named(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "k.json"
    path.write_text(json.dumps(mask_file(net(), path) | {key: value}))
    with pytest.raises(tg.UsageError, match=re.escape(message)) as error:
        tg.apply(net(), tg.Mask.load(path))
    assert str(error.value).startswith(str(path))


def tried(path: Path, coupling: tg.Coupling) -> tuple[tg.Mask | None, str]:
    """The mask of a file, or why it is refused."""
    try:
        mask = tg.Mask.load(path)
        mask.check(coupling)
    except tg.UsageError as error:
        return None, str(error)
    return mask, ""


def test_damaged_files_get_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or they say what they said: the version of the program is nothing that anything relies on."""
    onnx.save(net(), tmp_path / "m.onnx")
    good, path, rng = mask_file(net(), tmp_path / "k.json"), tmp_path / "k.json", np.random.default_rng(0)
    text, refused = path.read_text(), 0
    coupling = tg.analyze(tg.load(net()))
    for round_ in range(300):
        damaged = damaged_bytes(text.encode(), rng) if round_ % 3 == 0 else damage_json(text, rng).encode()
        path.write_bytes(damaged)
        mask, complaint = tried(path, coupling)
        if mask is not None:
            if json.loads(damaged)["format"] == good["format"]:
                assert mask.initializers.keys() == good["initializers"].keys()
            continue
        assert "\n" not in complaint
        assert complaint.startswith(str(path))
        refused += 1
        if refused % 60 == 1:
            arguments = [
                "apply",
                str(tmp_path / "m.onnx"),
                "--mask",
                str(path),
                "-o",
                str(tmp_path / "p.onnx"),
            ]
            assert main(arguments) == 2
            assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert refused > 150


def test_the_example_of_the_document_cuts_as_surgery_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines that cut, on stand-ins for torch's tensors and modules."""
    example = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert example is not None
    lines = example[1].strip().splitlines()
    assert len(lines) <= 24
    mask_file(net(), tmp_path / "mask.json")
    arrays = {t.name: numpy_helper.to_array(t) for t in net().graph.initializer}
    tensors = {name: SimpleNamespace(data=_Tensor(array)) for name, array in arrays.items()}
    model = SimpleNamespace(named_parameters=tensors.items, named_buffers=dict)
    monkeypatch.chdir(tmp_path)
    first, last = (
        next(i for i, line in enumerate(lines) if line.startswith(w)) for w in ("kept", "for layer")
    )
    stand_in = SimpleNamespace(tensor=np.array)
    exec("\n".join(lines[first:last]), {"json": json, "Path": Path, "torch": stand_in, "model": model})
    pruned = tg.apply(net(), tg.Mask.load("mask.json"))
    for tensor in pruned.graph.initializer:
        np.testing.assert_array_equal(tensors[tensor.name].data.array, numpy_helper.to_array(tensor))


class _Tensor:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def index_select(self, axis: int, indices: np.ndarray) -> _Tensor:
        return _Tensor(np.take(self.array, indices, axis))
