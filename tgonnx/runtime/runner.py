"""One model and the sessions that it runs in, optimised and not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray

from tgonnx.errors import ModelError
from tgonnx.runtime.child import Stage
from tgonnx.runtime.heap import give_back
from tgonnx.runtime.sessions import Feeds, Session, open_session
from tgonnx.runtime.shelf import shelves


class Runner:
    """A model to run; `stage` is told what is about to happen, so that a crash can be placed.

    Shapes in `avoid` ended the process before: the model does not run with them. `gated`: see `How`.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        name: str,
        stage: Stage,
        avoid: frozenset[str] = frozenset(),
        gated: bool = False,
    ) -> None:
        self.disabled = ("ConstantFolding",) if gated and shelves(model) else ()
        self.model, self.name, self._stage, self._avoid = model, name, stage, avoid

    @cached_property
    def optimised(self) -> Session:
        self._stage(f"loading {self.name}")
        return open_session(self.model, exact=True, disabled=self.disabled)

    @cached_property
    def plain(self) -> Session | None:
        """Without optimisations; None where the runtime needs them, or another one is used."""
        self._stage(f"loading {self.name}, not optimised")
        if self.by_reference:
            return None
        session = open_session(self.model, exact=True, optimised=False)
        return None if session.ran_by.startswith("onnx ") else session

    @cached_property
    def by_reference(self) -> bool:
        """Whether onnx's own evaluator runs it."""
        return self.optimised.ran_by.startswith("onnx ")

    def close(self) -> None:
        """Give back the memory of the sessions; they are opened again where they are needed."""
        if not self.by_reference:  # which has none of its own
            for name in ("optimised", "plain"):
                self.__dict__.pop(name, None)
            if shelves(self.model):
                give_back()

    def use_reference(self) -> None:
        """Run by onnx's own evaluator."""
        self.__dict__["optimised"] = open_session(self.model, portable=True)
        self.__dict__["plain"], self.__dict__["by_reference"] = None, True

    def run(self, session: Session, feeds: Mapping[str, NDArray[Any]]) -> Feeds:
        shown = describe_feeds(feeds)
        if shown in self._avoid:
            raise ModelError(f"the runtime crashes with {shown}")
        self._stage(f"{running(self.name)}{shown}")
        return session.run(feeds)

    def takes(self, feeds: Mapping[str, NDArray[Any]]) -> bool:
        """Whether it runs on these inputs."""
        try:
            self.run(self.optimised, feeds)
        except ModelError:
            return False
        return True


def running(name: str) -> str:
    """What the child is about when it runs the model of this name; the shapes follow."""
    return f"running {name} with "


def describe_feeds(feeds: Mapping[str, NDArray[Any]]) -> str:
    """The shapes of inputs, as `x:1x3x64x96`; of a few."""
    return describe_shapes({name: value.shape for name, value in feeds.items()})


def describe_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Shapes by name, as `x:1x3x64x96`; a few of them."""
    parts = [f"{name}:{'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items()]
    return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
