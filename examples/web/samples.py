"""Samples of an .npz for the page and for node.mjs, as JSON.

    python examples/web/samples.py data.npz image 20 samples.json

writes the first 20 of the array `image`; pixels of bytes become fractions of 255.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(data: str, name: str, count: str, out: str) -> None:
    with np.load(data) as arrays:
        values = arrays[name][: int(count)]
    if values.dtype == np.uint8:
        values = values / 255
    rows = [
        {name: {"dims": [1, *row.shape], "data": np.round(row.astype(float), 6).ravel().tolist()}}
        for row in values
    ]
    Path(out).write_text(json.dumps(rows))
    print(f"wrote {out}: {len(rows)} samples of {name}")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: python samples.py DATA.npz INPUT COUNT OUT.json")
    main(*sys.argv[1:])
