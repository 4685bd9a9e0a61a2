"""Wrong gradients and crashes are found before training starts."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from resnet import ResNet

from tgonnx import engines
from tgonnx.engines import ParameterGroup, StepSpec, portable, rehearsal, table
from tgonnx.engines.gradient_check import judge, relaxed
from tgonnx.engines.optimizers import OPTIMIZERS
from tgonnx.errors import InstallationError, OptionError, UnsupportedError

TRAINS = engines.choose() == "ort-training"
ENGINES: list[Any] = ["portable", "ort-training"] if TRAINS else ["portable"]
Array = np.ndarray[Any, Any]


def network() -> tuple[StepSpec, dict[str, Array]]:
    """Three layers with a Tanh between the first two; a gate on the second; an operator with kinks."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
    net (float[16, 4] x, float[16, 3] target) => (float loss) {
        a = MatMul(x, w1)   [squash] b = Tanh(a)   ab = Add(b, b1)
        c = MatMul(ab, w2)   [kinks] d = Relu(c)   e = MatMul(d, w3)
        f = Sub(e, target)  g = Mul(f, f)  loss = ReduceMean <keepdims = 0> (g)
    }""")
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 6), "b1": (6,), "w2": (6, 5), "w3": (5, 3)}
    for name, shape in shapes.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    feeds = {"x": rng.normal(size=(16, 4)), "target": rng.normal(size=(16, 3)), "lr": np.zeros(())}
    return StepSpec(model, (ParameterGroup(tuple(shapes)),)), {
        name: value.astype(np.float32) for name, value in feeds.items()
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_right_gradients_pass(engine: Any) -> None:
    spec, feeds = network()
    gradients, used = engines.first_step(spec, feeds, engine, 1)
    verdict = judge(spec, gradients, feeds, 1)
    assert used == engine
    assert verdict.judged
    assert verdict.passed
    assert verdict.error < 0.01


def test_gates_are_relaxed_and_deep_networks_with_kinks_pass() -> None:
    spec = relaxed(ResNet(depth=8, width=8, gated=True).spec)
    assert not any(node.domain for node in spec.model.graph.node)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=(8, 1, 28, 28)).astype(np.float32), "t": rng.integers(0, 10, 8)}
    rates = {group.lr: np.zeros((), np.float32) for group in spec.groups}
    gradients, _ = engines.first_step(spec, feeds | rates, "portable", 1)
    verdict = judge(spec, gradients, feeds, 1)
    assert verdict.judged
    assert verdict.passed


def test_a_wrong_operator_is_named() -> None:
    """Tanh with a gradient of half the size spoils what lies before it, and nothing else."""
    spec, feeds = network()
    gradients, _ = engines.first_step(spec, feeds, "portable", 1)
    verdict = judge(spec, {**gradients, "w1": gradients["w1"] / 2}, feeds, 1)
    assert not verdict.passed
    assert "'squash' (Tanh)" in verdict.suspects


def test_a_wrong_weight_gradient_is_named() -> None:
    spec, feeds = network()
    gradients, _ = engines.first_step(spec, feeds, "portable", 1)
    verdict = judge(spec, {**gradients, "w2": gradients["w2"] * 1.5}, feeds, 1)
    assert not verdict.passed
    assert any("(MatMul)" in suspect for suspect in verdict.suspects)


def test_a_forgotten_path_is_found() -> None:
    """Zeros for a parameter leave the slope along the gradients as it is."""
    spec, feeds = network()
    gradients, _ = engines.first_step(spec, feeds, "portable", 1)
    verdict = judge(spec, {**gradients, "b1": np.zeros_like(gradients["b1"])}, feeds, 1)
    assert not verdict.passed
    assert any("(Add)" in suspect for suspect in verdict.suspects)


def test_gradients_that_are_no_numbers_fail() -> None:
    spec, feeds = network()
    gradients, _ = engines.first_step(spec, feeds, "portable", 1)
    verdict = judge(spec, {**gradients, "w1": gradients["w1"] * np.nan}, feeds, 1)
    assert not verdict.passed
    assert "'squash' (Tanh)" in verdict.suspects


def test_a_random_loss_is_not_judged() -> None:
    spec, feeds = network()
    graph = spec.model.graph
    graph.node.insert(0, helper.make_node("RandomNormalLike", ["x"], ["noise"], name="noise"))
    graph.node.insert(1, helper.make_node("Add", ["x", "noise"], ["noisy"], name="noisy"))
    graph.node[2].input[0] = "noisy"
    onnx.checker.check_model(spec.model)
    gradients, _ = engines.first_step(spec, feeds, "portable", 1)
    verdict = judge(spec, gradients, feeds, 1)
    assert not verdict.judged
    assert verdict.passed


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rehearsal_passes(engine: Any) -> None:
    spec, feeds = network()
    outcome = rehearsal.rehearse(spec, feeds, engine, 1)
    assert outcome.engine == engine
    assert not outcome.notes


def test_a_crash_becomes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, feeds = network()
    monkeypatch.setattr(rehearsal, "CHILD", [sys.executable, "-c", "import os; os.abort()"])
    with pytest.raises(
        UnsupportedError, match=r"engine portable: the first training step crashed \(SIGABRT\)"
    ):
        rehearsal.rehearse(spec, feeds, "portable", 1)


OWN = """
from tgonnx.engines import portable
from tgonnx.engines.optimizers import Optimizer
from tgonnx.engines.table import Engine

def differentiate(model, names):
    return portable.differentiate(model, names)

def change(group, memory, gradients, rate):
    return gradients * rate * 2.0

ENGINE = Engine(name="own", differentiate=differentiate)
OPTIMIZER = Optimizer(name="twice", change=change)
"""


def test_the_child_is_handed_what_a_program_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_engine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_engine")
    monkeypatch.setitem(table.ENGINES, "own", own.ENGINE)
    monkeypatch.setitem(OPTIMIZERS, "twice", own.OPTIMIZER)
    spec, feeds = network()
    doubled = replace(spec, groups=tuple(replace(group, optimizer="twice") for group in spec.groups))
    assert rehearsal.rehearse(doubled, feeds, "own", 1).engine == "own"


def test_an_engine_that_no_child_can_import_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, feeds = network()
    own = table.Engine(name="local", differentiate=lambda *given: portable.differentiate(*given))
    table.register(own)
    try:
        with pytest.raises(OptionError, match=r"engine 'local' cannot be handed .* stand in a module"):
            rehearsal.rehearse(spec, feeds, "local", 1)
        assert rehearsal.rehearse(spec, feeds, "portable", 1).engine == "portable"
    finally:
        del table.ENGINES["local"]


@pytest.mark.skipif(not TRAINS, reason="there is one engine")
def test_a_crash_of_one_engine_leads_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, feeds = network()
    program = (
        "import json, os, pathlib, sys; from tgonnx.engines.rehearsal import play; place = sys.argv[1]; "
        "options = json.loads(pathlib.Path(place, 'options.json').read_text()); "
        "play(place) if options['engine'] == 'portable' else os.kill(os.getpid(), 11)"
    )
    monkeypatch.setattr(rehearsal, "CHILD", [sys.executable, "-c", program])
    outcome = rehearsal.rehearse(spec, feeds, "auto", 1)
    assert outcome.engine == "portable"
    assert "engine ort-training: the first training step crashed (SIGSEGV)" in outcome.notes[0]
    with pytest.raises(UnsupportedError, match="SIGSEGV"):
        rehearsal.rehearse(spec, feeds, "ort-training", 1)


def test_an_operator_without_gradient_is_named_through_the_child() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g () => (float loss) <float[2,2] w = {1, 2, 3, 5}>'
        "{ [bits] d = Optional(w) e = OptionalGetElement(d) loss = ReduceSum <keepdims = 0> (e) }"
    )
    spec = StepSpec(model, (ParameterGroup(("w",)),))
    with pytest.raises(UnsupportedError, match="Optional"):
        rehearsal.rehearse(spec, {}, "portable", 1)


def test_a_missing_device_is_named() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the device is there")
    spec, feeds = network()
    with pytest.raises(InstallationError, match="has no CUDAExecutionProvider"):
        engines.build(spec, "portable", device="cuda")
    with pytest.raises(InstallationError, match="onnxruntime-gpu"):
        rehearsal.rehearse(spec, feeds, device="cuda")


def test_training_stops_before_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in the child reaches the caller of `prune` as an error, or as a note on the other engine."""
    from small_task import network as small_network
    from small_task import samples

    from tgonnx.pipeline import prune

    program = (
        "import json, os, pathlib, sys; from tgonnx.engines.rehearsal import play; place = sys.argv[1]; "
        "options = json.loads(pathlib.Path(place, 'options.json').read_text()); "
        "play(place) if options['engine'] == sys.argv[2] else os.abort()"
    ).replace("sys.argv[2]", "'portable'" if TRAINS else "'none'")
    monkeypatch.setattr(rehearsal, "CHILD", [sys.executable, "-c", program])
    found = samples(64)
    if TRAINS:
        result = prune(small_network(), found, epochs=3, batch=16, threads=1, from_scratch=True)
        assert any("SIGABRT" in note and "portable" in note for note in result.notes)
    with pytest.raises(UnsupportedError, match="SIGABRT"):
        prune(
            small_network(),
            found,
            epochs=3,
            batch=16,
            threads=1,
            from_scratch=True,
            engine="ort-training" if TRAINS else "portable",
        )


@pytest.mark.skipif(not TRAINS, reason="newer runtimes may not crash on it")
def test_a_real_crash_is_survived() -> None:
    """onnxruntime 1.19 divides by the size of an empty batch (SIGFPE)."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,2] s, int64[N] t) => (float loss)'
        "<float[2] b = {1, 2}> { x = Add(s, b) loss = SoftmaxCrossEntropyLoss(x, t) }"
    )
    feeds = {"s": np.zeros((0, 2), np.float32), "t": np.zeros(0, np.int64)}
    with pytest.raises(UnsupportedError, match=r"ort-training: the first training step crashed \(SIGFPE\)"):
        rehearsal.rehearse(StepSpec(model, (ParameterGroup(("b",)),)), feeds, "ort-training", 1)


def test_a_missing_device_is_one_line_and_exit_code_8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime
    from small_task import network as small_network
    from small_task import samples

    from tgonnx.cli.app import main

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the device is there")
    onnx.save(small_network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **samples(64))
    command = ["prune", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "--device", "cuda"]
    command += ["--from-scratch", "--no-run-dir"]
    assert main([*command, "-o", str(tmp_path / "out.onnx"), "-q"]) == 8
    complaint = capsys.readouterr().err.strip()
    assert len(complaint.splitlines()) == 1
    assert "device cuda" in complaint
    assert "pip install onnxruntime-gpu" in complaint
    assert not (tmp_path / "out.onnx").exists()


def test_training_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of `--device cuda`, with the CPU's provider in the place of CUDA's: the portable engine trains."""
    from small_task import network as small_network
    from small_task import samples

    from tgonnx.engines import trainer
    from tgonnx.pipeline import prune
    from tgonnx.runtime import sessions

    program = (
        "import sys; from tgonnx.runtime import sessions; "
        "sessions.PROVIDERS = {'cuda': 'CPUExecutionProvider', 'cpu': 'CPUExecutionProvider'}; "
        "from tgonnx.engines.rehearsal import play; play(sys.argv[1])"
    )
    monkeypatch.setattr(rehearsal, "CHILD", [sys.executable, "-c", program])
    monkeypatch.setattr(sessions, "PROVIDERS", dict.fromkeys(("cpu", "cuda"), "CPUExecutionProvider"))
    built: list[tuple[str, str]] = []
    make = trainer.Trainer.__init__

    def spy(self: Any, graph: Any, engine: str, threads: Any, seed: Any, device: Any) -> None:
        built.append((engine, device))
        operators = {node.op_type for node in graph.model.graph.node}
        assert not operators & {"ReorderInput", "ReorderOutput", "ConvGrad"}  # of the CPU's provider alone
        make(self, graph, engine, threads, seed, device)

    monkeypatch.setattr(trainer.Trainer, "__init__", spy)
    result = prune(
        small_network(), samples(96), epochs=3, batch=16, threads=1, device="cuda", from_scratch=True
    )
    assert set(built) == {("portable", "cuda")}
    assert result.achieved <= 0.5
