"""What tgonnx knows of each operator: one table per aspect, filled by decorators, one block per operator.

An operator's block stands in one file of this package and reads

    traits("Relu", ...)  facts that need no function: which inputs are weights, what it passes on (`traits.py`)
    @rule("Relu")        which labels live or die together (`relations.py`)
    @fixes("Conv")       which axis of its input meets a weight of one size
    @resize("Relu")      which stored sizes change when labels are removed
    @cost("Relu")        multiply-accumulates, as products of axis lengths
    @sums("ReduceSum")   over which axes it sums, and what becomes of the sum
    @gated("Relu")       statistics over the open channels only
    @gradient("Relu")    the vector-Jacobian product in standard operators
    @definition("LSTM")  the operator written in simpler ones, for training where its row does not reach
    @dims("Reshape")     sizes that depend on dynamic axes, where the standard's inference gives up
    @elements("Add")     single numbers of shape arithmetic
    @products("Conv")    the products that it sums, as rows times a matrix (`products.py`)
    @alone("SkipLayerNormalization", domain="com.microsoft")
                         what is left of it where one of two that met in its sum is left
    @sizes("Attention", domain="com.microsoft")
                         the shapes of its outputs, where onnx has no schema and we have no definition

Only `rule` is needed for an operator to be understood; an operator without one pins what touches it. Each table says
what its functions take and give, so that mypy refuses one of another signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tgonnx.graph.proto import STANDARD_DOMAINS

if TYPE_CHECKING:  # only names of types: what fills the tables imports what it needs
    from collections.abc import Iterator, Mapping

    from onnx import NodeProto

    from tgonnx.graph.algebra import Element
    from tgonnx.ops.aspects.asked import Asked, Claims
    from tgonnx.ops.aspects.cut import Cut
    from tgonnx.ops.aspects.gating import Gating
    from tgonnx.ops.aspects.products import Product
    from tgonnx.ops.aspects.relations import Relation, Term
    from tgonnx.ops.aspects.row import Grads, Outputs, Row, Shapes
    from tgonnx.ops.aspects.sums import Sum
    from tgonnx.ops.aspects.view import View

    Rule = Callable[[View], Iterator[Relation]]
    Fixes = Callable[[NodeProto, tuple[int, ...], int], tuple[int, int] | None]
    Resize = Callable[[View, Cut], None]
    Cost = Callable[[View], list[Term]]
    Sums = Callable[[View], Sum | None]
    Gated = Callable[[Gating], None]
    Gradient = Callable[[Row], Grads]
    Definition = Callable[[Row, int], Outputs | None]  # the opset; None where the operator is fine as it is
    Sizes = Callable[[Row], Shapes]
    Products = Callable[[NodeProto, Mapping[int, tuple[int, ...]]], Iterator[Product]]
    Alone = Callable[[NodeProto, str], list[NodeProto]]  # of a node, and the addend that is left
    Dims = Callable[[Asked], Claims | None]  # KeyError where the shape of an input is not known
    Elements = Callable[
        ..., Element | None
    ]  # of Asked and an element of each operand; of a reduction, of all

F = TypeVar("F", bound=Callable[..., Any])


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


rule: Table[Rule] = Table("rule")
fixes: Table[Fixes] = Table("fixes")  # of a node, the shape of input 1, and the rank of input 0: (axis, size)
resize: Table[Resize] = Table("resize")
cost: Table[Cost] = Table("cost")
sums: Table[Sums] = Table("sums")
gated: Table[Gated] = Table("gated")
gradient: Table[Gradient] = Table("gradient")
definition: Table[Definition] = Table("definition")
sizes: Table[Sizes] = Table("sizes")
dims: Table[Dims] = Table("dims")
elements: Table[Elements] = Table("elements")
alone: Table[Alone] = Table("alone")
products: Table[Products] = Table("products")  # of a node, and the shapes of inputs that are constant
TABLES: tuple[Table[Any], ...] = (
    rule,
    fixes,
    resize,
    cost,
    sums,
    gated,
    gradient,
    definition,
    sizes,
    dims,
    elements,
    products,
    alone,
)
