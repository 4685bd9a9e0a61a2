"""Notes are text for people and codes for programs."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from tgonnx.io.notes import Note, as_note, notes_from_json, notes_to_json
from tgonnx.training.progress import Journal


def test_a_note_is_its_text_and_has_a_code() -> None:
    note = Note("few-samples", "only 12")
    assert note == "only 12"
    assert ", ".join([note, "more"]) == "only 12, more"
    assert note.code == "few-samples"
    with pytest.raises(AttributeError):
        note.code = "other"
    for twin in (copy.deepcopy(note), pickle.loads(pickle.dumps(note)), as_note(note, "other")):
        assert (twin, twin.code) == ("only 12", "few-samples")


def test_notes_survive_json() -> None:
    notes = (Note("a", "x"), Note("b", "y"))
    again = notes_from_json(json.loads(json.dumps(notes_to_json(notes))))
    assert [(note, note.code) for note in again] == [("x", "a"), ("y", "b")]


def test_a_journal_keeps_each_note_once_and_its_code() -> None:
    journal = Journal()
    for note in (Note("data", "x"), "x", "y"):
        journal.note(note, "engine")
    assert [(note, note.code) for note in journal.notes] == [("x", "data"), ("y", "engine")]
