"""What differs between two sets of settings, found in one way and told in one way."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple


class Change(NamedTuple):
    """One setting that differs; None where one of both lacks it."""

    key: str
    saved: Any
    given: Any

    def __str__(self) -> str:
        return f"{self.key}: was {self.saved!r}, now {self.given!r}"


def between(
    saved: Mapping[str, Any], given: Mapping[str, Any], *, ignore: Collection[str] = ()
) -> list[Change]:
    """The settings that differ, in the order of their keys."""
    return [
        Change(key=key, saved=saved.get(key), given=given.get(key))
        for key in sorted({*saved, *given} - {*ignore})
        if saved.get(key) != given.get(key)
    ]
