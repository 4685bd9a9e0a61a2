"""What reaches the terminal: one line for an error, nothing that a name could make it do, no foreign logs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import tgonnx
from tests.test_loading import mlp
from tgonnx.cli.app import main
from tgonnx.io.visible import visible

Capture = pytest.CaptureFixture[str]
NASTY = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\nerror: \x9b31m\u2028"


def named(name: str) -> onnx.ModelProto:
    """The small network, every node and weight named with `name`."""
    model = mlp()
    for tensor in model.graph.initializer:
        tensor.name = f"{tensor.name}{name}"
    for node in model.graph.node:
        node.name = f"{node.name}{name}"
        for index, value in enumerate(node.input):
            if value in ("w1", "w2"):
                node.input[index] = value + name
    return model


def harmless(text: str) -> bool:
    return all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain näme /a/b[0] 漢字", "plain näme /a/b[0] 漢字"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\u202eb\nc\x9b", "a\\u202eb\\nc\\x9b"),
        ("\udc80", "\\udc80"),
        ("a" * 50 + "b" * 50, "a" * 39 + "..." + "b" * 38),
        ("x " * 900, "x " * 249 + "..." + "x " * 249),
    ],
)
def test_what_is_shown_of_a_name(text: str, shown: str) -> None:
    assert visible(text, line=999) == shown
    assert harmless(visible(text))


def test_names_cannot_command_the_terminal(tmp_path: Path, capsys: Capture) -> None:
    model = named(NASTY)
    onnx.save(model, tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--groups", "-v"]) == 0
    assert main(["inspect", str(tmp_path / "m.onnx"), "--why", "*"]) == 0
    model.graph.node[1].op_type = "None" + NASTY
    onnx.save(model, tmp_path / "bad.onnx")
    assert main(["inspect", str(tmp_path / "bad.onnx")]) == 3
    assert main(["inspect", str(tmp_path / f"none{NASTY[:9]}")]) == 2
    assert main(["inspect", "--\x1b[2J"]) == 2
    shown = capsys.readouterr()
    assert harmless(shown.out)
    assert harmless(shown.err)
    assert shown.err.count("\n") == 3
    assert "\\x1b]0;owned\\x07" in shown.out


def test_programs_get_the_true_names(tmp_path: Path, capsys: Capture) -> None:
    onnx.save(named(NASTY), tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--json"]) == 0
    text = capsys.readouterr().out
    assert harmless(text)
    assert json.loads(text)["groups"][0]["members"][0] == f"w1{NASTY}[1]"


def test_a_name_of_a_megabyte_is_cut(tmp_path: Path, capsys: Capture) -> None:
    model = named("n" * 1_000_000)
    onnx.save(model, tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "-v"]) == 0
    model.graph.node[1].op_type = "Nonesuch"
    onnx.save(model, tmp_path / "bad.onnx")
    assert main(["inspect", str(tmp_path / "bad.onnx")]) == 3
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) < 60
    assert len(shown.err) < 1000
    assert "Nonesuch" in shown.err


def test_json_is_nothing_but_json(tmp_path: Path) -> None:
    """In a process of its own: libraries below Python write where Python does not see it."""
    model = mlp()
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, tmp_path / "m.onnx")
    commands = (
        "mask m.onnx -o k.json",
        "gate m.onnx --mask k.json -o g.onnx",
        "apply m.onnx --mask k.json -o p.onnx",
        "prune m.onnx -o q.onnx",
        "inspect m.onnx",
        "verify g.onnx p.onnx",
        "bench m.onnx p.onnx --repeats 2",
    )
    program = (
        "import sys, shlex; from tgonnx.cli.app import main\n"
        "for line in sys.argv[1:]: print(main([*shlex.split(line), '--json'])); sys.stdout.flush()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tgonnx.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, *commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    documents = done.stdout.split("\n0\n")
    assert len(documents) == len(commands) + 1
    assert all(json.loads(document) for document in documents[:-1])
    assert done.stderr.replace("note: no data was given", "").count("\n") <= 1  # the note of prune


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_colours_are_left_out_where_nobody_wants_them(variables: dict[str, str], tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {
        "TERM": "xterm-256color",
        "PYTHONPATH": str(Path(tgonnx.__file__).parents[1]),
        **variables,
    }
    command = [sys.executable, "-m", "tgonnx", "verify", "m.onnx", "m.onnx"]
    child = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    assert b"equal" in shown
    assert (b"\x1b[32m" in shown) == (not variables)
