"""A pruned model is verified against the original, through the gated one; what cannot be told is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import tgonnx as tg
from tests.test_loading import mlp
from tests.test_verify import parse
from tgonnx.analysis.coupling import Coupling
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.proof import UNVERIFIED, Prover
from tgonnx.runtime import child, comparison, equivalence
from tgonnx.runtime.known_part import known_part, unknown_operators
from tgonnx.selection.budget import random_mask
from tgonnx.selection.mask import Mask


def prepared(source: onnx.ModelProto) -> tuple[Coupling, Mask]:
    coupling = tg.analyze(tg.load(source))
    return coupling, random_mask(coupling, 0.5, 0)


def overflowing() -> onnx.ModelProto:
    """A network with one channel that overflows, and so all outputs."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,8,8] x) => (float[N,4] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        e = Exp(a)
        c = Conv(e, w2)
        p = GlobalAveragePool(c)
        y = Flatten(p)
    }""")
    rng = np.random.default_rng(0)
    first = rng.standard_normal((8, 3, 3, 3)).astype(np.float32) / 20
    first[2] *= 1e4
    second = rng.standard_normal((4, 8, 1, 1)).astype(np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")]
    )
    return model


def test_a_correct_cut_is_proved() -> None:
    coupling, mask = prepared(mlp())
    check = Prover(coupling).both(mask, gate(coupling, mask), apply(coupling, mask))
    assert check.ok
    assert check.samples == 8
    assert "x:3x8" in check.sizes


def test_a_normal_form_that_is_wrong_is_found() -> None:
    """Gated and pruned agree about it."""
    coupling, mask = prepared(mlp())
    tensor = coupling.model.proto.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    prover = Prover(coupling)
    assert prover.cut(mask, gate(coupling, mask), apply(coupling, mask)).ok
    with pytest.raises(
        tg.VerificationError, match="all gates open against the original: output 'y': differs"
    ):
        prover.settle(prover.normal_form)


def test_what_overflows_in_a_closed_channel_is_no_difference() -> None:
    coupling = tg.analyze(tg.load(overflowing()))
    mask = Mask.all_open(coupling)
    mask.open[2] = False
    gated, pruned = gate(coupling, mask), apply(coupling, mask)
    assert tg.verify(gated, pruned).reasons == ("output 'y': infinite or NaN values differ",)
    check = Prover(coupling).both(mask, gated, pruned)
    assert check.ok
    assert check.max_rel < 1e-4


def test_what_overflows_in_an_open_channel_is_one() -> None:
    coupling = tg.analyze(tg.load(overflowing()))
    mask = Mask.all_open(coupling)
    mask.open[2] = False
    other = Mask.all_open(coupling)
    other.open[0] = False
    check = Prover(coupling).cut(mask, gate(coupling, mask), apply(coupling, other))
    assert check.verdict == "different"


def test_what_does_not_run_is_doubted_and_marked_if_let_through() -> None:
    model = parse(
        "g (float[N,4] x) => (float[a,b] y) <float[4,8] w, int64[2] s = {7, 9}> "
        "{ h = MatMul(x, w)\n r = Relu(h)\n q = MatMul(r, v)\n y = Reshape(q, s) }"
    )
    del model.graph.initializer[:]
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 8)), ("v", (8, 4))):
        model.graph.initializer.append(
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    model.graph.initializer.append(numpy_helper.from_array(np.array([7, 9]), "s"))
    entry = model.metadata_props.add(key="author", value="somebody")
    coupling = tg.analyze(tg.load(model))
    prover = Prover(coupling)
    with pytest.raises(tg.VerificationError, match=r"the original cannot be run: .*--data.*--unverified"):
        prover.settle(prover.normal_form)
    let = Prover(coupling, unverified=True)
    assert let.settle(let.normal_form, model).startswith("not verified: the original cannot be run")
    assert [found.key for found in model.metadata_props] == [entry.key, UNVERIFIED]


def dies(stage: child.Stage, _: int) -> None:
    stage("running the model")
    os.kill(os.getpid(), signal.SIGSEGV)


def double(stage: child.Stage, value: int) -> int:
    return 2 * value


def test_a_crash_is_an_answer_and_the_next_request_is_served() -> None:
    with pytest.raises(child.Crash, match=r"running the model: the runtime crashed \(SIGSEGV\)"):
        child.ask(dies, 1)
    assert child.ask(double, 21) == 42


def number(stage: child.Stage) -> int:
    return os.getpid()


def sleeps(stage: child.Stage) -> None:
    time.sleep(600)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="states of processes are read from /proc")
def test_the_child_ends_with_its_parent_however_that_ends() -> None:
    script = (
        "from tgonnx.runtime import child; from tests import test_proof as t; "
        "print(child.ask(t.number), flush=True); child.ask(t.sleeps)"
    )
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)  # it is there
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(600):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_errors_of_the_child_are_raised_here() -> None:
    model = parse("m (float[N,8] x) => (float[a,b] y) <int64[2] target = {7, 9}> { y = Reshape(x, target) }")
    with pytest.raises(tg.ModelError, match="cannot run on these inputs"):
        tg.verify(model, model)


def test_the_known_part_ends_at_the_inputs_of_what_is_unknown() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "TRT" : 1]>
    g (float[N,4] x) => (float[N,4] kept, int32[N] count, float[N,4] more) {
        kept = Relu(x)
        boxes = Neg(kept)
        scores = Exp(x)
        count = TRT.EfficientNMS_TRT(boxes, scores)
        float_count = Cast <to = 1> (count)
        more = Mul(kept, float_count)
    }""")
    unknown = unknown_operators(model)
    assert unknown == {("TRT", "EfficientNMS_TRT")}
    part = known_part(model, unknown)
    assert [value.name for value in part.graph.output] == ["kept", "boxes", "scores"]
    assert [node.op_type for node in part.graph.node] == ["Relu", "Neg", "Exp"]
    check = tg.verify(model, model)
    assert check.ok
    assert check.up_to == ("EfficientNMS_TRT (TRT)",)


def test_data_are_used_beside_random_inputs() -> None:
    """Outputs that are zero on all random inputs are told apart by real ones."""
    text = "m (float[N,4] x) => (float[N,4] y) <float k = {1000.0}> { z = Sub(x, k)\n y = Relu(z) }"
    model, other = parse(text), parse(text.replace("1000.0", "900.0"))
    doubted = tg.verify(model, other)
    assert doubted.verdict == "inconclusive"
    assert "--data" in doubted.complaint
    feeds = [{"x": np.full((2, 4), 1001, np.float32)}]
    check = tg.verify(model, other, feeds, samples=1)
    assert check.verdict == "different"
    assert check.sizes[:2] == ("x:2x4", "x:1x4")


def test_the_sizes_of_the_analysis_are_tried_too() -> None:
    model = parse(
        "g (float[N,T,4] x) => (float[N,T,3] y) { a = MatMul(x, w)\n b = Relu(a)\n y = MatMul(b, v) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 8)), ("v", (8, 3))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    coupling = tg.analyze(tg.load(model, sizes={"x": (2, 77, 4)}))
    sizes = Prover(coupling).normal_form.sizes
    assert sizes[:3] == ("x:1x8x4", "x:3x8x4", "x:2x77x4")


@pytest.mark.parametrize("shapes", ["x:1x8", "x:3x8"])
def test_sizes_at_which_the_original_crashes_the_runtime_are_left_out(
    shapes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp()
    asked: list[frozenset[str]] = []

    def ask(work: object, a: object, b: object, how: comparison.How) -> object:
        asked.append(how.avoid)
        if shapes not in how.avoid:
            raise child.Crash(f"running the first with {shapes}", "the runtime crashed (SIGFPE)")
        return comparison.compare(lambda stage: None, a, b, how)  # type: ignore[arg-type]

    monkeypatch.setattr(equivalence, "ask", ask)
    check = tg.verify(model, model)
    assert check.ok
    assert asked == [frozenset(), frozenset([shapes])]
    assert f"{shapes}: the runtime crashes" in check.skipped
    assert shapes not in check.sizes


@pytest.mark.parametrize(
    ("how", "ok"), [("the runtime crashed (SIGKILL)", True), ("the runtime crashed (SIGSEGV)", False)]
)
def test_sizes_for_which_memory_is_too_short_say_nothing(
    how: str, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system ends the process of the larger model; a crash of the runtime with it is a fault."""
    model, shapes = mlp(), "x:3x8"

    def ask(work: object, a: object, b: object, asked: comparison.How) -> object:
        if shapes not in asked.avoid:
            raise child.Crash(f"running the second with {shapes}", how)
        return comparison.compare(lambda stage: None, a, b, asked)  # type: ignore[arg-type]

    monkeypatch.setattr(equivalence, "ask", ask)
    check = tg.verify(model, model)
    assert check.ok == ok
    assert (f"{shapes}: memory was too short" in check.skipped) == ok
    assert bool(check.reasons) != ok


def test_nothing_is_told_where_memory_is_too_short_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(work: object, a: object, b: object, asked: comparison.How) -> object:
        raise child.Crash(f"running the second with x:{len(asked.avoid)}x8", "the runtime crashed (SIGKILL)")

    monkeypatch.setattr(equivalence, "ask", ask)
    check = tg.verify(mlp(), mlp())
    assert not check.ok
