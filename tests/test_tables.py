"""The tables of operators: each operator in one file, each function of the signature that its table asks for."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest

from tgonnx.analysis.shapes import Sweep
from tgonnx.ops.aspects.traits import EACH, Traits, traits, traits_of

ROOT = Path(__file__).parent.parent

WHO_REGISTERS = """
import collections, importlib, pkgutil, sys
import tgonnx.ops
from tgonnx.ops.aspects import tables, traits

homes = collections.defaultdict(set)

def noting(plain):
    def register(*args, domain="", **more):
        for op_type in (arg for arg in args if isinstance(arg, str)):
            homes[domain, op_type].add(sys._getframe(1).f_globals["__name__"])
        return plain(*args, domain=domain, **more)
    return register

tables.Table.__call__ = noting(tables.Table.__call__)
traits.traits = noting(traits.traits)
traits.TRAITS.clear()
for table in tables.TABLES:
    table._entries.clear()
for module in pkgutil.iter_modules(tgonnx.ops.__path__):
    importlib.reload(importlib.import_module(f"tgonnx.ops.{module.name}"))

assert len(homes) > 200
print({key: sorted(found) for key, found in homes.items() if len(found) > 1})
"""

WRONG = """
from collections.abc import Iterator

from tgonnx.ops.aspects.cut import Cut
from tgonnx.ops.aspects.relations import Relation
from tgonnx.ops.aspects.tables import cost, gradient, resize, rule
from tgonnx.ops.aspects.view import View


@rule("Right")
def right(view: View) -> Iterator[Relation]:
    yield from ()


@rule("Wrong")
def takes_too_much(view: View, cut: Cut) -> Iterator[Relation]:
    yield from ()


@resize("Wrong")
def takes_too_little(view: View) -> None: ...


@cost("Wrong")
def gives_a_number(view: View) -> float:
    return 1.0


@gradient("Wrong")
def takes_a_view(row: View) -> list[None]:
    return []
"""


def test_a_trait_is_said_once() -> None:
    traits("Once", are=Traits(stops=True), domain="test")
    traits("Once", are=Traits(carries=EACH), domain="test")
    assert traits_of(onnx.NodeProto(op_type="Once", domain="test")) == Traits(stops=True, carries=EACH)
    with pytest.raises(ValueError, match="Once: stops was said before"):
        traits("Once", are=Traits(stops=True), domain="test")


def test_traits_are_those_of_the_domain() -> None:
    assert traits_of(onnx.NodeProto(op_type="Shape", domain="ai.onnx")).reads_sizes == "axes"
    assert traits_of(onnx.NodeProto(op_type="Shape", domain="com.example")) == Traits()


def test_an_operator_stands_in_one_file() -> None:
    found = subprocess.run([sys.executable, "-c", WHO_REGISTERS], capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout.strip()) == (0, "{}"), found.stderr


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_refuses_a_function_of_another_signature(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    command += ["--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent", "wrong.py"]
    environment = {"MYPYPATH": str(ROOT), "PATH": ""}
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    lines = [line for line in found.stdout.splitlines() if "error:" in line]
    refused = {WRONG.splitlines()[int(line.split(":")[1])].split("(")[0] for line in lines}
    assert refused == {"def takes_too_much", "def takes_too_little", "def gives_a_number", "def takes_a_view"}


def test_a_node_that_only_needs_a_shape_is_not_told_of_gradients() -> None:
    text = """<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>
        g (float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y)
        { y = com.microsoft.FusedMatMul <transBatchA=1> (a, b) }"""
    graph = onnx.parser.parse_model(text).graph
    shapes = {
        value.name: (1, tuple(d.dim_value for d in value.type.tensor_type.shape.dim)) for value in graph.input
    }
    swept = Sweep({"": 18, "com.microsoft": 1}, 8)
    for name, (kind, shape) in shapes.items():
        swept.declare(name, kind, shape)
    swept.visit(graph.node[0])
    assert "cannot be given a shape: batch axes are transposed" in swept.problems["y"]
