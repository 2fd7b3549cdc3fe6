"""A JSON object as text: where each of its members stands, and how single ones are set without touching the rest."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Malformed
from .money import dumps

Changes = Mapping[str, str]
"""Members to set, each to a JSON text."""

_WHITESPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Member:
    """One top-level member of the body: where its value stands in the text, and the value."""

    start: int
    end: int
    value: Any


def replaced(text: str, members: Mapping[str, Member], changes: Changes) -> str:
    """The text with members replaced in place, or added at the end; all else as it was. The object has members."""
    present = sorted(changes.keys() & members.keys(), key=lambda name: -members[name].start)
    for name in present:  # from the end, so that the places before stay where they are
        text = text[: members[name].start] + changes[name] + text[members[name].end :]
    added = "".join(f",{dumps(name)}:{value}" for name, value in changes.items() if name not in members)
    close = text.rindex("}")
    return text[:close] + added + text[close:]


def members_of(text: str, decoder: json.JSONDecoder) -> dict[str, Member]:
    """The members of an object. Raises ValueError for what is not JSON, Malformed for what is not an object."""
    at = _skip(text, 0)
    if not text.startswith("{", at):
        decoder.decode(text)  # what is not even JSON is said so
        raise Malformed("the body must be a JSON object")
    members: dict[str, Member] = {}
    at = _skip(text, at + 1)
    if text.startswith("}", at):
        _nothing_after(text, at + 1)
        return members
    while True:
        name, at = _name(text, at, decoder)
        at = _expect(":", text, at)
        value, end = decoder.raw_decode(text, at)
        if name in members:
            raise Malformed(f"the key {shown(name)} appears twice in one object")
        members[name] = Member(at, end, value)
        at = _skip(text, end)
        if text.startswith("}", at):
            _nothing_after(text, at + 1)
            return members
        at = _expect(",", text, at)


def _skip(text: str, at: int) -> int:
    match = _WHITESPACE.match(text, at)
    return match.end() if match else at


def _name(text: str, at: int, decoder: json.JSONDecoder) -> tuple[str, int]:
    if not text.startswith('"', at):
        raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
    name, end = decoder.raw_decode(text, at)
    return str(name), _skip(text, end)


def _expect(mark: str, text: str, at: int) -> int:
    if not text.startswith(mark, at):
        raise json.JSONDecodeError(f"Expecting '{mark}' delimiter", text, at)
    return _skip(text, at + 1)


def _nothing_after(text: str, at: int) -> None:
    if _skip(text, at) != len(text):
        raise json.JSONDecodeError("Extra data", text, _skip(text, at))


def shown(name: str) -> str:
    """A name of the client's in a message: quoted, and not longer than is useful."""
    return json.dumps(name if len(name) <= 60 else name[:60] + "…")
