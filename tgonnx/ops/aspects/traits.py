"""Facts about operators that need no function: what analysis, checks and training ask of them by name.

They stand in the operator's block, beside its rule, as `traits("Gather", are=Traits(carries=(0,), moves=True))`. What
is not said of an operator is not so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol

from tgonnx.graph.proto import STANDARD_DOMAINS

EACH = (-1,)  # every input, however many there are


@dataclass(frozen=True)
class Traits:
    """What is so of an operator. Inputs are given by their positions, or as `EACH`."""

    # --- what its inputs are
    weights: tuple[int, ...] = ()  # where it keeps what is learned
    sizes: tuple[int, ...] = ()  # how large an output is, or how often something is done
    sizes_follow: bool = False  # the inputs in `sizes` may be computed from a size that a cut changes
    looks_up: tuple[tuple[int, int], ...] = ()  # (indices, the table whose rows they name)
    set_up: bool = False  # inputs behind the first say how to compute: exponents, bounds, scales of images

    # --- what it passes on
    carries: tuple[
        int, ...
    ] = ()  # inputs whose elements stand in its outputs as they are: an index stays one
    moves: bool = False  # its one output holds nothing but elements of the inputs that it `carries`
    rearranges: bool = False  # its output holds the elements of input 0, each once
    permutes: bool = False  # its output has the axes of input 0, in the order of the attribute `perm`
    elementwise: bool = False  # each element by itself; inputs broadcast
    keeps_shape: bool = False  # output 0 has the type and the shape of input 0
    proportional: bool = False  # what its input is times n, its output is too, but for small numbers added
    reduces: bool = False  # it makes one number of all along its axes
    statistics: tuple[
        int, ...
    ] = ()  # inputs that are averages over the data of training: mean, then variance

    # --- its arithmetic
    addends: tuple[int, ...] = ()  # inputs that meet in a sum
    sum_at: int = 0  # the output, of the shape of the first, that is this sum where output 0 is made of it
    plus: int = 0  # 1: it adds its inputs; -1: it takes the second from the first
    joins: Literal["", "sum", "mean"] = (
        ""  # it makes one of all its inputs, none of which is another than the rest
    )
    joins_along: bool = False  # it puts its inputs beside one another along the attribute `axis`
    times: int = 0  # 1: it multiplies its inputs; -1: it divides the first by the second
    power: float = 1.0  # it takes its input to this power
    raises: bool = False  # it takes its first input to the power that the second is
    compares: bool = False  # it says where its inputs are equal

    # --- what its outputs are like
    reads_sizes: Literal["", "axes", "elements"] = ""  # they depend on the sizes of its input alone
    grows: bool = False  # they may be larger than all inputs, by the value of one
    converts: bool = False  # they are of the type that the attribute `to` says
    rounds: bool = False  # they jump where inputs pass a threshold
    quantizes: bool = False  # they are rounded to the steps of a scale
    random: bool = False  # they are drawn anew in each run

    # --- training
    stops: bool = False  # piecewise constant, or no numbers: gradients end here
    advice: str = ""  # what to do where its missing gradient is in the way
    common: bool = False  # in nearly every model, so that its gradient is the last to be suspected
    native_gradient: bool = False  # onnxruntime-training's own is right and fast

    # --- where it is known
    in_runtime: bool = (
        False  # onnxruntime has it in the standard's domain in opsets in which the standard has not
    )
    defined_by_loop: bool = False  # the standard's definition is a loop, which inference does not see through
    compiled: bool = False  # what onnxruntime made of other operators for one device


class Named(Protocol):
    """A node of the file or of the analysed model."""

    @property
    def op_type(self) -> str: ...
    @property
    def domain(self) -> str: ...


TRAITS: dict[tuple[str, str], Traits] = {}
_PLAIN = Traits()


def traits(*op_types: str, are: Traits, domain: str = "") -> None:
    """Say what is so of some operators, beside what was said before. Raises ValueError for what was said already."""
    new = {f.name: value for f in fields(are) if (value := getattr(are, f.name)) != f.default}
    for op_type in op_types:
        known = TRAITS.get((domain, op_type), _PLAIN)
        if twice := [name for name in new if getattr(known, name) != getattr(_PLAIN, name)]:
            raise ValueError(f"{op_type}: {', '.join(twice)} was said before")
        TRAITS[domain, op_type] = replace(known, **new)


def traits_of(node: Named) -> Traits:
    """What is so of a node's operator."""
    return traits_named(node.op_type, node.domain)


def traits_named(op_type: str, domain: str = "") -> Traits:
    """What is so of an operator."""
    return TRAITS.get(("" if domain in STANDARD_DOMAINS else domain, op_type), _PLAIN)


def picked(names: Sequence[str], places: tuple[int, ...]) -> list[str]:
    """Those of a node's inputs that stand at `places`, without those that are left out."""
    found = names if places == EACH else [names[i] for i in places if i < len(names)]
    return [name for name in found if name]
