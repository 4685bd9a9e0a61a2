"""Make docs/terminal.svg from a real run of the README's first command.

python docs/make_picture.py
"""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "tgonnx prune models/fashion_resnet20.onnx --data models/fashion_mnist.npz --target flops=0.5"
PHASES = ("search", "commit", "fine-tune")
WIDTH = 96


def run() -> list[str]:
    """The lines that the command prints, run on copies of the models. Raises CalledProcessError."""
    program = shutil.which("tgonnx", path=str(Path(sys.executable).parent)) or shutil.which("tgonnx")
    if program is None:
        sys.exit("tgonnx is not installed: pip install .")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "models"
        folder.mkdir()
        for name in shlex.split(COMMAND):
            if name.startswith("models/"):
                shutil.copy(ROOT / name, folder)
        done = subprocess.run(
            [program, *shlex.split(COMMAND)[1:]],
            cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
        )  # fmt: skip
    return done.stdout.splitlines()


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print(Text.assemble(("$ ", "bold green"), COMMAND))
    for line in run():
        style = "dim" if line.startswith(PHASES) else ""
        console.print(Text(line, style=style))
    console.save_svg(str(ROOT / "docs" / "terminal.svg"), title="tgonnx")


if __name__ == "__main__":
    main()
