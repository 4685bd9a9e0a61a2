"""The fuzzers for a few seconds. They run for hours as `python tests/fuzz_forms.py --minutes 60`, and so on."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fuzz_damage import captured, check_damaged, command, damage, judge, limit_memory, prepare
from fuzz_forms import check_mutated
from mutations import MUTATIONS, Mutation, Skip

from tgonnx.cli.app import main


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@pytest.mark.filterwarnings("default")  # of the tools that make the forms
def test_forms_that_mean_the_same(mutation: Mutation) -> None:
    used, why = 0, ""
    for seed in range(40):
        try:
            used += bool(check_mutated(seed, (mutation,)))
        except Skip as skip:
            why = str(skip)
            if "not installed" in why:
                break
        if used == 3:
            return
    if not used:
        pytest.skip(why)


@pytest.mark.long
def test_forms_in_combination() -> None:
    assert sum(bool(check_mutated(seed)) for seed in range(500)) > 300


@pytest.mark.parametrize("first", range(0, 120, 30))
def test_damaged_files(first: int) -> None:
    """In a process of its own, whose memory is limited and which may crash."""
    with ProcessPoolExecutor(1, initializer=limit_memory) as pool:
        codes = list(pool.map(check_damaged, range(first, first + 30)))
    assert len(set(codes)) > 1, "damage that changes nothing, or always the same"


@pytest.mark.long
def test_many_damaged_files() -> None:
    with ProcessPoolExecutor(1, initializer=limit_memory) as pool:
        assert len(set(pool.map(check_damaged, range(1000, 4000)))) > 3


@pytest.mark.parametrize("seed", range(200, 206))
def test_damaged_files_in_a_process_from_the_shell(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prepare(tmp_path)
    words = command(damage(tmp_path, rng), tmp_path, rng)
    (tmp_path / "out").mkdir()
    run = [sys.executable, "-m", "tgonnx", *words]
    done = subprocess.run(
        run, capture_output=True, text=True, timeout=120, preexec_fn=limit_memory, check=False
    )
    judge(words, done.returncode, done.stdout, done.stderr, tmp_path / "out")


def test_good_files_pass_the_same_judge(tmp_path: Path) -> None:
    """Guards the property: what is not damaged is done, and seen to be written."""
    prepare(tmp_path)
    (tmp_path / "out").mkdir()
    words = [
        "apply",
        f"{tmp_path}/m.onnx",
        "--mask",
        f"{tmp_path}/k.json",
        "-o",
        f"{tmp_path}/out/p.onnx",
        "-q",
    ]
    code, out, err = captured(lambda: main(words))
    assert code == 0
    judge(words, code, out, err, tmp_path / "out")
    with pytest.raises(AssertionError, match="were written"):
        judge(words, 3, out, "error: x\n", tmp_path / "out")
