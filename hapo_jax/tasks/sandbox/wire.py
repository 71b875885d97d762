"""Messages and plain values between processes: JSON behind a length.

Plain values are those whose meaning does not depend on code of the sender: None,
numbers, texts, bytes and the builtin collections of them, views of dicts, ranges,
fractions, decimals, dates, and the builtin types themselves. An object of a subclass
travels as the plain value that it is. Nothing received is ever unpickled or executed.
"""

import builtins
import datetime
import decimal
import fractions
import json
import os
import select
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

MOST_BYTES = 2**23
_LENGTH = struct.Struct("!I")
_EXACT = 2**53  # beyond, other readers of JSON would round; ours goes through hex

# type -> (value to JSON's types, and back); the first that fits is taken
_PLAIN = {
    datetime.datetime: (lambda v: v.isoformat(), datetime.datetime.fromisoformat),
    datetime.date: (lambda v: v.isoformat(), datetime.date.fromisoformat),
    datetime.timedelta: (
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda v: datetime.timedelta(*v),
    ),
    decimal.Decimal: (str, decimal.Decimal),
    fractions.Fraction: (
        lambda v: [hex(v.numerator), hex(v.denominator)],
        lambda v: fractions.Fraction(int(v[0], 16), int(v[1], 16)),
    ),
    complex: (lambda v: [v.real, v.imag], lambda v: complex(*v)),
    bytes: (lambda v: v.hex(), bytes.fromhex),
    bytearray: (lambda v: v.hex(), bytearray.fromhex),
    range: (lambda v: [v.start, v.stop, v.step], lambda v: range(*v)),
}
# What a dict shows of itself has no constructor: name -> (type, dict of its items).
_VIEWS = {
    "dict_keys": (type({}.keys()), lambda items: dict.fromkeys(items).keys()),
    "dict_values": (type({}.values()), lambda items: dict(enumerate(items)).values()),
    "dict_items": (type({}.items()), lambda items: dict(items).items()),
}
_COLLECTIONS = {kind.__name__: kind for kind in (tuple, set, frozenset, deque)}


def send(descriptor: int, message: Any, deadline: float | None = None) -> None:
    """Writes one message.

    Args:
      descriptor: of a pipe or socket.
      message: of JSON's types.
      deadline: on `time.monotonic`, for a descriptor that does not block; or None to
        wait as long as it takes.

    Raises:
      TimeoutError: the deadline has passed.
      ValueError: it is longer than MOST_BYTES or too deeply nested.
      OSError: nobody reads any more.
    """
    try:
        data = json.dumps(message).encode("ascii")
    except RecursionError:
        raise ValueError("the value is nested too deeply.") from None
    if len(data) > MOST_BYTES:
        raise ValueError(
            f"the value takes {len(data)} bytes; {MOST_BYTES} may be sent."
        )
    data = memoryview(_LENGTH.pack(len(data)) + data)
    while data:
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([], [descriptor], [], left)[1]:
                raise TimeoutError("nobody reads in time.")
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, deadline: float | None = None) -> Any:
    """Reads one message.

    Args:
      descriptor: of a pipe or socket.
      deadline: on `time.monotonic`, or None to wait as long as it takes.

    Raises:
      EOFError: the other side has gone.
      TimeoutError: the deadline has passed.
      ValueError: the message is too long or is no JSON.
    """
    (length,) = _LENGTH.unpack(_read(descriptor, _LENGTH.size, deadline))
    if length > MOST_BYTES:
        raise ValueError(f"a message of {length} bytes; {MOST_BYTES} may be sent.")
    try:
        return json.loads(_read(descriptor, length, deadline))
    except RecursionError:
        raise ValueError("the value is nested too deeply.") from None


def encode(value: Any, refer: Callable[[Any], int] | None = None) -> Any:
    """A plain value as JSON's types.

    Args:
      value: to be sent.
      refer: gives a number to an object that is not plain, for the other side to name
        it by; None if there must not be one.

    Raises:
      TypeError: the value is not plain, and there is no `refer`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        value = int(value)
        return value if -_EXACT < value < _EXACT else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list):
        return [encode(item, refer) for item in value]
    if isinstance(value, dict):
        return {
            "dict": [[encode(k, refer), encode(v, refer)] for k, v in value.items()]
        }
    for name, kind in _COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [encode(item, refer) for item in value]}
    for name, (kind, _) in _VIEWS.items():
        if isinstance(value, kind):
            return {name: [encode(item, refer) for item in value]}
    for kind, (pack, _) in _PLAIN.items():
        if isinstance(value, kind):
            return {kind.__name__: pack(value)}
    if isinstance(value, type) and vars(builtins).get(value.__name__) is value:
        return {"type": value.__name__}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        plain = value.tolist()
        if type(plain) is not type(value):
            return encode(plain, refer)
        # Of more digits than Python's, so it stays what it is.
        return encode({"f": float, "c": complex}[value.dtype.kind](value), refer)
    if refer is None:
        raise TypeError(f"a {type(value).__name__} is no plain value.")
    return {"object": refer(value)}


def decode(value: Any, find: Callable[[int], Any] | None = None) -> Any:
    """The inverse of `encode`; `find` turns a number into what stands for the object.

    Raises:
      ValueError: `encode` cannot have written this.
    """
    if isinstance(value, list):
        return [decode(item, find) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("a malformed value.")
    ((kind, content),) = value.items()
    try:
        if kind == "int":
            return int(content, 16)
        if kind == "dict":
            return {decode(k, find): decode(v, find) for k, v in content}
        if kind in _COLLECTIONS:
            return _COLLECTIONS[kind](decode(item, find) for item in content)
        if kind in _VIEWS:
            return _VIEWS[kind][1]([decode(item, find) for item in content])
        if kind == "type" and isinstance(vars(builtins).get(content), type):
            return vars(builtins)[content]
        if kind == "object" and find is not None and isinstance(content, int):
            return find(content)
        for plain, (_, unpack) in _PLAIN.items():
            if plain.__name__ == kind:
                return unpack(content)
    except (TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(f"a malformed {kind}: {error}") from None
    raise ValueError(f"a malformed value of kind {kind!r}.")


def _read(descriptor: int, length: int, deadline: float | None) -> bytes:
    found = bytearray()
    while len(found) < length:
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError("no message in time.")
        data = os.read(descriptor, min(length - len(found), 2**20))
        if not data:
            raise EOFError("the other side has gone.")
        found += data
    return bytes(found)
