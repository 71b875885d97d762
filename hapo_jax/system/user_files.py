"""Small files that a user brings, read whole or refused by name.

JSON, templates and other text come in through here: what is broken, or is another kind
of file than its name says, ends in a refusal that names the file, the field, the
rule and the way out. Imports nothing of the package but what it raises, so that every
folder may use it.
"""

import contextlib
import errno
import json
import os
import pathlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from hapo_jax.system.errors import Refused

# How much of a file `recognise` needs to see.
HEAD_BYTES = 512
_REQUIRED = object()
# Faults of a path that are its user's to mend. Others, such as a bad disk, are no
# refusals: the same path may work the next time.
_FAULTS = {
    errno.ENOENT: "does not exist; correct the path, or copy it there",
    errno.ENOTDIR: "lies below a file; correct the path",
    errno.EACCES: "may not be read; change its permissions",
    errno.EPERM: "may not be read; change its permissions",
    errno.ELOOP: "is a link that leads in a circle; put the file in its place",
    errno.ENAMETOOLONG: "has too long a name; correct the path",
}
_LARGEST = 2**53  # up to here all programs read the same whole number


_digits = threading.Lock()


@contextlib.contextmanager
def any_digits() -> Iterator[None]:
    """Lets integers in JSON have more than the 4,300 digits that Python reads.

    For data that are trusted: time goes with the square of the digits.
    """
    with _digits:  # one thread after another, or the limit might stay off
        most = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            yield
        finally:
            sys.set_int_max_str_digits(most)


def recognise(head: bytes) -> str | None:
    """What a file really is, in words that end with the remedy; None if that is open.

    Args:
      head: its first bytes, `HEAD_BYTES` of them or all.
    """
    if not head:
        return "is empty; download or copy it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "is a Git LFS pointer and not the file itself; run `git lfs pull` where "
            "it was cloned, or download it again"
        )
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            "is a web page and not the file itself (of a login or an error); "
            "download it again, on the hub by 'resolve' in place of 'blob'"
        )
    if not head.strip(b"\0"):
        return "holds nothing but zero bytes (a copy that broke off); copy it again"
    return None


def decode(data: bytes, name: Any) -> str:
    """The text of these bytes.

    Raises:
      Refused: they are not UTF-8, or begin with a mark that other readers stumble
        over; begins with `name`.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refused(f"{name} is UTF-16 text; save it as UTF-8.")
    if data.startswith(b"\xef\xbb\xbf"):
        raise Refused(
            f"{name} begins with a byte order mark; save it as UTF-8 without one."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(
            f"{name} is not UTF-8 text (byte {error.start} is "
            f"{data[error.start]:#04x}); save it as UTF-8, or copy it again."
        ) from None


@contextlib.contextmanager
def refusing(path: pathlib.Path) -> Iterator[None]:
    """Around what opens `path`: turns a fault of the path into a refusal."""
    try:
        yield
    except OSError as error:
        fault = _FAULTS.get(error.errno)
        if fault is None:
            raise
        if error.errno == errno.ENOENT and path.is_symlink():
            fault = "is a link that leads nowhere; put the file in its place"
        raise Refused(f"{path} {fault}.") from None


def is_there(path: str | pathlib.Path) -> bool:
    """Whether there is anything; a broken link is not meant to be nothing."""
    return os.path.lexists(path)


def read_text(path: str | pathlib.Path) -> str:
    """The text of a UTF-8 file.

    Raises:
      Refused: it cannot be opened, or is no such file; names it.
    """
    path = pathlib.Path(path)
    with refusing(path):
        # Opening a pipe or a device would wait, or never end.
        if path.exists() and not path.is_file():
            raise Refused(f"{path} is no file; put the file in its place.")
        data = path.read_bytes()
    if problem := recognise(data[:HEAD_BYTES]):
        raise Refused(f"{path} {problem}.")
    return decode(data, path)


def read_object(path: str | pathlib.Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      Refused: as for `read_text`, or it is not JSON or no object, or gives one key
        two values; names the file.
    """
    text = read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=pairs_once)
    except json.JSONDecodeError as error:
        raise Refused(
            f"{path} is not JSON: {error}; mend it, or copy it again."
        ) from None
    except RecursionError:
        raise Refused(f"{path} is nested too deeply; copy it again.") from None
    except ValueError as error:  # a key twice, or a number of too many digits
        raise Refused(f"{path}: {error}; mend it, or copy it again.") from None
    if not isinstance(content, dict):
        raise Refused(
            f"{path} holds {kind(content)} where an object belongs; write "
            '{"key": value, …}, or copy it again.'
        )
    return content


def pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of two values for a key every library would silently take the last."""
    found = dict(pairs)
    for key, value in pairs if len(found) < len(pairs) else ():
        if value != found[key]:
            raise Refused(
                f"{key!r} occurs twice, as {short(value)} and as {short(found[key])}"
            )
    return found


def kind(value: Any) -> str:
    """What JSON calls a value, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def short(value: Any) -> str:
    """A value as JSON, cut to what a message can hold."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


class Fields(Mapping):
    """The fields of an object, each read as the type that it must have.

    null stands for a field that is not there, as in the files of other libraries.

    Attributes:
      where: what holds the object; messages begin with it.
      nulls: names of the fields that are null, where that matters.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self._values = {k: v for k, v in values.items() if v is not None}
        self.nulls = values.keys() - self._values.keys()
        self.where = where

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def require(self, *keys: str, remedy: str) -> None:
        """Refuses an object that lacks one of `keys`; names all that are missing."""
        missing = [key for key in keys if key not in self]
        if missing:
            raise Refused(f"{self.where} lacks {', '.join(missing)}; {remedy}.")

    def refuse(self, key: str, rule: str) -> None:
        """Raises, since the value of `key` is not as `rule` says."""
        raise Refused(f"{self.where}: {key}={short(self.get(key))} {rule}.")

    def whole(self, key: str, default: Any = _REQUIRED, *, least=1, most=None):
        """A whole number from `least` to `most`."""
        value = self._value(key, default)
        if key not in self:
            return value
        inside = type(value) is int and least <= value <= (most or _LARGEST)
        if not inside:
            bounds = f"at least {least}" if most is None else f"from {least} to {most}"
            self.refuse(key, f"must be a whole number, {bounds}")
        return value

    def number(
        self, key: str, default: Any = _REQUIRED, *, above=None, least=None, below=None
    ):
        """A finite number within these bounds, as a float."""
        value = self._value(key, default)
        if key not in self:
            return value
        inside = (
            type(value) in (int, float)
            and abs(value) <= _LARGEST  # not so NaN and infinity
            and (above is None or value > above)
            and (least is None or value >= least)
            and (below is None or value < below)
        )
        if not inside:
            bounds = {"above": above, "of at least": least, "below": below}
            told = [f" {word} {x:g}" for word, x in bounds.items() if x is not None]
            self.refuse(key, f"must be a number{' and'.join(told)}")
        return float(value)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        """true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "must be true or false, without quotation marks")
        return value

    def text(self, key: str, default: Any = _REQUIRED):
        """A text."""
        value = self._value(key, default)
        if key in self and not isinstance(value, str):
            self.refuse(key, "must be a text")
        return value

    def table(self, key: str) -> "Fields":
        """The fields of the object at `key`; none if it is not there."""
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            self.refuse(key, "must be an object, {…}, or null")
        return Fields(value, f"{self.where}: {key}")

    def _value(self, key: str, default: Any) -> Any:
        if key not in self and default is _REQUIRED:
            self.require(key, remedy="write it, or copy the file from the original")
        return self.get(key, default)
