"""Notes: what a reader of a result should know, as text with a code for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Note(str):
    """The text of a note; `code` says which it is, in words that do not change with the text."""

    __slots__ = ("code",)
    code: str

    def __new__(cls, code: str, text: str) -> Note:
        note = super().__new__(cls, text)
        object.__setattr__(note, "code", code)
        return note

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a note stays as it is: {name} cannot be set")

    def __reduce__(self) -> tuple[type[Note], tuple[str, str]]:  # for copies and pickles
        return type(self), (self.code, str(self))


def as_note(text: str, code: str) -> Note:
    """A note as it is; other text as a note of this code."""
    return text if isinstance(text, Note) else Note(code, text)


def notes_to_json(notes: Iterable[Note]) -> list[dict[str, str]]:
    return [{"code": note.code, "text": str(note)} for note in notes]


def notes_from_json(entries: Iterable[Mapping[str, str]]) -> tuple[Note, ...]:
    """What `notes_to_json` was given. Raises KeyError, TypeError for anything else."""
    return tuple(Note(entry["code"], entry["text"]) for entry in entries)
