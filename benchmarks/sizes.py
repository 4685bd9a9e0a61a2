"""How much is known of the sizes in a folder of graphs, and what it costs: python benchmarks/sizes.py FOLDER.

For each graph: axes of all values that are a number for all inputs, those that are a polynomial in dynamic axes of the
inputs, and those that are not known (an atom of their own); claims that a sweep contradicted; CPU seconds of the two
sweeps and of the walk that follows sizes. Exits 1 if a claim was contradicted.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import onnx
from tables import graphs

from tgonnx.analysis.bindings import axis_keys, rebind
from tgonnx.analysis.bindings import bind as bound
from tgonnx.analysis.symbolic import Symbols, follow
from tgonnx.graph.algebra import Size
from tgonnx.loading import load


def unknown(symbols: Symbols) -> int:
    keys = (symbols.algebra.lone(size) for sizes in symbols.dims.values() for size in sizes)
    return sum(isinstance(key, tuple) and key[0] == "axis" for key in keys)


def main() -> int:
    totals = [0, 0, 0, 0, 0.0, 0.0]
    print("| graph | numbers | polynomials | unknown | contradicted | sweeps s | walk s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, path in graphs(Path(sys.argv[1])):
        proto = load(onnx.load(path)).proto
        bindings = bound(proto, {})
        start = time.process_time()
        first, second = rebind(proto, bindings)
        swept = time.process_time()
        symbols = follow(proto, first.swept, second.swept, axis_keys(proto))
        walked = time.process_time()
        sizes = [size for axes in symbols.dims.values() for size in axes]
        numbers, open_ones = sum(not isinstance(size, Size) for size in sizes), unknown(symbols)
        row = [numbers, len(sizes) - numbers - open_ones, open_ones, len(symbols.dropped)]
        times = [swept - start, walked - swept]
        totals = [a + b for a, b in zip(totals, [*row, *times], strict=True)]
        print(f"| {name} | {' | '.join(map(str, row))} | {times[0]:.2f} | {times[1]:.2f} |", flush=True)
    counts, times = " | ".join(map(str, totals[:4])), " | ".join(f"{t:.1f}" for t in totals[4:])
    print(f"| all | {counts} | {times} |")
    return 1 if totals[3] else 0


if __name__ == "__main__":
    sys.exit(main())
