"""Graphs of real exporters, pruned by half at random, against their originals at batches 1, 2 and 3."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from independent import axes_of, faults_of
from zoo.pack import HERE, SUFFIX, unpack

PACKED = sorted(HERE.glob(f"*{SUFFIX}"))


def check(model: onnx.ModelProto, seed: int = 0) -> None:
    """Assert that half of the model can go, and that nothing is wrong at three batch sizes."""
    roles = axes_of(model)
    assert set(roles.values()) == {"batch"}, "choose graphs whose batch alone is free"
    sizes = [{name: batch for name in roles} for batch in (1, 2, 3)]
    faults, looked, coupling = faults_of(model, seed, sizes=sizes)
    assert looked == len(sizes), "the original does not run"
    assert coupling.units > 50
    assert faults == []


@pytest.mark.parametrize("packed", PACKED, ids=lambda path: path.name.removesuffix(SUFFIX))
def test_packed_graphs(packed: Path) -> None:
    check(unpack(packed))


def test_the_folder_is_small_and_has_the_hard_ones() -> None:
    names = {path.name.removesuffix(SUFFIX) for path in PACKED}
    assert {"swin_t.dynamo", "seq2seq_transformer.dynamo", "convnext_atto.dynamo"} <= names
    assert len(names) >= 12
    assert sum(path.stat().st_size for path in PACKED) < 1_000_000


def everything() -> Iterator[tuple[str, Path]]:
    """The graphs of TGONNX_ZOO, packed ones unpacked by the script that lies beside them."""
    sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
    from tables import graphs

    yield from graphs(Path(os.environ["TGONNX_ZOO"]))


@pytest.mark.long
@pytest.mark.skipif(
    "TGONNX_ZOO" not in os.environ, reason="set TGONNX_ZOO to a folder of .onnx files, packed or not"
)
def test_the_whole_zoo_at_other_batches() -> None:
    faults: dict[str, object] = {}
    for name, path in everything():
        try:
            check(onnx.load(path))
        except Exception as error:  # every graph is looked at, whatever happens to another
            faults[name] = str(error)[:600]
    assert faults == {}
