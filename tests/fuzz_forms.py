"""The second fuzzer: models in other forms that mean the same are pruned as truly and as far.

    python tests/fuzz_forms.py --minutes 60 --seed 3

A seed draws a model (random, or one of tests/zoo), one to three mutations, and a mask.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from hunting import hunt
from independent import Crash, choices, compare, disagreement, draw, faults_of, free_inputs, run, session
from mutations import MUTATIONS, NEUTRAL, Mutation, Skip, quantised
from onnx import helper
from random_forms import OPSETS, wild_model
from random_graphs import random_model
from zoo.pack import HERE, SUFFIX, unpack

from tgonnx.analysis.model import Source
from tgonnx.analysis.solver import analyze
from tgonnx.loading import load
from tgonnx.passes.insert_gates import gate
from tgonnx.passes.remove_channels import apply
from tgonnx.selection.budget import random_mask
from tgonnx.selection.mask import Mask

SMALL = 20_000  # bytes of a packed graph; larger ones take too long here
PACKED = [path for path in sorted(HERE.glob(f"*{SUFFIX}")) if path.stat().st_size < SMALL]


def base_model(seed: int) -> onnx.ModelProto:
    """A model before its mutations."""
    rng = np.random.default_rng([seed, 2])
    kind = rng.choice(["random", "sized", "zoo"], p=[0.5, 0.3, 0.2])
    opset = int(rng.choice(OPSETS))
    if kind == "zoo":
        return unpack(PACKED[int(rng.integers(len(PACKED)))])
    return random_model(seed, opset, 3) if kind == "random" else wild_model(seed, opset, 2)


def check_mutated(seed: int, mutations: tuple[Mutation, ...] = ()) -> list[str]:
    """Assert that a mutated model is pruned truly, and as far as before; the names of what was done to it."""
    rng = np.random.default_rng([seed, 3])
    base = base_model(seed)
    chosen = mutations or tuple(
        rng.choice(np.array(MUTATIONS, object), int(rng.integers(1, 4)), replace=False)
    )
    model, done = _copy(base), []
    for mutation in sorted(chosen, key=MUTATIONS.index):
        try:
            model = mutation(_copy(model), rng)
        except Skip:
            if mutations:
                raise
            continue
        if model.ir_version < 4:  # which wants every initializer listed
            model.ir_version = 4
        done.append(mutation)
    names = [mutation.__name__ for mutation in done]
    if not done or not _same_function(base, model, quantised in done):
        return []  # the tool, not tgonnx, changed what it computes
    before = analyze(load(base)).units
    with tempfile.TemporaryDirectory() as folder:
        units, faults = _prune(_stored(model, Path(folder), rng), model, seed, quantised in done)
    if faults and faults_of(base, seed)[0]:
        return []  # faulty before any mutation: what tests/test_random_graphs.py looks for
    assert not faults, f"{names}: {faults[0]}"
    if all(mutation in NEUTRAL for mutation in done):
        assert units == before, f"{names}: {before} units became {units}"
    return names


def _stored(model: onnx.ModelProto, folder: Path, rng: np.random.Generator) -> Source:
    """What `load` is given: the model, its bytes, or a file with the weights beside it."""
    way = rng.choice(["model", "bytes", "external"])
    if way == "model":
        return model
    if way == "bytes":
        return model.SerializeToString()
    onnx.save(
        _copy(model), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    return folder / "m.onnx"


def _prune(source: Source, model: onnx.ModelProto, seed: int, rounded: bool) -> tuple[int, list[str]]:
    coupling = analyze(load(source))
    mask = random_mask(coupling, 0.5, seed)
    models = {
        "original": model,
        "all gates open": gate(coupling, Mask.all_open(coupling)),
        "gated": gate(coupling, mask),
        "pruned": apply(coupling, mask),
    }
    return coupling.units, compare(models, list(choices(model))[:5], seed, optimised=not rounded)[0]


def _same_function(base: onnx.ModelProto, model: onnx.ModelProto, rounded: bool) -> bool:
    """Whether the mutation kept its promise, seen to without optimisations."""
    if [v.name for v in free_inputs(base)] != [v.name for v in free_inputs(model)]:
        return False
    ran = False
    for sizes in list(choices(base))[:2]:
        feeds = draw(base, sizes)
        try:
            expected = run(session(base, optimised=False), feeds)
            kinds = {value.name: value.type.tensor_type.elem_type for value in free_inputs(model)}
            same = {name: a.astype(helper.tensor_dtype_to_np_dtype(kinds[name])) for name, a in feeds.items()}
            found = run(session(model, optimised=False), same)
        except Crash:
            continue
        ran = True
        if any(a.shape != b.shape for a, b in zip(expected, found, strict=True)):
            return False
        same_type = all(a.dtype == b.dtype for a, b in zip(expected, found, strict=True))
        if same_type and not rounded and disagreement(expected, expected, found):
            return False
    return ran


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


if __name__ == "__main__":
    sys.exit(hunt(check_mutated))
