"""Plain values survive the way between processes; nothing else gets through."""

import datetime
import decimal
import enum
import fractions
import math
import os
import threading
from collections import Counter, OrderedDict, deque, namedtuple

import numpy as np
import pytest

from hapo_jax.tasks.sandbox import wire

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**53),
        2**53 + 1,
        0.1,
        -0.0,
        math.inf,
        "",
        "naïve \ud800 \0",
        b"\x00\xff",
        1 + 2j,
        [],
        [1, [2, [3]]],
        (1, (2,), []),
        {1, 2},
        frozenset({(1, 2)}),
        {1: "a", (2, 3): [4], None: {}},
        {"object": 3},
        deque([1, 2]),
        range(2, 10, 3),
        fractions.Fraction(-1, 3),
        decimal.Decimal("1.10"),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 12, 30),
        datetime.timedelta(days=-1, microseconds=1),
        int,
        ValueError,
    ],
)
def test_values_come_back_with_their_types(value):
    back = through_a_pipe(wire.encode(value))
    back = wire.decode(back)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(1, 2), (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (Colour.RED, 1),
        (np.int64(3), 3),
        (np.array([[1.5, 2.0]]), [[1.5, 2.0]]),
    ],
)
def test_subclasses_come_back_as_what_they_are(value, plain):
    back = wire.decode(through_a_pipe(wire.encode(value)))
    assert back == plain
    assert type(back) is type(plain)


def test_integers_may_be_longer_than_python_prints():
    assert wire.decode(through_a_pipe(wire.encode(-(10**5_000)))) == -(10**5_000)


@pytest.mark.parametrize("view", ["keys", "values", "items"])
def test_views_of_dicts_come_back(view):
    sent = getattr({3: 4, 1: 2}, view)()
    back = wire.decode(through_a_pipe(wire.encode(sent)))
    assert type(back) is type(sent)
    assert list(back) == list(sent)


def test_nan_comes_back():
    assert math.isnan(wire.decode(through_a_pipe(wire.encode(math.nan))))


def test_an_object_is_refused_or_named_by_a_number():
    thing = object()
    with pytest.raises(TypeError, match="object is no plain value"):
        wire.encode([thing])
    sent = wire.encode([thing, 1], refer=lambda value: 7)
    assert wire.decode(sent, find=lambda number: f"thing {number}") == ["thing 7", 1]
    with pytest.raises(ValueError, match="malformed"):
        wire.decode(sent)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"int": "0x1", "float": 1},
        {"int": "nine"},
        {"int": 9},
        {"Fraction": ["0x1", "0x0"]},
        {"range": [1, 2, 0]},
        {"set": [[1]]},
        {"dict": [[1, 2, 3]]},
        {"dict": 1},
        {"type": "open"},
        {"type": "no_such"},
        {"Decimal": "x"},
        {"__reduce__": ["os.system", "true"]},
        {"object": "7"},
    ],
)
def test_malformed_values_are_refused(message):
    with pytest.raises(ValueError):
        wire.decode(message, find=lambda number: number)


def test_messages_are_bounded():
    with pytest.raises(ValueError, match="bytes"):
        wire.send(1, "x" * wire.MOST_BYTES)
    nested = []
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(ValueError, match="nested"):
        wire.send(1, nested)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EOFError),
        (b"\0\0", EOFError),
        (b"\0\0\0\x05[1", EOFError),
        (b"\xff\xff\xff\xff", ValueError),
        (b"\0\0\0\x02{]", ValueError),
        (b"\0\0\x27\x10" + b"[" * 10_000, ValueError),
    ],
)
def test_broken_messages_are_refused(data, error):
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with pytest.raises(error):
        wire.receive(reading)
    os.close(reading)


def test_waiting_ends_at_the_deadline():
    reading, writing = os.pipe()
    os.write(writing, b"\0\0\0\x05[1")
    with pytest.raises(TimeoutError):
        wire.receive(reading, deadline=0.0)
    os.close(reading)
    os.close(writing)


def through_a_pipe(message):
    reading, writing = os.pipe()
    thread = threading.Thread(target=wire.send, args=(writing, message))
    thread.start()
    received = wire.receive(reading)
    thread.join()
    os.close(reading)
    os.close(writing)
    return received
