"""One model and the sessions that it runs in, optimised and not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray

from tgonnx.errors import ModelError
from tgonnx.runtime.child import Stage
from tgonnx.runtime.sessions import Feeds, Session, open_session, serialised


class Runner:
    """A model to run; `stage` is told what is about to happen, so that a crash can be placed.

    Shapes in `avoid` ended the process before: the model does not run with them.
    """

    def __init__(
        self, model: onnx.ModelProto, name: str, stage: Stage, avoid: frozenset[str] = frozenset()
    ) -> None:
        self.model, self.name, self._stage, self._avoid = model, name, stage, avoid

    @cached_property
    def data(self) -> bytes | None:
        """The model serialised, for both sessions."""
        return serialised(self.model)

    @cached_property
    def optimised(self) -> Session:
        self._stage(f"loading {self.name}")
        return open_session(self.model, exact=True, data=self.data)

    @cached_property
    def plain(self) -> Session | None:
        """Without optimisations; None where the runtime needs them, or another one is used."""
        self._stage(f"loading {self.name}, not optimised")
        if self.by_reference:
            return None
        session = open_session(self.model, exact=True, optimised=False, data=self.data)
        del self.data  # the last that needed it
        return None if session.ran_by.startswith("onnx ") else session

    @property
    def by_reference(self) -> bool:
        return self.optimised.ran_by.startswith("onnx ")

    def use_reference(self) -> None:
        """Run by onnx's own evaluator."""
        self.__dict__["optimised"] = open_session(self.model, portable=True)
        self.__dict__["plain"] = None

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
