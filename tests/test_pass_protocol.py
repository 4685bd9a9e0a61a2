"""Passes are what they declare; debug mode names the first that broke the model."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from random_graphs import random_model
from small_task import network

import tgonnx as tg
from tgonnx import passes
from tgonnx.analysis.coupling import Coupling
from tgonnx.errors import VerificationError
from tgonnx.losses.fit import Fit
from tgonnx.passes import Pass, PassResult, Pipeline, normalize
from tgonnx.passes.add_objective import AddObjective
from tgonnx.passes.block_convolutions import BlockConvolutions
from tgonnx.passes.debug import fingerprint
from tgonnx.passes.file_form import PutFormAside
from tgonnx.passes.fold_shapes import FoldShapes
from tgonnx.passes.gate_branches import GateBranches
from tgonnx.passes.gate_choices import GateChoices
from tgonnx.passes.gate_weights import GateWeights
from tgonnx.passes.insert_gates import InsertGates
from tgonnx.passes.make_differentiable import MakeDifferentiable
from tgonnx.passes.remove_branches import RemoveBranches
from tgonnx.passes.remove_channels import RemoveChannels
from tgonnx.passes.select_closed import SelectClosed
from tgonnx.passes.single_precision import SinglePrecision
from tgonnx.passes.zero_weights import ZeroWeights

ROOT = Path(tg.__file__).parents[1]


def declared() -> Iterator[type[Any]]:
    """Every class of `tgonnx.passes` that can be called with a model."""
    for module in pkgutil.iter_modules(passes.__path__):
        for kind in vars(importlib.import_module(f"tgonnx.passes.{module.name}")).values():
            if (
                isinstance(kind, type)
                and kind.__module__.startswith("tgonnx.passes.")
                and "__call__" in vars(kind)
            ):
                yield kind


def steps(coupling: Coupling, mask: tg.Mask) -> list[Pass]:
    """Every pass, ready for the normal form of a model."""
    everything = tg.Mask.all_open(coupling)
    return [
        normalize.InlineFunctions(),
        normalize.ConstantsToInitializers(),
        normalize.ResolveInitializerAliases(),
        normalize.UnshareConstants(),
        PutFormAside(),
        FoldShapes(coupling.model.symbols),
        InsertGates(coupling),
        InsertGates(coupling, mask),
        RemoveChannels(coupling, mask),
        RemoveChannels(coupling, everything),
        GateBranches(coupling),
        GateBranches(coupling, ()),
        GateBranches(coupling, {branch.name for branch in coupling.branches[:1]}),
        RemoveBranches(coupling.model, coupling.branches),
        RemoveBranches(coupling.model, ()),
        GateChoices(coupling),
        GateChoices(coupling.choosing({coupling.offered[0].name: 1}) if coupling.offered else coupling),
        GateWeights(coupling),
        GateWeights(coupling, {}),
        GateWeights(coupling, some_of(coupling)),
        ZeroWeights(some_of(coupling)),
        ZeroWeights({}),
        SelectClosed(coupling, mask),
        SelectClosed(coupling, everything),
        SinglePrecision(),
        MakeDifferentiable(),
        MakeDifferentiable(21, 10),
        BlockConvolutions(0),
        BlockConvolutions(4),
        AddObjective(Fit("mse", coupling.model.outputs[0]), {coupling.model.outputs[0]: (4,)}),
    ]


def some_of(coupling: Coupling) -> dict[str, Any]:
    """Half of the elements of two weights."""
    rng, stored = np.random.default_rng(0), coupling.model.initializers
    return {name: rng.random(stored[name].dims) < 0.5 for name in list(coupling.model.single_weights)[:2]}


def closing_some(coupling: Coupling) -> tg.Mask:
    return tg.select(coupling, tg.Target(params=0.7), "random", seed=1)


def test_every_pass_is_declared_and_tried() -> None:
    coupling = tg.analyze(tg.load(network()))
    tried = {type(step) for step in steps(coupling, closing_some(coupling))}
    found = set(declared())
    assert found == tried
    for kind in found:
        assert dataclasses.is_dataclass(kind)
        assert isinstance(kind.name, str)
        assert isinstance(kind.in_place, bool)
        assert hasattr(kind, "keeps_values")
    assert len({kind.name for kind in found}) == len(found)


@pytest.mark.parametrize("seed", range(6))
def test_a_pass_changes_what_it_says(seed: int) -> None:
    """Functional passes leave the bytes of their input alone, and `changed` is whether the result differs."""
    coupling = tg.analyze(tg.load(network() if not seed else random_model(seed, 17, 4)))
    for step in steps(coupling, closing_some(coupling)):
        model = onnx.ModelProto()
        model.CopyFrom(coupling.model.proto)
        before = fingerprint(model)
        result = step(model)
        assert step.in_place or fingerprint(model) == before, step.name
        assert result.changed == (fingerprint(result.model) != before), step.name


def test_sharing_that_stays_is_no_change() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> siamese (float[N,2] x) => (float[N,2] y)
        <float[2,2] w = {1, 2, 3, 4}, float[2] zeros = {0, 0}> {
            a = Gemm (x, w, zeros)  y = Gemm (a, w, zeros)
        }"""
    )
    before = fingerprint(model)
    assert not normalize.UnshareConstants()(model).changed
    assert fingerprint(model) == before


@dataclasses.dataclass(frozen=True)
class Broken:
    """A pass that does `work` to a model in place, and says what it is told to."""

    name: ClassVar = "broken"
    in_place: bool
    keeps_values: bool
    changed: bool
    work: Any

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        self.work(model)
        return PassResult(model, self.changed)


def scale_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(array * 1.5, np.float32), tensor.name))


def do_nothing(model: onnx.ModelProto) -> None:
    pass


def lose_a_node(model: onnx.ModelProto) -> None:
    del model.graph.node[0]


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (Broken(True, True, True, scale_weights), "pass broken broke the model: output 'y': differs"),
        (Broken(True, False, True, lose_a_node), "pass broken broke the model: onnx's checker says"),
        (
            Broken(False, True, True, scale_weights),
            "pass broken is declared functional, but changed its input",
        ),
        (Broken(True, True, False, scale_weights), "pass broken says that it changed nothing"),
        (Broken(True, True, True, do_nothing), "pass broken says that it changed something"),
    ],
)
def test_debug_mode_finds_what_is_wrong(step: Pass, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGONNX_DEBUG", "1")
    with pytest.raises(VerificationError, match=fault):
        Pipeline((normalize.InlineFunctions(), step))(network())


def test_outside_debug_mode_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGONNX_DEBUG", "0")
    assert Pipeline((Broken(True, True, True, scale_weights),))(network()).changed


def test_the_command_names_the_first_pass_that_broke_the_model(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_pass_protocol import scale_weights
from tgonnx.passes import PassResult, insert_gates, normalize
from tgonnx.cli import main

def broken(self, model):
    scale_weights(model)
    return PassResult(model, True)

normalize.UnshareConstants.__call__ = broken
sys.exit(main(["prune", "m.onnx", "--verify-seconds", "1"]))
"""
    environment = {**os.environ, "TGONNX_DEBUG": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == VerificationError.exit_code
    assert "pass unshare-constants broke the model" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "m.pruned.onnx").exists()
