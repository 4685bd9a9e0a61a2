"""Both engines: the same gradients, the same training, running statistics written back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from resnet import ResNet

from tgonnx import engines
from tgonnx.engines import ParameterGroup, StepSpec, step
from tgonnx.engines.optimizers import OPTIMIZERS
from tgonnx.errors import UsageError
from tgonnx.ops.aspects.row import BLOCKED, DEPTHWISE, PRODUCTS, SHORTCUTS
from tgonnx.passes.block_convolutions import block_convolutions
from tgonnx.runtime.versions import block_size

ENGINES = ["portable", "ort-training"] if engines.choose() == "ort-training" else ["portable"]
Feeds = dict[str, Any]


@pytest.fixture(scope="module")
def resnet() -> StepSpec:
    return ResNet(depth=8, width=8, gated=True).spec


def batch(size: int = 6) -> Feeds:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size, 1, 28, 28)).astype(np.float32)
    return {"x": images, "t": rng.integers(0, 10, size)}


def regression() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>'
        "g (float[N, 2] x, float[N, 1] t) => (float loss, float[N, 1] y)"
        "<float[2, 1] w = {0.5, -0.25}, float[1] b = {0.125}>"
        "{ h = MatMul (x, w)  y = Add (h, b)  d = Sub (y, t)  q = Mul (d, d)"
        "  loss = ReduceMean <keepdims = 0> (q) }"
    )


def test_engines_agree_on_a_gated_resnet(resnet: StepSpec) -> None:
    names = [name for group in resnet.groups for name in group.names]
    found = [engines.gradients(resnet.model, names, batch(), engine) for engine in ENGINES]
    for name in names:
        scale = np.abs(found[0][name]).max()
        assert scale > 0, name
        for other in found[1:]:
            np.testing.assert_allclose(other[name], found[0][name], rtol=0, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize("engine", ENGINES)
def test_training_lowers_the_loss_and_moves_everything(resnet: StepSpec, engine: Any) -> None:
    trainer = engines.build(resnet, engine, threads=1)
    before = trainer.parameters()
    feeds = {**batch(), "lr": np.float32(0.05), "gate_lr": np.float32(0.001)}
    losses = [float(next(iter(trainer.step(feeds).values()))) for _ in range(20)]
    after = trainer.parameters()
    assert losses[-1] < 0.5 * losses[0]
    assert all(not np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("engine", ENGINES)
def test_running_statistics_follow_the_onnx_formula(resnet: StepSpec, engine: Any) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(resnet.model)
    first = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(first.input[0], 1, None))
    activations = engines.session(model).run(None, batch())[0]
    trainer = engines.build(resnet, engine)
    trainer.step({**batch(), "lr": np.float32(0.0), "gate_lr": np.float32(0.0)})
    found = trainer.parameters()
    mean, variance = activations.mean((0, 2, 3)), activations.var((0, 2, 3))
    np.testing.assert_allclose(found["stem.mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["stem.var"], 0.9 + 0.1 * variance, rtol=1e-4)


X, T = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32), np.array([[1.0], [2.0]], np.float32)
RATES = {"lr": np.float32(0.1), "lr_b": np.float32(0.05)}


class InNumpy:
    """The regression and its optimisers, written down once more; weight decay is 0.1 for all."""

    def __init__(self, optimizer: str) -> None:
        self.optimizer, self.w, self.b = optimizer, np.array([[0.5], [-0.25]]), np.array([0.125])
        self.m, self.v, self.velocity = np.zeros((2, 1)), np.zeros((2, 1)), np.zeros((2, 1))
        self.count = 0

    def gradients(self, x: Any = X, t: Any = T) -> tuple[Any, Any]:
        error = x @ self.w + self.b - t
        return x.T @ (2 * error / len(x)), (2 * error / len(x)).sum(0)

    def update(self, gw: Any, gb: Any) -> None:
        """`w` by the optimiser, `b` by SGD without momentum and decay."""
        self.count += 1
        if self.optimizer == "sgd":
            self.velocity = 0.5 * self.velocity + gw
            update = self.velocity
        else:
            self.m, self.v = 0.8 * self.m + 0.2 * gw, 0.9 * self.v + 0.1 * gw**2
            update = self.m / (1 - 0.8**self.count) / (np.sqrt(self.v / (1 - 0.9**self.count)) + 1e-3)
        self.w = self.w - 0.1 * update - 0.1 * 0.1 * self.w
        self.b = self.b - 0.05 * gb


def groups_of(optimizer: str) -> tuple[ParameterGroup, ParameterGroup]:
    w = ParameterGroup(("w",), optimizer, "lr", 0.1, (0.8, 0.9), 0.5, 1e-3, clipped=True)
    return w, ParameterGroup(("b",), "sgd", "lr_b", momentum=0.0, clipped=True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimisers_follow_their_formulas(optimizer: str, engine: Any) -> None:
    trainer = engines.build(StepSpec(regression(), groups_of(optimizer)), engine)
    wanted = InNumpy(optimizer)
    for _ in range(5):
        out = trainer.step({"x": X, "t": T, **RATES})
        np.testing.assert_allclose(out["y"], X @ wanted.w + wanted.b, rtol=1e-4)
        wanted.update(*wanted.gradients())
        found = trainer.parameters()
        np.testing.assert_allclose(found["w"], wanted.w, rtol=1e-3)
        np.testing.assert_allclose(found["b"], wanted.b, rtol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"clip": 0.1}, {"accumulate": 2}])
def test_portions_of_the_parameters_are_updated_as_the_whole(
    resnet: StepSpec, options: dict[str, Any], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, found, counts = replace(resnet, **options), [], []
    feeds = {**batch(), "lr": np.float32(0.05), "gate_lr": np.float32(0.001)}
    for portion in (10**9, 600):
        monkeypatch.setattr(step, "PORTION", portion)
        trainer = engines.build(spec, engine, threads=1)
        for _ in range(2):
            trainer.step(feeds)
        found.append(trainer.parameters())
        counts.append(len(trainer.snapshot().arrays()))
    assert counts[1] > counts[0] + 10
    for name, whole in found[0].items():
        np.testing.assert_allclose(
            found[1][name], whole, rtol=0, atol=1e-6 * np.abs(whole).max(), err_msg=name
        )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_alone_is_a_share_of_the_weight(optimizer: str, engine: Any) -> None:
    """Without a gradient w -= lr decay w, whatever the optimiser, its moments and its count."""
    trainer = engines.build(StepSpec(regression(), groups_of(optimizer)), engine)
    w = trainer.parameters()["w"]
    for _ in range(3):
        trainer.step({"x": 0 * X, "t": T, **RATES})
        w = w - 0.1 * 0.1 * w
        np.testing.assert_allclose(trainer.parameters()["w"], w, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_the_norm_of_all_gradients_together_is_clipped(clip: float, engine: Any) -> None:
    trainer = engines.build(StepSpec(regression(), groups_of("sgd"), clip=clip), engine)
    wanted = InNumpy("sgd")
    for _ in range(4):
        trainer.step({"x": X, "t": T, **RATES})
        gw, gb = wanted.gradients()
        factor = min(1.0, clip / np.sqrt((gw**2).sum() + (gb**2).sum()))
        wanted.update(gw * factor, gb * factor)
        found = trainer.parameters()
        np.testing.assert_allclose(found["w"], wanted.w, rtol=1e-4)
        np.testing.assert_allclose(found["b"], wanted.b, rtol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_several_batches_are_one_step(engine: Any) -> None:
    """Three parts of a batch, accumulated, are the batch: moments, counts and decay included."""
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(12, 2)).astype(np.float32), rng.normal(size=(12, 1)).astype(np.float32)
    trainer = engines.build(StepSpec(regression(), groups_of("adamw"), clip=0.7, accumulate=3), engine)
    wanted = InNumpy("adamw")
    for _ in range(4):
        before = trainer.parameters()
        for part in range(3):
            assert all(np.array_equal(before[name], value) for name, value in trainer.parameters().items())
            trainer.step({"x": x[part::3], "t": t[part::3], **RATES})
        gw, gb = wanted.gradients(x, t)
        factor = min(1.0, 0.7 / np.sqrt((gw**2).sum() + (gb**2).sum()))
        wanted.update(gw * factor, gb * factor)
        found = trainer.parameters()
        np.testing.assert_allclose(found["w"], wanted.w, rtol=1e-3)
        np.testing.assert_allclose(found["b"], wanted.b, rtol=1e-3)


def convolution(weight: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """The sum of squares of a convolution of [4, C, 8, 8] with `weight`; s (1, C, 1, 1) and w are parameters."""
    rng, channels = np.random.default_rng(0), weight[1] * attributes.get("group", 1)
    nodes = [
        onnx.helper.make_node("Mul", ["x", "s"], ["xs"]),
        onnx.helper.make_node("Conv", ["xs", "w"], ["y"], **attributes),
        onnx.helper.make_node("Mul", ["y", "y"], ["q"]),
        onnx.helper.make_node("ReduceSum", ["q"], ["loss"], keepdims=0),
    ]
    stored = {"w": rng.normal(size=weight), "s": rng.normal(size=(1, channels, 1, 1))}
    graph = onnx.helper.make_graph(
        nodes,
        "convolution",
        [onnx.helper.make_tensor_value_info("x", 1, [4, channels, 8, 8])],
        [onnx.helper.make_tensor_value_info("loss", 1, [])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


CONVOLUTIONS = [
    ((48, 32, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((32, 48, 3, 1), {"pads": [1, 0, 1, 0]}),
    ((48, 32, 1, 1), {}),
    ((16, 32, 3, 2), {"strides": [2, 1], "pads": [0, 1, 1, 0]}),
    ((32, 32, 3, 3), {"dilations": [2, 2]}),
    ((48, 1, 3, 3), {"group": 48, "pads": [1, 1, 1, 1]}),
    ((48, 1, 3, 3), {"group": 48, "strides": [2, 2]}),  # the last row and column meet no window
    ((48, 1, 5, 3), {"group": 48, "dilations": [2, 1], "pads": [4, 1, 4, 1]}),
    ((48, 1, 1, 3), {"group": 48, "strides": [1, 3], "pads": [0, 2, 0, 1]}),
    ((20, 1, 3, 3), {"group": 20, "pads": [1, 1, 1, 1]}),
    ((1024, 512, 3, 3), {"strides": [4, 4]}),
    ((40, 24, 3, 3), {"pads": [1, 1, 1, 1]}),  # from here on, channels fill no blocks
    ((42, 30, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((24, 12, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((22, 1, 3, 3), {"group": 22, "pads": [1, 1, 1, 1]}),
    ((16, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((24, 20, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((40, 12, 8, 8), {}),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("weight", "attributes"),
    CONVOLUTIONS,
    ids=lambda v: str(v).replace(" ", "") if isinstance(v, tuple) else "",
)
def test_shortcuts_leave_gradients_as_they_are(
    weight: tuple[int, ...], attributes: dict[str, Any], engine: Any
) -> None:
    model = convolution(weight, **attributes)
    x = np.random.default_rng(1).normal(size=(4, weight[1] * attributes.get("group", 1), 8, 8))
    feeds = {"x": x.astype(np.float32)}
    plain = engines.gradients(model, ["w", "s"], feeds, engine, ())
    for taken in (SHORTCUTS, *((name,) for name in SHORTCUTS)):
        found = engines.gradients(model, ["w", "s"], feeds, engine, taken)
        for name, value in plain.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max())


def operators(model: onnx.ModelProto, engine: Any, shortcuts: Any, device: Any = "cpu") -> set[str]:
    found, _ = engines.differentiate(model, ["w"], engine, device, shortcuts)
    return {node.op_type for node in onnx.inliner.inline_local_functions(found.model).graph.node}


@pytest.mark.parametrize("engine", ENGINES)
def test_shortcuts_are_taken_where_they_fit_and_nowhere_but_on_a_cpu(engine: Any) -> None:
    usual = "ConvGrad" if engine == "ort-training" else "MatMul"
    small = convolution((1024, 512, 3, 3), strides=[4, 4])
    assert "Gemm" in operators(small, engine, [PRODUCTS])
    assert usual not in operators(small, engine, [PRODUCTS])
    assert usual in operators(small, engine, [DEPTHWISE])
    assert usual in operators(small, engine, [])
    assert usual in operators(convolution((16, 16, 3, 3)), engine, SHORTCUTS)
    if block_size():
        depthwise = convolution((48, 1, 3, 3), group=48)
        usual = "ConvGrad" if engine == "ort-training" else "Slice"
        assert usual in operators(depthwise, engine, [BLOCKED])
        assert usual not in operators(depthwise, engine, SHORTCUTS)
    assert engines.usable(SHORTCUTS, "cuda") == ()


def test_blocked_convolutions_compute_the_same(resnet: StepSpec) -> None:
    block = block_size()
    if not block:
        pytest.skip("onnxruntime has no blocked convolutions on this CPU")
    names = [name for group in resnet.groups for name in group.names]
    found, _ = engines.differentiate(resnet.model, names)
    wanted = [found.gradients[name] for name in names]
    kinds = {t.name: tuple(t.dims) for t in resnet.model.graph.initializer}
    for name, value in zip(names, wanted, strict=True):
        found.model.graph.output.append(onnx.helper.make_tensor_value_info(value, 1, kinds[name]))
    blocked = block_convolutions(found.model, block)
    assert any(n.op_type == "ReorderInput" for n in blocked.graph.node)
    plain = engines.session(found.model).run(wanted, batch())
    for a, b in zip(plain, engines.session(blocked).run(wanted, batch()), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * np.abs(a).max())


@pytest.mark.parametrize(("weight", "attributes"), CONVOLUTIONS[:8])
def test_convolutions_are_blocked_with_their_gradients_of_inputs(
    weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    """Weights are reordered without a slow transpose of six axes, and come out bit by bit as they would with it."""
    block = block_size()
    if not block:
        pytest.skip("onnxruntime has no blocked convolutions on this CPU")
    found, _ = engines.differentiate(convolution(weight, **attributes), ["s"], "portable")
    blocked = block_convolutions(found.model, block)
    plain, fast = ([n for n in m.graph.node if n.op_type == "Conv"] for m in (found.model, blocked))
    assert len(fast) == len(plain)
    assert all(n.domain == "com.microsoft.nchwc" for n in fast)
    assert len(plain) == (1 if attributes.get("strides") else 2)
    swaps = [n for n in blocked.graph.node if n.op_type == "Transpose" and n.name.startswith("grad/")]
    assert not swaps  # what mirrored the weight is gone: onnxruntime runs what nobody reads
    perms = [
        onnx.helper.get_attribute_value(n.attribute[0])
        for n in blocked.graph.node
        if n.op_type == "Transpose"
    ]
    assert max(len(perm) for perm in perms) <= 4
    m, c, kh, kw = weight
    given = numpy_helper.to_array(next(t for t in blocked.graph.initializer if t.name == "w"))
    forward = given.reshape(m // block, block, -1, min(block, c), kh, kw).transpose(0, 2, 4, 5, 3, 1)
    back = given.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1] if c > 1 else given[:, :, ::-1, ::-1]
    o, i = back.shape[:2]
    back = back.reshape(o // block, block, -1, min(block, i), kh, kw).transpose(0, 2, 4, 5, 3, 1)
    for node, wanted in zip(fast, (forward, back), strict=False):
        blocked.graph.output.append(onnx.helper.make_tensor_value_info(node.input[1], 1, None))
        feeds = {"x": np.zeros((4, c * attributes.get("group", 1), 8, 8), np.float32)}
        value = engines.session(blocked).run([node.input[1]], feeds)[0]
        np.testing.assert_array_equal(value.ravel(), wanted.ravel())


@pytest.mark.parametrize(
    ("weight", "size", "blocked"),
    [
        ((32, 32, 3, 3), 8, True),
        ((32, 32, 1, 1), 8, True),
        ((32, 32, 1, 1), 9, False),  # a plain product costs less than reordering
        ((40, 40, 3, 3), 8, True),
        ((20, 20, 3, 3), 8, False),  # two blocks for each of 20
        ((40, 40, 1, 1), 8, False),
        ((8, 3, 3, 3), 8, True),
        ((2, 3, 3, 3), 8, False),
    ],
)
def test_blocks_are_filled_up_where_that_pays(weight: tuple[int, ...], size: int, blocked: bool) -> None:
    info, make = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [make("Conv", ["x", "w", "b"], ["y"], pads=[weight[2] // 2] * 4)],
        "one",
        [info("x", 1, [2, weight[1], size, size]), info("w", 1, weight), info("b", 1, weight[:1])],
        [info("y", 1, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    found = block_convolutions(model, 16)
    assert any(node.domain == "com.microsoft.nchwc" for node in found.graph.node) == blocked
    if block_size() == 16:
        rng = np.random.default_rng(0)
        feeds = {
            i.name: rng.normal(size=[d.dim_value for d in i.type.tensor_type.shape.dim]) for i in graph.input
        }
        feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
        (plain,), (fast,) = (engines.session(m).run(None, feeds) for m in (model, found))
        np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_load_and_wrong_use() -> None:
    trainer = engines.build(StepSpec(regression(), (ParameterGroup(("w", "b"), "sgd"),)))
    trainer.load({"b": np.array([2.0], np.float32)})
    found = trainer.parameters()
    np.testing.assert_array_equal(found["b"], [2.0])
    np.testing.assert_array_equal(found["w"], [[0.5], [-0.25]])
    with pytest.raises(UsageError, match="'b' of shape"):
        trainer.load({"b": np.zeros(3)})
    with pytest.raises(UsageError, match="input 'lr'"):
        trainer.step({"x": np.zeros((1, 2), np.float32), "t": np.zeros((1, 1), np.float32)})
    with pytest.raises(UsageError, match="'nothing' is not an initializer"):
        engines.build(StepSpec(regression(), (ParameterGroup(("nothing",)),)), "portable")


def test_old_opset_is_converted() -> None:
    model = regression()
    model.opset_import[0].version = 13
    for engine in ENGINES:
        found = engines.gradients(
            model, ["b"], {"x": np.ones((2, 2), np.float32), "t": np.zeros((2, 1), np.float32)}, engine
        )
        np.testing.assert_allclose(found["b"], [2 * 0.375], rtol=1e-6)
    assert numpy_helper.to_array(model.graph.initializer[0]).size  # the caller's model is untouched
    assert model.opset_import[0].version == 13


@pytest.mark.parametrize("engine", ENGINES)
def test_two_normalisations_of_one_value_with_equal_constant_statistics(engine: Any) -> None:
    """onnxruntime overwrites the statistics inputs, and would share the constants of both nodes."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N, 2, 3] x) => (float loss)'
        "<float[2] s = {1, 2}, float[2] u = {3, 4}, float[2] b = {0, 0},"
        "float[2] m = {0, 0}, float[2] v = {1, 1}>"
        "{ h = Mul (x, x)  p, pm, pv = BatchNormalization <training_mode = 1> (x, s, b, m, v)"
        "  q, qm, qv = BatchNormalization <training_mode = 1> (h, u, b, m, v)"
        "  r = Mul (p, q)  w = Mul (r, x)  loss = ReduceSum <keepdims = 0> (w) }"
    )
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)

    def normal(a: Any) -> Any:
        return (a - a.mean((0, 2), keepdims=True)) / np.sqrt(a.var((0, 2), keepdims=True) + 1e-5)

    product = (normal(x) * normal(x * x) * x).sum((0, 2))
    found = engines.gradients(model, ["s", "u"], {"x": x}, engine)
    np.testing.assert_allclose(found["s"], product * [3, 4], rtol=1e-4)
    np.testing.assert_allclose(found["u"], product * [1, 2], rtol=1e-4)
