"""Do two models promise the same and compute the same?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.errors import UsageError
from tgonnx.graph.declared import describe_type, model_inputs
from tgonnx.graph.proto import opset_of
from tgonnx.io.hollow import Hollow
from tgonnx.io.named_sizes import named_sizes
from tgonnx.io.summary import Shown, Summary, left_out
from tgonnx.options import VERIFY_SECONDS
from tgonnx.runtime.child import Crash, ask
from tgonnx.runtime.comparison import Finding, How, compare
from tgonnx.runtime.feeds import Drawer
from tgonnx.runtime.known_part import known_part, unknown_operators
from tgonnx.runtime.options import RTOL
from tgonnx.runtime.runner import running
from tgonnx.runtime.sessions import Feeds, Session
from tgonnx.runtime.trial_sizes import Size, Trials

_CRASHES = 30  # sizes at which the runtime may crash before it is given up
SHOWN = 3  # reasons of a check that are printed with it
CURE = "give real inputs with --data"


@dataclass(frozen=True, repr=False)
class Check(Shown):
    """The result of `verify`.

    `max_abs` is the largest |a - b| over all outputs and samples. `max_rel` is the largest |a - b| in terms of the
    magnitude of its channel (see `tgonnx.runtime.measure`), or of the magnitude that measured rounding noise allows
    for; `tolerance` is what it was held against. `reasons` say in words why `ok` is False; `inconclusive` says what
    the inputs could not tell, which is also not ok. `sizes` were tried, `skipped` were not, for want of time.
    `ran_by` names the runtimes; each model ran with optimisations and without. `up_to` lists operators that no
    runtime here has: what they read was compared, what they make was not.
    """

    max_abs: float
    max_rel: float
    tolerance: float
    samples: int
    ran_by: str
    reasons: tuple[str, ...] = ()
    inconclusive: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    up_to: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the models are known to agree, in contract and in numbers."""
        return not self.reasons and not self.inconclusive

    @property
    def verdict(self) -> str:
        """equal, different or inconclusive."""
        return "different" if self.reasons else "inconclusive" if self.inconclusive else "equal"

    @property
    def complaint(self) -> str:
        """Why the check is not ok, on one line, with the cure; empty if it is."""
        if self.reasons:
            return self.reasons[0]
        return f"inconclusive: {self.inconclusive[0]}; {CURE}" if self.inconclusive else ""

    def summary(self) -> Summary:
        """The verdict, what it rests on, and why it is not equal."""
        tried = ", ".join(self.sizes[:4]) + (", ..." if len(self.sizes) > 4 else "")
        facts = [
            (
                "difference",
                f"{self.max_rel:.1e} relative (at most {self.tolerance:.0e}), {self.max_abs:.1e} absolute",
            ),
            (
                "compared",
                f"{self.samples} samples at {len(self.sizes)} sizes: {tried}" if tried else "no samples",
            ),
            ("run by", self.ran_by or "nothing"),
        ]
        facts += [("different", reason) for reason in self.reasons[:SHOWN]]
        facts += [("inconclusive", doubt) for doubt in self.inconclusive[:SHOWN]]
        if self.skipped:
            facts.append(("not tried", f"{len(self.skipped)} sizes, for want of time"))
        if self.up_to:
            facts.append(("up to", ", ".join(self.up_to)))
        rest = max(len(self.reasons) - SHOWN, 0) + max(len(self.inconclusive) - SHOWN, 0)
        return Summary(f"Check: {self.verdict}", facts, left_out=left_out(rest, "reasons"))


def verify(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    feeds: Iterable[Mapping[str, NDArray[Any]]] | None = None,
    samples: int | None = None,
    seed: int = 0,
    rtol: float = RTOL,
    sizes: Mapping[str, int] | None = None,
    seconds: float = VERIFY_SECONDS,
) -> Check:
    """Compare inputs, outputs and opset of two models, then their outputs on the same inputs.

    `feeds` are the inputs to use. Without them, or if `samples` is given, there are `samples` (1) random ones at each
    of a list of sizes: batch 1, 3, 2 and 5, height different from width, odd lengths, as far as `a` runs there; axes by
    name from `sizes`. `seconds` bounds the list, but for its first two sizes.

    Raises `UnsupportedError` if no runtime takes a model, `ModelError` if the first fails on the inputs,
    `UsageError` for no samples.
    """
    if samples is not None and samples < 1:
        raise UsageError("samples must be at least 1")
    reasons = contract_differences(a, b)
    if any("input" in reason for reason in reasons):
        return Check(float("inf"), float("inf"), rtol, 0, "", reasons)
    given = () if feeds is None else tuple({k: np.asarray(v) for k, v in item.items()} for item in feeds)
    how = How(
        names=("the first", "the second"),
        feeds=given,
        random=feeds is None or samples is not None,
        samples=samples or 1,
        seed=seed,
        rtol=rtol,
        sizes=tuple((sizes or {}).items()),
        seconds=seconds,
    )
    return judged(a, b, how, reasons)


def judged(
    a: onnx.ModelProto | Hollow, b: onnx.ModelProto | Hollow, how: How, reasons: Sequence[str] = ()
) -> Check:
    """The numbers of two models, which may be hollow, compared in the child process.

    A crash there is a reason, or a doubt if it is the reference that crashes. Raises as `verify` does.
    """
    first, second = Hollow.of(a), Hollow.of(b)
    unknown = unknown_operators(first)
    parts = [replace(each, proto=known_part(each.proto, unknown)) for each in (first, second)]
    found = _found(parts[0], parts[1], how)
    return Check(
        found.max_abs,
        found.max_rel,
        how.rtol,
        found.samples,
        ", ".join(found.ran_by),
        (*reasons, *found.reasons),
        tuple(dict.fromkeys(found.doubts)),
        tuple(found.sizes),
        tuple(found.skipped),
        tuple(sorted(f"{op_type} ({domain or 'ai.onnx'})" for domain, op_type in unknown)),
    )


def _found(a: Hollow, b: Hollow, how: How) -> Finding:
    """What the child finds.

    Shapes with which the reference ends it are not among those at which the reference runs; those with which the
    system ends it, for want of memory, say nothing of either.
    """
    skipped: dict[str, str] = {}
    first, second = (running(name) for name in how.names)
    while True:
        try:
            found: Finding = ask(compare, a, b, replace(how, avoid=how.avoid | frozenset(skipped)))
        except Crash as crash:
            of_first, of_second = crash.stage.startswith(first), crash.stage.startswith(second)
            if (of_first or (of_second and crash.killed)) and len(skipped) < _CRASHES:
                shapes = crash.stage.removeprefix(first if of_first else second)
                skipped[shapes] = "memory was too short" if crash.killed else "the runtime crashes"
                continue
            found = Finding(float("inf"), float("inf"))
            of_other = of_second or crash.stage.startswith(f"loading {how.names[1]}")
            (found.reasons if of_other else found.doubts).append(str(crash))
        found.skipped += [f"{shapes}: {why}" for shapes, why in skipped.items()]
        return found


def runnable_feeds(
    model: onnx.ModelProto,
    session: Session,
    samples: int = 1,
    seed: int = 0,
    batch: int = 2,
    sizes: Mapping[str, int] | None = None,
) -> list[Feeds]:
    """Random inputs of a size that the model runs at: 64 pixels or 8 steps if it can, else what it takes.

    Raises what the first size raised if none works.
    """
    drawer, rng = Drawer(model), np.random.default_rng(seed)
    start = Size(batch, named=tuple((sizes or {}).items()))

    def run(size: Size) -> None:
        session.run(drawer.draw(size, rng))

    trials = Trials(drawer.inputs, run, start, named=named_sizes(model))
    size = start if trials.works(start) else next(trials.sizes())
    return [drawer.draw(size, rng) for _ in range(samples)]


def contract_differences(a: onnx.ModelProto, b: onnx.ModelProto) -> tuple[str, ...]:
    """Where the promises of two models differ: inputs, outputs, their types and axes, the standard opset."""
    pairs = (
        ("input", model_inputs(a), model_inputs(b)),
        ("output", list(a.graph.output), list(b.graph.output)),
    )
    reasons = []
    for kind, ours, theirs in pairs:
        names, others = [value.name for value in ours], [value.name for value in theirs]
        if names != others:
            reasons.append(f"{kind}s differ: {', '.join(names)} against {', '.join(others)}")
            continue
        for x, y in zip(ours, theirs, strict=True):
            if describe_type(x) != describe_type(y):
                reasons.append(f"{kind} {x.name!r} differs: {describe_type(x)} against {describe_type(y)}")
    if opset_of(a) != opset_of(b):
        reasons.append(f"opset differs: {opset_of(a)} against {opset_of(b)}")
    return tuple(reasons)
