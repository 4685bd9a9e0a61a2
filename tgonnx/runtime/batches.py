"""Batches of inputs that are made when they are asked for, the same ones each time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

from tgonnx.runtime.sessions import Feeds


class Batches(Sequence[Feeds]):
    """A sequence that holds no batch: `make` makes the one of a number below `len`."""

    @abstractmethod
    def make(self, index: int) -> Feeds:
        """The batch of this number."""

    @overload
    def __getitem__(self, index: int) -> Feeds: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feeds]: ...
    def __getitem__(self, index: int | slice) -> Feeds | list[Feeds]:
        places = range(len(self))[index]  # IndexError as of any sequence
        return self.make(places) if isinstance(places, int) else [self.make(place) for place in places]
