"""What the original says of each sample, kept on disk: it is asked once, not in every epoch.

What a network says of a sample can differ in the last bits with the samples beside it. So that a run that was stopped
finds the same bits when it goes on, the original is always asked in the same company: in the batches of the run's
first epoch, in which it is asked in any case. The file has no name and is gone with the run, however that ends.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from tgonnx.data.samples import Batch, Indices, Split
from tgonnx.graph.types import Array

Ask = Callable[[Batch], dict[str, Array]]  # the outputs of the original that are wanted, float32
Rows = dict[str, Array]  # by output, samples first


@dataclass
class AnswerCache:
    """The outputs of `ask` for the samples of `split`; `limit` bytes may be written.

    `size` and `seed` are those of the batches of the first phase that trains. `note` is told what prevents it from
    being kept.
    """

    split: Split
    ask: Ask
    size: int
    seed: int
    limit: int
    note: Callable[[str], None]
    blocks: list[Indices] = field(init=False)  # positions in the split
    block_of: npt.NDArray[np.intp] = field(init=False)  # [samples]
    row_of: npt.NDArray[np.intp] = field(init=False)  # [samples], within the block
    starts: list[int] = field(init=False, default_factory=list)  # of the blocks that are kept, in the file
    shapes: dict[int, dict[str, tuple[int, ...]]] = field(
        init=False, default_factory=dict
    )  # by part, of a sample
    file: BinaryIO | None = field(init=False, default=None)
    there: set[int] = field(init=False, default_factory=set)  # numbers of blocks
    ended: bool = field(init=False, default=False)  # nothing more can be written

    def __post_init__(self) -> None:
        self.blocks = self._blocks()
        self.block_of, self.row_of = np.zeros((2, len(self.split)), np.intp)
        for number, block in enumerate(self.blocks):
            self.block_of[block], self.row_of[block] = number, np.arange(len(block))
        try:
            self.file = tempfile.TemporaryFile(prefix="tgonnx-")  # noqa: SIM115 (it lives as long as this)
        except OSError as error:
            self._give_up(error)
            return
        weakref.finalize(self, self.file.close)
        self._lay_out()

    def outputs(self, batch: Batch) -> dict[str, Array]:
        """What the original says of a batch."""
        if batch.positions is None or not self.starts:
            return self.ask(batch)
        positions, axes = batch.positions, batch.axes
        for number in np.unique(self.block_of[positions]):
            if number < len(self.starts) and number not in self.there and not self.ended:
                self._fill(int(number), batch)
        kept = np.isin(self.block_of[positions], list(self.there))
        if not kept.any():
            return self.ask(batch)
        found = self._read(positions[kept])
        if not kept.all():
            rest = Batch(axes.take(batch.feeds, np.flatnonzero(~kept)), None, axes)
            found = _joined(found, self._rows(self.ask(rest)), kept)
        return {name: np.ascontiguousarray(axes.as_output(rows, name)) for name, rows in found.items()}

    def _blocks(self) -> list[Indices]:
        """All samples once: the batches of the first epoch, then what these leave out."""
        blocks = self.split.epoch(self.size, np.random.default_rng(self.seed))
        seen = np.zeros(len(self.split), bool)
        seen[np.concatenate(blocks)] = True
        return [*blocks, *self.split.pieces(np.flatnonzero(~seen), self.size)]

    def _lay_out(self) -> None:
        """Where blocks lie, as many as the limit allows; none if an output cannot be told apart by samples."""
        end = 0
        for block in self.blocks:
            part = self._part(block[0])
            if part not in self.shapes:
                rows = self._rows(self.ask(self.split.take(block)))
                if any(len(each) != len(block) for each in rows.values()):
                    self.starts.clear()
                    return
                self.shapes[part] = {name: each.shape[1:] for name, each in rows.items()}
            size = len(block) * self._bytes(part)
            if end + size > self.limit:
                return
            self.starts.append(end)
            end += size

    def _part(self, position: int) -> int:
        shape_of = self.split.samples.shape_of
        return 0 if shape_of is None else int(shape_of[self.split.indices[position]])

    def _bytes(self, part: int) -> int:
        """Of a sample."""
        return sum(4 * int(np.prod(shape)) for shape in self.shapes[part].values())

    def _rows(self, outputs: Mapping[str, Array]) -> Rows:
        """Outputs with samples first; of an output without an axis of samples, no rows."""
        found = {}
        for name, value in outputs.items():
            axis = self.split.axes.outputs.get(name, 0)
            has_samples = axis is not None and value.ndim > axis
            found[name] = np.moveaxis(value, axis or 0, 0) if has_samples else np.zeros((0,), np.float32)
        return found

    def _fill(self, number: int, batch: Batch) -> None:
        """Ask for a block, which may be the batch, and write it down, a sample after the other."""
        assert self.file is not None
        block = self.blocks[number]
        same = batch.positions is not None and np.array_equal(block, batch.positions)
        rows = self._rows(self.ask(batch if same else self.split.take(block)))
        flat = [np.ascontiguousarray(each, np.float32).reshape(len(block), -1) for each in rows.values()]
        try:
            self.file.seek(self.starts[number])
            self.file.write(np.concatenate(flat, 1).tobytes())
            self.file.flush()
        except OSError as error:
            self._give_up(error)
            return
        self.there.add(number)

    def _read(self, positions: Indices) -> Rows:
        assert self.file is not None
        part = self._part(positions[0])
        size, shapes = self._bytes(part), self.shapes[part]
        lines = np.empty((len(positions), size // 4), np.float32)
        for line, position in zip(lines, positions, strict=True):
            self.file.seek(self.starts[self.block_of[position]] + int(self.row_of[position]) * size)
            line[:] = np.frombuffer(self.file.read(size), np.float32)
        found, start = {}, 0
        for name, shape in shapes.items():
            end = start + int(np.prod(shape))
            found[name] = lines[:, start:end].reshape(len(positions), *shape)
            start = end
        return found

    def _give_up(self, error: OSError) -> None:
        """From now on nothing more is kept."""
        self.note(f"what the original says is not kept, but asked for in each step: {error.strerror}")
        self.ended = True


def _joined(kept: Rows, asked: Rows, is_kept: npt.NDArray[np.bool_]) -> Rows:
    """Rows of two origins in the order of the batch."""
    found = {}
    for name, rows in kept.items():
        found[name] = np.empty((len(is_kept), *rows.shape[1:]), np.float32)
        found[name][is_kept], found[name][~is_kept] = rows, asked[name]
    return found
