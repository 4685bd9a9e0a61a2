"""Times the models of this folder with onnxruntime, which is all that it needs. Writes answers.json.

python run.py [--threads N] [--provider NAME] [--rounds N]
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import onnxruntime

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=0, help="0: as many as the runtime likes")
parser.add_argument("--provider", default="CPUExecutionProvider")
parser.add_argument("--rounds", type=int, default=30)
given = parser.parse_args()
here = Path(__file__).resolve().parent
listed = json.loads((here / "models.json").read_text())
feeds = {name: np.load(here / file) for name, file in listed["inputs"].items()}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = given.threads
sessions = [
    onnxruntime.InferenceSession(str(here / name), options, providers=[given.provider])
    for name in listed["models"]
]
times: list[list[float]] = [[] for _ in sessions]
for turn in range(given.rounds + 3):
    for session, taken in zip(sessions, times, strict=True):
        start = time.perf_counter()
        session.run(None, feeds)
        if turn >= 3:
            taken.append((time.perf_counter() - start) * 1000)
answers = {
    "structure": listed["structure"],
    "device": f"{platform.node()} ({platform.machine()}), {given.provider}",
    "runtime": f"onnxruntime {onnxruntime.__version__}",
    "threads": given.threads,
    "ms": {name: sorted(taken)[len(taken) // 4] for name, taken in zip(listed["models"], times, strict=True)},
}
(here / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
print("wrote", here / "answers.json")
