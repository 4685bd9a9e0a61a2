"""A step before a model is converted for a device: prune it once, keep the mask, and write what the device takes.

    python examples/before_export.py model.onnx data.npz build

writes build/model.onnx, build/model.ort and build/mask.json. Where the mask is there already and fits the model, the
same channels are cut again from what may be newly trained weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tgonnx as tg

TARGET = "params=0.5"


def main(model: str, data: str, folder: str) -> int:
    build = Path(folder)
    build.mkdir(parents=True, exist_ok=True)
    mask = build / "mask.json"
    chosen: dict[str, object] = {"mask": str(mask)} if mask.exists() else {"target": TARGET}
    try:
        result = tg.prune(model, data, calibrate=True, seed=0, **chosen)
        for name in ("model.onnx", "model.ort"):
            result.save(build / name, overwrite=True)
        result.mask.save(mask, overwrite=True)
    except tg.TgonnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(result)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python before_export.py MODEL DATA FOLDER")
    sys.exit(main(*sys.argv[1:]))
