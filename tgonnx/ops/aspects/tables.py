"""What tgonnx knows of each operator: one table per aspect, filled by decorators, one block per operator.

An operator's block stands in one file of this package and reads

    @rule("Relu")        which labels live or die together (tgonnx.labels)
    @resize("Relu")      which stored sizes change when labels are removed
    @cost("Relu")        multiply-accumulates, as products of axis lengths
    @gated("Relu")       statistics over the open channels only
    @gradient("Relu")    the vector-Jacobian product in standard operators (tgonnx.autodiff)
    @definition("LSTM")  the operator written in simpler ones, for training where its row does not reach
    @sizes("Attention", domain="com.microsoft")
                         the shapes of its outputs, where onnx has no schema and we have no definition

Only `rule` is needed for an operator to be understood; an operator without one pins what touches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

STANDARD_DOMAINS = ("", "ai.onnx")


class Table(Generic[F]):
    """One aspect of all operators, keyed by (domain, op_type)."""

    def __init__(self, aspect: str) -> None:
        self.aspect = aspect
        self._entries: dict[tuple[str, str], F] = {}

    def __call__(self, *op_types: str, domain: str = "") -> Callable[[F], F]:
        """Register the decorated function for `op_types`. Raises ValueError for a second registration."""

        def register(function: F) -> F:
            for op_type in op_types:
                key = (domain, op_type)
                if key in self._entries:
                    raise ValueError(f"two {self.aspect} entries for {op_type}")
                self._entries[key] = function
            return function

        return register

    def get(self, op_type: str, domain: str | None = "") -> F | None:
        """The entry of an operator, or None."""
        domain = "" if not domain or domain in STANDARD_DOMAINS else domain
        return self._entries.get((domain, op_type))

    def op_types(self) -> list[str]:
        """The registered operators, sorted; other domains as `domain::op_type`."""
        return sorted(f"{domain}::{name}" if domain else name for domain, name in self._entries)


rule: Table[Callable[..., Any]] = Table("rule")
resize: Table[Callable[..., Any]] = Table("resize")
cost: Table[Callable[..., Any]] = Table("cost")
gated: Table[Callable[..., Any]] = Table("gated")
gradient: Table[Callable[..., Any]] = Table("gradient")
definition: Table[Callable[..., Any]] = Table("definition")
sizes: Table[Callable[..., Any]] = Table("sizes")
