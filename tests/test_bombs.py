"""Small files that ask for much: refused with one line, in little memory and time."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import tgonnx
from tests.test_loading import mlp
from tgonnx.data.archives import read_npz
from tgonnx.errors import DataError
from tgonnx.loading import read

resource = pytest.importorskip("resource")
MEMORY, SECONDS = 2 << 30, 30  # address space of a child, of which libraries take half; and CPU time

HEAD = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g '


def text(body: str) -> onnx.ModelProto:
    return parser.parse_model(HEAD + body)


def doubling() -> onnx.ModelProto:
    nodes = "".join(f"x{i + 1} = Concat <axis = 0> (x{i}, x{i}) " for i in range(32))
    return text(f"(float[1,4] x0) => (float[n,4] x32) {{ {nodes} }}")


def products() -> onnx.ModelProto:
    """Known values of a million elements, multiplied by each other."""
    return text(
        "(float[4] x) => (int64[a,b] y) <int64[1] n = {1000000}, int64[2] c = {1000000, 1}> {"
        "a = ConstantOfShape <value = int64[1] {1}> (n) b = Reshape(a, c) y = Mul(a, b) }"
    )


def functions(count: int, calls: int = 2) -> onnx.ModelProto:
    """Each function calls the one before it, the first is Relu."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    made = []
    for number in range(count):
        op_type, domain = (f"f{number - 1}", "my") if number else ("Relu", "")
        values = ["x", *(f"t{i}" for i in range(calls - 1)), "y"]
        nodes = [helper.make_node(op_type, [a], [b], domain=domain) for a, b in itertools.pairwise(values)]
        made.append(helper.make_function("my", f"f{number}", ["x"], ["y"], nodes, imports))
    model = mlp()
    model.graph.node[1].op_type, model.graph.node[1].domain = f"f{count - 1}", "my"
    model.opset_import.append(imports[1])
    model.functions.extend(made)
    return model


def circle() -> onnx.ModelProto:
    model = functions(2)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f1", "my"
    return model


def nested(depth: int) -> bytes:
    """If within If in the place of Relu, put together from bytes: libraries make no message as deep."""

    def field(number: int, content: bytes) -> bytes:
        size, digits = len(content), b""
        while size > 127:
            digits, size = digits + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + digits + bytes([size]) + content

    def graph(value: str, node: bytes) -> bytes:
        output = helper.make_tensor_value_info(value, 1, None)
        return onnx.GraphProto(name="b", output=[output]).SerializeToString() + field(1, node)

    def identity(value: str) -> bytes:
        return onnx.NodeProto(op_type="Identity", input=["h"], output=[value]).SerializeToString()

    node = identity(f"v{depth}")
    for level in range(depth, 0, -1):
        branches = {
            "then_branch": graph(f"v{level}", node),
            "else_branch": graph(f"u{level}", identity(f"u{level}")),
        }
        outside = f"v{level - 1}" if level > 1 else "a"
        node = onnx.NodeProto(op_type="If", input=["c"], output=[outside]).SerializeToString()
        for name, branch in branches.items():
            attribute = onnx.AttributeProto(name=name, type=onnx.AttributeProto.GRAPH)
            node += field(5, attribute.SerializeToString() + field(6, branch))
    model = mlp()
    del model.graph.node[1]
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return model.SerializeToString() + field(7, field(1, node))


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "input": (
        lambda: text(f"(float[{2**40},4] x) => (float[{2**40},4] y) {{ y = Relu(x) }}"),
        "'x' (1099511627776x4) would have 4.4e+12 elements",
    ),
    "expand": (
        lambda: text(f"(float[1] x) => (float[n] y) <int64[1] s = {{{2**36}}}> {{ y = Expand(x, s) }}"),
        "'y' (68719476736) would have 6.9e+10 elements",
    ),
    "constant of shape": (
        lambda: text(
            f"(float[1] x) => (float[n] y) <int64[1] s = {{{2**36}}}> "
            "{ c = ConstantOfShape(s) y = Add(x, c) }"
        ),
        "'c' (68719476736) would",
    ),
    "doubling": (doubling, "would have"),
    "products": (products, "'y' (1000000x1000000) would"),
    "functions": (lambda: functions(30), "more than 100,000 nodes"),
    "a wide function": (lambda: functions(4, 100), "more than 100,000 nodes"),
    "a function in itself": (circle, "calls itself"),
    "functions within functions": (lambda: functions(80, 1), "more than 64 deep"),
    "branches within branches": (lambda: nested(200), "cannot be parsed"),
}
# These are valid and of a size that nobody minds; what they compute is not computed here.
GROWING = {
    "one-hot": f"d = {{{2**33}}}> {{ z = OneHot <axis = -1> (i, d, v) f = Reshape(z, m) y = Cast <to = 1> (f) }}",
    "window": f"d = {{{2**33}}}> {{ y = HannWindow(d) }}",
    "range": f"d = {{{2**33}}}> {{ z = Range(o, d, e) y = Cast <to = 1> (z) }}",
    "tile": f"d = {{{2**33}}}> {{ z = Tile(i, r) y = Cast <to = 1> (z) }}",
    "pad": f"d = {{{2**33}}}> {{ z = Pad(i, p) y = Cast <to = 1> (z) }}",
}


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(tgonnx.__file__).parents[1]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tgonnx", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, preexec_fn=limited, capture_output=True, text=True, check=False
    )


def refused(done: subprocess.CompletedProcess[str], code: int, part: str) -> None:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert part in done.stderr


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_asks_for_too_much(case: str, tmp_path: Path) -> None:
    make, part = MODELS[case]
    model = make()
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    assert (tmp_path / "m.onnx").stat().st_size < 100_000
    refused(run(tmp_path, "inspect", "m.onnx"), 3, part)


@pytest.mark.parametrize("case", GROWING)
def test_what_grows_with_a_value_is_not_computed(case: str, tmp_path: Path) -> None:
    ones = "int64[1] i = {0}, int64[1] m = {-1}, int64[2] v = {0, 1}, int64 o = {0}, int64 e = {1}, "
    given = f"{ones}int64[1] r = {{{2**33}}}, int64[2] p = {{0, {2**33}}}, int64 "
    model = text("(float[N,4] x) => (float[a] y) <" + given + GROWING[case])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refused(run(tmp_path, "inspect", "m.onnx"), 3, "would have 8.6e+09 elements")


def test_functions_and_branches_of_real_depth_are_accepted() -> None:
    read(functions(8))
    assert read(nested(20)).graph.node[-2].op_type == "If"


def npz(*arrays: tuple[str, str, int], kind: int = zipfile.ZIP_STORED) -> bytes:
    """A file of arrays: name, header, number of zero bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, header, size in arrays:
            line = header.encode().ljust(117) + b"\n"
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(b"\x93NUMPY\1\0" + len(line).to_bytes(2, "little") + line)
                for start in range(0, size, 1 << 24):
                    file.write(bytes(min(1 << 24, size - start)))
    return buffer.getvalue()


def header(*shape: int, descr: str = "<f4") -> str:
    return str({"descr": descr, "fortran_order": False, "shape": shape})


DATA: dict[str, tuple[Callable[[], bytes], str]] = {
    "shape of 60 GB": (lambda: npz(("x", header(2 * 10**9, 8), 99)), "need 64000000000 bytes, there are 99"),
    "zip bomb": (
        lambda: npz(("x", header(2**26, 8), 2**31), kind=zipfile.ZIP_DEFLATED),
        "numpy.savez, uncompressed",
    ),
    "pickle": (lambda: npz(("x", header(9, descr="|O"), 99)), "holds no plain arrays"),
    "strange header": (lambda: npz(("x", "{'descr': (", 9)), "not a readable .npz"),
    "no array": (lambda: npz(("x", header(9), 36)).replace(b"\x93NUMPY", b"\x93NUMBY"), "d.npz"),
    "negative shape": (lambda: npz(("x", header(-9, 8), 36)), "need -288 bytes"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_ask_for_too_much(case: str, tmp_path: Path) -> None:
    make, part = DATA[case]
    onnx.save(mlp(), tmp_path / "m.onnx")
    (tmp_path / "d.npz").write_bytes(make())
    refused(run(tmp_path, "prune", "m.onnx", "--data", "d.npz"), 5, part)


def test_data_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.npz").write_bytes(npz(("x", header(2, 8), 64)))

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(DataError, match=r"d\.npz: its arrays do not fit into memory"):
        read_npz(tmp_path / "d.npz")


def mask(**changes: object) -> str:
    group = {"group": "w1[1]", "units": 64, "keep": [0]} | changes
    return json.dumps({"format": "tgonnx-mask-1", "attention": "heads", "groups": [group]})


MASKS: dict[str, tuple[str, str]] = {
    "units": (mask(units=10**12), "more than 16,777,216 units"),
    "units beyond integers": (mask(units=10**40), "more than 16,777,216 units"),
    "units are no number": (mask(units="64"), "a group of '64' units"),
    "half a unit": (mask(keep=[0.5]), "are no numbers below 64"),
    "kept beyond the end": (mask(keep=[64]), "are no numbers below 64"),
    "kept from the end": (mask(keep=[-1]), "are no numbers below 64"),
    "kept beyond integers": (mask(keep=[10**40]), "not a mask file"),
    "kept truths": (mask(keep=[True]), "are no numbers below 64"),
    "deep": ("[" * 100_000, "not a mask file"),
    "a number": ("7", "not a mask file"),
    "not text": ("\udcff", "not a mask file"),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_that_ask_for_too_much(case: str, tmp_path: Path) -> None:
    content, part = MASKS[case]
    onnx.save(mlp(), tmp_path / "m.onnx")
    (tmp_path / "k.json").write_bytes(content.encode(errors="surrogateescape"))
    refused(run(tmp_path, "apply", "m.onnx", "--mask", "k.json", "-o", "p.onnx"), 2, part)
    assert not (tmp_path / "p.onnx").exists()


@pytest.mark.parametrize("path", ["/dev/zero", "pipe"])
def test_inputs_that_do_not_end(path: str, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    os.mkfifo(tmp_path / "pipe")
    refused(run(tmp_path, "inspect", path), 2, "not a regular file")
    refused(run(tmp_path, "apply", "m.onnx", "--mask", path, "-o", "p.onnx"), 2, "a device or a pipe")
    refused(run(tmp_path, "prune", "m.onnx", "--data", path), 2, "no such file")


def test_an_image_of_many_pixels(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,2,8,8] y) {}'
    )
    weights = (("w", (4, 3, 1, 1)), ("v", (2, 4, 1, 1)))
    model.graph.node.extend(
        [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Conv", ["h", "v"], ["y"])]
    )
    model.graph.initializer.extend(numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in weights)
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "d" / "a").mkdir(parents=True)
    image.new("1", (12_000, 12_000)).save(tmp_path / "d" / "a" / "bomb.png")
    done = run(tmp_path, "prune", "m.onnx", "--data", "d", "--loss", "distill")
    refused(done, 5, "bomb.png: has 12000 x 12000 pixels")
