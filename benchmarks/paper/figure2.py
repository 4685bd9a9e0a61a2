"""The paper's Figure 2 as a picture: which of 20 hidden nodes a softmax keeps, and which a trainable gate does.

    python benchmarks/paper/figure2.py [--quick] [--seed 0]

The experiment is that of `benchmarks/synthetic.py`, where the table is: one node is enough to say sin(x).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keeping import Desk, Row, arguments, table

from tgonnx.drawing.svg import Drawing, rect, text

PANELS = {"softmax": "Softmax: decision weights", "one": "Trainable gates"}
HIGH, ROOM = 90, 140  # pixels of the bars of a panel, and from one panel to the next


def decided(job: Row) -> Row:
    """The decision weights of the nodes, the largest first, and the error at the end."""
    from synthetic import train

    weights, error = train(job["selection"], job["seed"], job["steps"])
    return {"weights": sorted((round(float(w), 4) for w in weights), reverse=True), "error": float(error)}


def drawn(rows: list[Row]) -> Drawing:
    """A panel for each selection, a bar for each node."""
    body = []
    for number, row in enumerate(rows):
        top, weights = ROOM * number, np.array(row["weights"])
        body.append(text("0", top + 12, PANELS[row["selection"]], "ink strong"))
        body.append(text("100%", top + 12, f"squared error {row['error']:.1e}", "dim small", "end"))
        for node, weight in enumerate(weights):
            share = float(weight / weights.max())
            left, tall = 100 * node / len(weights), max(1.0, HIGH * share)
            body.append(
                rect(left, top + 22 + HIGH - tall, 80 / len(weights), tall, f"c{number}", f"{weight:.3f}")
            )
            said = f"{weight:.2f}" if weight >= 0.005 else ""
            body.append(text(f"{left + 1:g}%", top + HIGH + 34, said, "dim small"))
    return Drawing("Decisions over 20 hidden nodes", "".join(body), ROOM * len(rows))


def main() -> None:
    number: dict[str, Any] = {"type": int, "default": 0}
    options = arguments(__doc__, ("--seed", number))
    desk = Desk("figure2", options.quick, options.out)
    asked = {"seed": options.seed, "steps": 600 if options.quick else 1500}
    if not options.table:
        desk.run([{"selection": selection} | asked for selection in PANELS], decided)
    rows = [row for row in desk.rows() if asked.items() <= row.items()]
    kept = [sum(w > 0.01 * sum(row["weights"]) for w in row["weights"]) for row in rows]
    lines = [(row["selection"], str(n), f"{row['error']:.1e}") for row, n in zip(rows, kept, strict=True)]
    table(("selection", "nodes kept", "squared error"), lines)
    drawn(rows).save(desk.picture("figure2.svg"), overwrite=True)


if __name__ == "__main__":
    main()
