"""Two models run side by side at many sizes: what `tgonnx.runtime.equivalence` does in a child process.

The first model is the reference: sizes are those at which it runs. Both run on the same inputs, with the runtime's
optimisations and without, one session after another: their outputs are kept, and not their weights.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tgonnx.errors import ModelError, UnsupportedError, UsageError
from tgonnx.io.hollow import Hollow, filled
from tgonnx.runtime.child import Stage
from tgonnx.runtime.feeds import STYLES, Drawer
from tgonnx.runtime.heap import give_back
from tgonnx.runtime.known_part import makers_of, outputs_before
from tgonnx.runtime.measure import Difference, Noise, different, epsilon, measure
from tgonnx.runtime.noise import HALF_STEP, TWIN, reached_from, shaken_feeds, stepping_outputs, twin
from tgonnx.runtime.runner import Runner, describe_feeds
from tgonnx.runtime.sessions import Feeds, Session, open_session
from tgonnx.runtime.shelf import opened, own_shelf, shelves
from tgonnx.runtime.trial_inputs import TrialInputs
from tgonnx.runtime.trial_sizes import Size

NOTHING_FINITE = "has no finite value on all inputs tried"
_FINE_TWINS, _COARSE_TWINS = 4, 2
_BEFORE = 4  # nodes back from an output that is one number
_ALWAYS = 2  # sizes that are tried whatever the time: batch 1 and 3
_FIRST = 0.4  # of the time is for the optimised reference, which makes two of the five runs on each input
_WIDENING = tuple(2.0**-bits for bits in (20, 18, 16, 14, 12, 10, 8))  # of all weights and inputs
_COARSEST = (
    4.0  # epsilons: the largest step that rounding makes of numbers that are made from numbers about one
)
RUNS_APART = 1e-2  # relative; what threads may change from run to run is far less


@dataclass(frozen=True)
class How:
    """How to compare two models, the first being the reference; `names` say what they are.

    `feeds` are the inputs of the user. With `random`, there are `samples` random ones for each size, too, axes by
    name from `sizes`; `known` sizes are tried with those listed, `seconds` bounds the list. With shapes
    in `avoid`, the reference ends the process. Models of names in `gated` make their weights from stored ones: from
    large ones whenever they run, as all at once would be a copy.
    """

    names: tuple[str, str]
    feeds: tuple[Feeds, ...] = ()
    random: bool = True
    samples: int = 1
    seed: int = 0
    rtol: float = 1e-4
    sizes: tuple[tuple[str, int], ...] = ()
    known: tuple[Size, ...] = ()
    seconds: float = 120.0
    avoid: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()


@dataclass
class Finding:
    """What came out. `reasons` say what differs, `doubts` what cannot be told."""

    max_abs: float = 0.0
    max_rel: float = 0.0
    noise: float = 0.0
    samples: int = 0
    reasons: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    ran_by: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)

    def note(self, found: Difference, where: str = "", how: str = "") -> None:
        """Keep the worst, and one reason for each output."""
        self.max_abs, self.max_rel = max(self.max_abs, found.absolute), max(self.max_rel, found.relative)
        if found.reason and not any(reason.startswith(where or found.reason) for reason in self.reasons):
            self.reasons.append(f"{where}{found.reason}{how}")


def compare(stage: Stage, a: onnx.ModelProto | Hollow, b: onnx.ModelProto | Hollow, how: How) -> Finding:
    """Compare; `stage` is called with what is about to run, so that a crash can be placed.

    Where an output is one number on all inputs (all classes are equally likely), what stands before it is compared in
    its place, if both models make the output from it in the same way.
    """
    models = [filled(a), filled(b)]
    finding = _compared(stage, models[0], models[1], how)
    for _ in range(_BEFORE):
        if not finding.constant or finding.reasons:
            break
        before = [makers_of(model, finding.constant) for model in models]
        if before[0] != before[1] or None in before[0].values():
            break
        models = [outputs_before(model, finding.constant) for model in models]
        again = _compared(stage, models[0], models[1], how)
        if again.reasons and all(" shape " in reason for reason in again.reasons):
            break  # what stands before was cut
        finding = again
    return finding


def _compared(stage: Stage, a: onnx.ModelProto, b: onnx.ModelProto, how: How) -> Finding:
    finding = Finding()
    gated = [name in how.gated for name in how.names]
    reference = Runner(a, how.names[0], stage, how.avoid, gated[0])
    other = Runner(b, how.names[1], stage, gated=gated[1])
    pair = _Pair(reference, other, how.rtol, finding)
    for feeds in _inputs(reference, how, finding):
        finding.samples += 1
        pair.see(feeds)
    if not finding.samples:
        raise UsageError("nothing to verify with: no inputs were given")
    try:
        pair.judge()
    except _OnlyOne as error:
        finding.note(different(str(error)))
        return finding
    pair.conclude(how.random and not how.feeds, how.seed)
    return finding


class _OnlyOne(Exception):
    """A runtime takes the reference, but not the other."""


def _inputs(reference: Runner, how: How, finding: Finding) -> Iterator[Feeds]:
    """The user's inputs, then random ones at each size at which the reference runs, until the time is over."""
    for feeds in how.feeds:
        if how.random and not reference.takes(feeds):  # the batches were our choice
            finding.skipped.append(f"{describe_feeds(feeds)}: {reference.name} does not run")
            continue
        finding.sizes.append(describe_feeds(feeds))
        yield feeds
    if not how.random:
        return
    end = time.monotonic() + _FIRST * how.seconds
    search = TrialInputs(reference, Size(named=how.sizes), how.known, how.seed, how.seconds)
    try:
        seen: dict[str, Size] = {}
        for size in search.trials.sizes():
            shown = describe_feeds(search.feeds[size])
            if shown in seen:
                continue
            if len(seen) >= _ALWAYS and time.monotonic() > end:
                finding.skipped += [shown, *map(search.describe, search.trials.left())]
                break
            seen[shown] = size
            finding.sizes.append(shown)
            yield from search.samples(size, how.samples)
        yield from search.more(list(seen.values())[-1], len(STYLES) - search.drawn)
    except (ModelError, UnsupportedError) as error:
        if not finding.sizes:
            raise
        finding.skipped.append(f"random inputs: {error}")


# --- comparing --------------------------------------------------------------------------------------


class _Pair:
    """The reference and the other: what they differ by, and whether that could be told."""

    def __init__(self, reference: Runner, other: Runner, rtol: float, finding: Finding) -> None:
        self.reference, self.other, self.rtol, self.finding = reference, other, rtol, finding
        finding.ran_by += [by for by in [reference.optimised.ran_by] if by not in finding.ran_by]
        self.spread: dict[str, _Spread] = defaultdict(_Spread)
        self.seen: list[_NoiseSource] = []
        self.kept: dict[str, tuple[Feeds, Feeds]] = {}
        self._twins: dict[tuple[int, float | None], Session] = {}

    def see(self, feeds: Feeds) -> None:
        """Run the reference on some inputs. Raises `ModelError` if it does not run on them."""
        want = self.reference.run(self.reference.optimised, feeds)
        again = want if self.kept else self.reference.run(self.reference.optimised, feeds)
        for name, value in want.items():
            self.spread[name].add(value)
            if measure(value, again[name], RUNS_APART).reason:
                self.spread[name].random = True
        for by, extent in _EXTENTS.items():  # what is short may not reach the outputs
            largest = by not in self.kept or extent(feeds) >= extent(self.kept[by][0])
            if not self.kept or (largest and any(map(_tells, want.values()))):
                self.kept[by] = (feeds, want)
        self.seen.append(_NoiseSource(self, feeds, want))

    def judge(self) -> None:
        """Compare on all inputs seen. Raises `_OnlyOne`."""
        reference, other = self.reference, self.other
        ran_by = reference.optimised.ran_by
        reference.close()
        if reference.plain is not None:
            for noise in self.seen:
                noise.know_plain(self._plain(noise.feeds))
        reference.close()
        if reference.by_reference:
            other.use_reference()
        elif other.by_reference:
            raise _OnlyOne(f"{ran_by} takes {reference.name}, but not {other.name}")
        found = [self._run(other.optimised, noise) for noise in self.seen]
        other.close()
        for noise, got in zip(self.seen, found, strict=True):
            self._judge(got, noise, noise.want, "")
        plain = [noise for noise in self.seen if noise.plain is not None]
        if plain and other.plain is None:
            self.finding.note(different(f"only {reference.name} runs without optimisations"))
            return
        found = [self._run(other.plain, noise) for noise in plain if other.plain is not None]
        other.close()
        for noise, got in zip(plain, found, strict=True):
            assert noise.plain is not None
            self._judge(got, noise, noise.plain, " (not optimised)")

    def _plain(self, feeds: Feeds) -> Feeds | None:
        if self.reference.plain is None:
            return None
        try:
            return self.reference.run(self.reference.plain, feeds)
        except ModelError:  # some operators run in their optimised form only
            return None

    def _run(self, session: Session, noise: _NoiseSource) -> Feeds | ModelError:
        try:
            return self.other.run(session, noise.feeds)
        except ModelError as error:
            return error

    def _judge(self, got: Feeds | ModelError, noise: _NoiseSource, want: Feeds, how: str) -> None:
        if isinstance(got, ModelError):
            self.finding.note(different(f"only {self.reference.name} runs: {got}"))
            return
        for mine, others in zip(want, got, strict=False):
            found = measure(want[mine], got[others], self.rtol, noise.of(mine))
            self.spread[mine].told |= not found.blind
            self.finding.note(found, f"output {mine!r}: ", how)

    @cached_property
    def stepping(self) -> set[str]:
        return stepping_outputs(self.reference.model)

    def twin_runs(self, asking: _NoiseSource, seed: int, relative: float | None) -> list[Feeds]:
        """What one of the reference's twins puts out, twice, on the inputs of the one who asks, which are off, too.

        The session of a twin of large weights is not kept, so that it runs on all inputs seen.
        """
        key, model = (seed, relative), self.reference.model
        if not shelves(model):
            if key not in self._twins:
                self._twins[key] = self._open(twin(model, seed, relative))
            return asking.run_off(self._twins[key], seed, relative)
        if key not in asking.by_twin:
            with own_shelf(TWIN) as shelf:
                other = twin(model, seed, relative, shelf)
                if shelf is not None:
                    opened(shelf, TWIN)
                    give_back()
                session = self._open(other)
                for noise in self.seen:
                    noise.by_twin[key] = noise.run_off(session, seed, relative)
                del session
            give_back()
        return asking.by_twin[key]

    def _open(self, model: onnx.ModelProto) -> Session:
        portable = self.reference.by_reference
        return open_session(model, exact=not portable, portable=portable, disabled=self.reference.disabled)

    def conclude(self, judge_inputs: bool, seed: int) -> None:
        """Note what could not be told from the inputs that were tried."""
        model = self.reference.model
        drawn = reached_from(model, [value.name for value in model.graph.input])
        for name, spread in self.spread.items():
            if name in drawn and (doubt := spread.doubt):
                self.finding.doubts.append(f"output {name!r} of {self.reference.name} {doubt}")
                if spread.is_one_number:
                    self.finding.constant.append(name)
        if judge_inputs and self.kept:
            self._judge_inputs(seed)

    def _judge_inputs(self, seed: int) -> None:
        """Note the inputs that change nothing, though the outputs depend on them."""
        drawer, rng = Drawer(self.reference.model), np.random.default_rng(seed)
        feeds, want = next(iter(self.kept.values()))
        if len(feeds) < 2:
            return  # if it changed nothing, the outputs would be constant
        for name in feeds:
            if not reached_from(self.reference.model, [name]) & set(want):
                continue
            if not any(self._changes(drawer, name, rng, *kept) for kept in self.kept.values()):
                self.finding.doubts.append(
                    f"input {name!r} of {self.reference.name} changes nothing at the values tried"
                )

    def _changes(
        self, drawer: Drawer, name: str, rng: np.random.Generator, feeds: Feeds, want: Feeds
    ) -> bool:
        for style in ("wide", "normal", "unit", "wide"):  # large values show a clip, small ones no saturation
            changed = drawer.redraw(name, feeds, rng, style)
            try:
                got = self.reference.run(self.reference.optimised, changed)
            except ModelError:  # another value is another size, for one
                return True
            if any(not _same(got[key], value) for key, value in want.items()):
                return True
        return False


_EXTENTS: dict[str, Callable[[Feeds], int]] = {
    "elements": lambda feeds: sum(value.size for value in feeds.values()),
    "length": lambda feeds: sum(max(value.shape, default=0) for value in feeds.values()),
}  # a long sample reaches further than many short ones


def _tells(value: NDArray[Any]) -> bool:
    """Whether an output holds anything but NaN and infinity."""
    return value.dtype.kind != "f" or bool(np.isfinite(value).any())


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=b.dtype.kind == "f")


class _NoiseSource:
    """The noise of the reference on some inputs, worked out as far as it is asked for."""

    def __init__(self, pair: _Pair, feeds: Feeds, want: Feeds) -> None:
        self._pair, self.feeds, self.want = pair, feeds, want
        self.plain: Feeds | None = None
        self._fine: list[Feeds] = []
        self._coarse: list[Feeds] = []
        self.by_twin: dict[tuple[int, float | None], list[Feeds]] = {}

    def know_plain(self, plain: Feeds | None) -> None:
        """Say what the reference puts out without optimisations."""
        self.plain, self._fine = plain, [] if plain is None else [plain]

    def of(self, name: str) -> Iterator[Noise]:
        """The noise of one output, first without twins, then with more and more; nothing if its shape varies."""
        stepping = name in self._pair.stepping
        for count in range(_FINE_TWINS if stepping else 0, _FINE_TWINS + 1):
            while len(self._fine) < 2 * count:
                seed = len(self._fine) // 2
                self._fine += self._pair.twin_runs(self, seed, None)
            fine = self._deviation(name, self._fine)
            if fine is None:
                return
            if not stepping:
                yield Noise(fine)
        if not stepping:
            if fine is not None:
                yield from self._resolved(name, fine)
            return
        for seed in range(len(self._coarse) // 2, _COARSE_TWINS):
            self._coarse += self._pair.twin_runs(self, seed, HALF_STEP)
        coarse = self._deviation(name, self._coarse)
        if fine is not None and coarse is not None:
            yield Noise(fine, coarse)

    def _resolved(self, name: str, fine: NDArray[Any]) -> Iterator[Noise]:
        """The noise, and where it is zero the first step that the output makes as more and more is changed.

        A runtime that makes a sigmoid as one half and something rounds it like one half, however small it is: a few
        last bits then move it not at all, or by a whole step. Larger steps than the last bits of one are none of those.
        """
        want, step = self.want[name], np.zeros(fine.shape)
        if want.dtype.kind != "f":
            return
        for relative in _WIDENING:
            still = (fine == 0) & (step == 0)
            if not still.any():
                return
            runs = self._pair.twin_runs(self, 0, relative)
            first = _smallest_step(want, [values[name] for values in runs])
            step = np.where(still & (first <= _COARSEST * epsilon(want.dtype)), first, step)
            yield Noise(fine, step=step)

    def _deviation(self, name: str, others: list[Feeds]) -> NDArray[Any] | None:
        return _deviation(self.want[name], [values[name] for values in others])

    def run_off(self, session: Session, seed: int, relative: float | None) -> list[Feeds]:
        """Two runs of a twin, on inputs that are off, too."""
        both = (shaken_feeds(self.feeds, 2 * seed + turn, relative) for turn in range(2))
        return [self._pair.reference.run(session, feeds) for feeds in both]


def _deviation(want: NDArray[Any], others: list[NDArray[Any]]) -> NDArray[Any] | None:
    """Element by element the most that others are off; None if their shapes differ."""
    if want.dtype.kind not in "biufV" or any(other.shape != want.shape for other in others):
        return None
    exact = want.astype(np.float64)
    worst = np.zeros(want.shape)
    with np.errstate(invalid="ignore"):
        for other in others:
            gap = np.abs(other.astype(np.float64) - exact)
            worst = np.maximum(worst, np.where(np.isfinite(gap), gap, 0))
    return worst


def _smallest_step(want: NDArray[Any], others: list[NDArray[Any]]) -> NDArray[Any]:
    """Element by element the least that others are off, where they are off; zero where none is."""
    exact, least = want.astype(np.float64), np.full(want.shape, np.inf)
    with np.errstate(invalid="ignore"):
        for other in others:
            if other.shape == want.shape:
                gap = np.abs(other.astype(np.float64) - exact)
                least = np.minimum(least, np.where(gap > 0, gap, np.inf))
    return np.where(np.isfinite(least), least, 0.0)


@dataclass
class _Spread:
    """What values an output took."""

    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    texts: bool = False
    told: bool = False
    random: bool = False

    def add(self, value: NDArray[Any]) -> None:
        if value.dtype.kind not in "biufV" or value.dtype.names:
            self.texts = True
            return
        numbers = value.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        self.count += value.size
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    @property
    def is_one_number(self) -> bool:
        """Whether nothing but one number other than zero was seen."""
        return self.low == self.high != 0 and not self.random and not self.texts

    @property
    def doubt(self) -> str:
        """Why nothing can be told from the values, if so."""
        if self.texts:
            return ""
        if self.random:
            return "is another each time it is computed"
        if not self.count:
            return "is empty on all inputs tried"
        if self.low > self.high:
            return NOTHING_FINITE
        if not self.told:
            return "changes by a tenth and more when nothing but rounding changes"
        if self.low == self.high and (self.count > 1 or not self.low):
            return f"is {self.low:g} on all inputs tried"
        return ""
