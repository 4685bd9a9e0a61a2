"""Sizes that depend on dynamic axes, as polynomials: exact where they are affine, opaque where they are not.

A `Size` is a sum of products of *atoms* with integer coefficients. An atom is a dynamic axis, or the result of an
operation that has no such form (a division with a rest, a minimum, a size that depends on data). The same operation on
the same operands is the same atom, so two ways of computing one size are found to be equal. What is decided here is
decided for every size that the axes can have: no size is ever tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

MAX_TERMS = 64  # a product that would be longer is an atom
Monomial = tuple[int, ...]  # numbers of atoms, sorted; () is the constant term
Number = int | float | bool


@dataclass(frozen=True)
class Size:
    """A polynomial in atoms that is not a plain number: (monomial, coefficient) pairs, sorted."""

    terms: tuple[tuple[Monomial, int], ...]


Element = Number | Size
Dims = tuple[Element, ...]


@dataclass(frozen=True)
class _Atom:
    key: Hashable
    natural: bool  # never negative
    whole: bool  # an integer
    positive: bool  # never zero, either


class Algebra:
    """Makes sizes and decides what holds for all of them. Axes are taken to have at least zero elements."""

    def __init__(self) -> None:
        self._atoms: list[_Atom] = []
        self._numbers: dict[Hashable, int] = {}

    def atom(self, key: Hashable, natural: bool = True, whole: bool = True, positive: bool = False) -> Size:
        """The size named `key`; the same key is the same size."""
        number = self._numbers.setdefault(key, len(self._atoms))
        if number == len(self._atoms):
            self._atoms.append(_Atom(key, natural, whole, positive))
        return Size((((number,), 1),))

    # --- arithmetic -----------------------------------------------------------------------------------

    def add(self, *parts: Element) -> Element:
        total: Counter[Monomial] = Counter()
        for part in parts:
            for monomial, factor in _terms(part):
                total[monomial] += factor
        return _size(total)

    def multiply(self, a: Element, b: Element) -> Element:
        if len(_terms(a)) * len(_terms(b)) > MAX_TERMS:
            return self.apply("Mul", a, b, natural=self.natural(a) and self.natural(b))
        total: Counter[Monomial] = Counter()
        for m, p in _terms(a):
            for n, q in _terms(b):
                total[tuple(sorted(m + n))] += p * q
        return _size(total)

    def subtract(self, a: Element, b: Element) -> Element:
        return self.add(a, self.multiply(b, -1))

    def exact(self, a: Element, b: Element) -> Element | None:
        """a / b if it comes out even for all sizes and `b` is a single term, else None."""
        divisor = _terms(b)
        if len(divisor) != 1 or not divisor[0][1]:
            return None
        (under, by), total = divisor[0], Counter[Monomial]()
        for monomial, factor in _terms(a):
            rest = Counter(monomial)
            rest.subtract(under)
            if factor % by or min(rest.values(), default=0) < 0:
                return None
            total[tuple(sorted(rest.elements()))] += factor // by
        return _size(total)

    def divide(self, a: Element, b: Element) -> Element:
        """The quotient of integers, rounded towards zero as `Div` does."""
        if not isinstance(a, Size) and not isinstance(b, Size) and b:
            return int(a / b)
        even = self.exact(a, b)
        return self.apply("Div", a, b, natural=self.natural(a) and self.natural(b)) if even is None else even

    def product(self, sizes: Iterable[Element]) -> Element:
        result: Element = 1
        for size in sizes:
            result = self.multiply(result, size)
        return result

    def apply(
        self, operation: Hashable, *operands: Element, natural: bool = False, whole: bool = True
    ) -> Size:
        """The result of an operation that has no form of its own here."""
        return self.atom((operation, *operands), natural, whole)

    # --- what holds for every size --------------------------------------------------------------------

    def natural(self, a: Element) -> bool:
        """Surely not negative?"""
        return all(
            factor >= 0 and all(self._atoms[n].natural for n in monomial) for monomial, factor in _terms(a)
        )

    def positive(self, a: Element) -> bool:
        """Surely above zero, where the axes of inputs have elements?"""
        some = any(all(self._atoms[n].positive for n in monomial) for monomial, _ in _terms(a))
        return self.natural(a) and some

    def whole(self, a: Element) -> bool:
        """Surely an integer?"""
        return all(self._atoms[n].whole for monomial, _ in _terms(a) for n in monomial)

    def sign(self, a: Element) -> int | None:
        """1, 0 or -1 if it is the same for all sizes, else None."""
        if not isinstance(a, Size):
            return (a > 0) - (a < 0)
        for side in (1, -1):
            turned = self.multiply(a, side)
            if self.natural(turned) and dict(_terms(turned)).get((), 0) > 0:
                return side
        return None

    def lone(self, a: Element) -> Hashable | None:
        """The key of the atom that `a` is, if it is one."""
        if isinstance(a, Size) and len(a.terms) == 1 and a.terms[0][1] == 1 and len(a.terms[0][0]) == 1:
            return self._atoms[a.terms[0][0][0]].key
        return None

    def value(self, a: Element, of: Callable[[Hashable], Number | None]) -> Number | None:
        """The number that `a` is where each atom is what `of` says of its key; None if an atom has none."""
        total: Number = 0
        for monomial, coefficient in _terms(a):
            factor: Number = coefficient
            for number in monomial:
                size = of(self._atoms[number].key)
                if size is None:
                    return None
                factor *= size
            total += factor
        return total


def _terms(a: Element) -> tuple[tuple[Monomial, int], ...]:
    return a.terms if isinstance(a, Size) else (((), a),)  # type: ignore[return-value]


def _size(total: Counter[Monomial]) -> Element:
    terms = tuple(sorted((monomial, factor) for monomial, factor in total.items() if factor))
    if not terms:
        return 0
    return terms[0][1] if len(terms) == 1 and not terms[0][0] else Size(terms)
