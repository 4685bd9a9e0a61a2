"""Options: what a user may set, read and checked alike in Python and on the command line.

A class of options is a frozen, keyword-only dataclass whose fields are made by `option`. Default, help and limits
stand there and nowhere else: the command line is made from them (`tgonnx.cli.options`). Its `__post_init__` calls
`settle`, which reads numbers that are written as text, takes "auto" and None for no choice, and refuses the rest.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar, cast, get_args

from tgonnx.errors import OptionError, UsageError

Attention = Literal["heads", "head-dim"]
EngineName = str  # a name in the table of engines, or "auto"
Device = Literal["cpu", "cuda"]
Gradient = Literal["one", "sigmoid", "tanh"]
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
TARGET = "flops=0.5"  # what may stay if nobody says
ALL = "flops=1"  # the same where alternatives are chosen from
CRITERION = "l2"
VERIFY_SECONDS = 120.0  # enough for the whole list of sizes of a model that runs in a second
NO_CHOICE = "auto"  # how a value that is None is written

Names = Sequence[str] | Callable[[], Iterable[str]]
Options = TypeVar("Options")


@dataclass(frozen=True)
class Spec:
    """What one option may be: a `kind` of int, float, bool or str; `low` is the least number, and numbers are below
    `below`; `names` are the words that are allowed, or a function that lists them, and `also` reads other values (None:
    refused); `many` for several words. `form` reads values of a form of their own, from text and from what Python has
    for them. `empty`: there may be no choice.
    """

    help: str
    kind: type
    default: Any
    low: float = -math.inf
    below: float = math.inf
    names: Names | None = None
    many: bool = False
    metavar: str = ""
    also: Callable[[Any], Any] | None = None
    form: Callable[[str, Any], Any] | None = None

    @property
    def empty(self) -> bool:
        return self.default is None

    def read(self, name: str, value: Any) -> Any:
        """The value as it is used, from a value or text. Raises OptionError naming the option and what is allowed."""
        if value is None or (self.empty and isinstance(value, str) and value == NO_CHOICE):
            value = self.default
        if self.form is not None and value is not None:
            return self.form(name, value)
        if value is self.default:
            return value
        if isinstance(value, str) and value == self.default:
            return value  # known without loading the table that it stands in
        if self.many:
            return _words(name, value)
        if self.also is not None and (read := self.also(value)) is not None:
            return read
        if self.names is not None:
            return one_of(name, value, self.names)
        if self.kind is bool:
            return _truth(name, value)
        return self._number(name, value) if self.kind in (int, float) else value

    def _number(self, name: str, value: Any) -> int | float:
        wanted = "a whole number" if self.kind is int else "a number"
        if self.low > -math.inf:
            wanted += f" of at least {self.low:g}"
        if self.below < math.inf:
            wanted += f" and below {self.below:g}"
        if self.empty:
            wanted += f" or {NO_CHOICE}"
        number = _parsed(self.kind, value)
        if number is None:
            raise OptionError(name, f"{_shown(value)} is not {wanted}")
        if not self.low <= number < self.below:
            raise OptionError(name, f"{number:g} is not {wanted}")
        return number


def option(default: Any, help: str, kind: type | None = None, **limits: Any) -> Any:
    """A field of a class of options; `limits` are fields of `Spec`. The kind is that of the default unless given."""
    spec = Spec(help, kind or type(default), default, **limits)
    return dataclasses.field(default=default, metadata={"option": spec})


def like(kind: Any, name: str) -> Any:
    """A field for the same option that another class has."""
    spec = specs(kind)[name]
    return dataclasses.field(default=spec.default, metadata={"option": spec})


def specs(options: Any) -> dict[str, Spec]:
    """The options of a class, or of an object of it, by name."""
    return {field.name: field.metadata["option"] for field in dataclasses.fields(options)}


def changed(options: Any) -> list[str]:
    """The names of the options that are not at their defaults."""
    plain = type(options)()
    return [name for name in specs(options) if getattr(options, name) != getattr(plain, name)]


def settle(options: Any) -> None:
    """Read and check every field of a frozen object that is being made. Raises OptionError."""
    for name, spec in specs(options).items():
        object.__setattr__(options, name, spec.read(name, getattr(options, name)))


def with_fields(caller: str, fields: Mapping[str, Any], *options: Any) -> tuple[Any, ...]:
    """The `options` with those of their fields changed that `fields` names; None leaves a field as it is.

    Raises UsageError naming the nearest option where a name is of none of them.
    """
    known = [name for each in options for name in specs(each)]
    for name in fields:
        if name not in known:
            raise UsageError(f"{caller} has no option {name!r}{nearest(name, known)}")
    given = {name: value for name, value in fields.items() if value is not None}
    return tuple(
        dataclasses.replace(each, **{name: value for name, value in given.items() if name in specs(each)})
        for each in options
    )


def of_class(name: str, value: Any, kind: type[Options]) -> Options:
    """`value`, or the defaults if it is None. Raises OptionError if it is of another class."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise OptionError(name, f"is a {type(value).__name__}, not a {kind.__name__}")
    return value


def one_of(name: str, value: Any, names: Names) -> str:
    """A word that must be one of `names`. Raises OptionError listing them, those most like the wrong one first."""
    allowed = tuple(names() if callable(names) else names)
    if isinstance(value, str) and value in allowed:
        return value
    listed = sorted(allowed, key=lambda word: -_likeness(str(value), word))
    raise OptionError(name, f"{_shown(value)}; there are {', '.join(listed)}", "unknown ")


def whole_number(name: str, value: Any, low: int = 0) -> int:
    """A whole number of at least `low`. Raises OptionError."""
    return int(Spec("", int, low, low).read(name, value))


def number(name: str, value: Any, low: float = 0) -> float:
    """A number of at least `low`. Raises OptionError."""
    return float(Spec("", float, low, low).read(name, value))


def is_a(name: str, value: Any, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raise OptionError unless the value is of this kind, which `wanted` says in words."""
    if not isinstance(value, kind):
        raise OptionError(name, f"is a {type(value).__name__}, not {wanted}")


def numbers_of(name: str, words: Iterable[str]) -> dict[str, float]:
    """Numbers of at least 0 by name, from words like NAME=0.5. Raises OptionError."""
    found = {}
    for word in words:
        key, equals, value = word.rpartition("=")
        if not equals or not key:
            raise OptionError(name, f"{word!r}: write NAME=NUMBER")
        found[key] = number(name, value)
    return found


def means(glob: str, *names: str) -> bool:
    """Does a glob mean one of these names? They have [ and ] in them: what is written as it is means itself."""
    return any(name == glob or fnmatchcase(name, glob) for name in names)


def attention_of(value: Any) -> Attention:
    """What of attention is cut. Raises OptionError."""
    return cast(Attention, one_of("attention", value, ATTENTIONS))


def nearest(word: str, names: Iterable[str]) -> str:
    """A question after the name that a misspelt one may have meant; empty if none is near."""
    best = max(names, key=lambda name: _likeness(word, name))
    return f"; did you mean {best}?" if _likeness(word, best) > 0.5 else ""


def _likeness(a: str, b: str) -> float:
    from difflib import SequenceMatcher  # only where something is wrong already

    return SequenceMatcher(None, a.lower(), b.lower()).ratio()


def _parsed(kind: type, value: Any) -> int | float | None:
    """A number, or text that is one; None for anything else. Not a number is no number."""
    if isinstance(value, bool):
        return None
    try:
        exact = operator.index if kind is int and not isinstance(value, str) else kind
        number = exact(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _words(name: str, value: Any) -> tuple[str, ...]:
    """Several words; a plain string is one, and a mapping those of NAME=VALUE."""
    if isinstance(value, Mapping):
        value = [f"{key}={each}" for key, each in value.items()]
    words = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not all(isinstance(word, str) for word in words):
        raise OptionError(name, f"{_shown(value)} is neither text nor a list of texts")
    return words


def _truth(name: str, value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # numpy's, too
        raise OptionError(name, f"{_shown(value)} is neither True nor False")
    return bool(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
