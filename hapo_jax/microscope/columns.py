"""Numbers of tokens in few bytes: half precision, and what other columns foretell.

Most columns of a record follow from others: a clip range from the entropy score, that
from the entropy. So a column is kept as its distance to a prediction, counted in half
precision numbers, and most distances are -1, 0 or 1. Which prediction, or none, is
decided by the bytes that it takes; a prediction that is wrong costs bytes and no digit.

A half precision number is off by 0.05 % at most, and below 6e-5 by 3e-8 at most. A
column that holds more than 65,504 is kept in single precision, which is exact.
`assets/columns.js` decodes this.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

LARGEST = 65504.0  # of half precision
FLOOR = 1e-8  # nats; smaller entropies are foretold from like this
_NAN = 0x7E00

Columns = Mapping[str, np.ndarray]


class Rule(NamedTuple):
    """How a column may follow from others.

    Attributes:
      name: of the rule, as `predict` knows it.
      sources: columns that it reads.
      fit: (values, sources) → numbers of the rule; None where there are none.
    """

    name: str
    sources: tuple[str, ...]
    fit: Callable[..., list[float]] | None = None


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and height of the line through points; (0, 0) where there is none."""
    if len(x) < 2 or x.min() == x.max():
        return 0.0, 0.0
    slope, height = np.polyfit(x, y, 1)
    return float(slope), float(height)


def _log(entropy: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(entropy, FLOOR))


def _fit_temperature(values, entropy) -> list[float]:
    low, high = float(values.min()), float(values.max())
    inside = (values > low) & (values < high)
    return [*_line(_log(entropy)[inside], values[inside]), low, high]


def _fit_score(values, entropy) -> list[float]:
    x, up = _log(entropy), values > 0
    return [*_line(x[up], values[up]), *_line(x[~up], values[~up])]


def _fit_bounds(values, _) -> list[float]:
    return [float(values.min()), float(values.max())]


def _fit_below(values, score) -> list[float]:
    return [*_line(np.minimum(score, 0), values)]


def _fit_above(values, score) -> list[float]:
    return [*_line(np.maximum(score, 0), values)]


def _fit_strength(values, base, score, *_) -> list[float]:
    changed = (values != base) & (base * score != 0)
    if not changed.any():
        return [0.0]
    return [float(np.median((values / base - 1)[changed] / score[changed]))]


# In the order in which they are kept: sources before what follows from them.
RULES: dict[str, Rule] = {
    "old_entropy": Rule("same", ("entropy",)),
    "entropy_score": Rule("score", ("old_entropy",), _fit_score),
    "temperature": Rule("clipped_log", ("entropy",), _fit_temperature),
    "ratio": Rule("exp", ("log_ratio",), _fit_bounds),
    "importance_weight": Rule("exp_minus", ("behavior_gap",), _fit_bounds),
    "clip_low": Rule("below", ("entropy_score",), _fit_below),
    "clip_high": Rule("above", ("entropy_score",), _fit_above),
    "advantages": Rule(
        "redistributed",
        ("base_advantages", "entropy_score", "ratio", "clip_low", "clip_high"),
        _fit_strength,
    ),
    "loss": Rule(
        "surrogate",
        ("ratio", "advantages", "clip_low", "clip_high", "importance_weight"),
    ),
}


def predict(name: str, numbers: list[float], *sources: np.ndarray) -> np.ndarray:
    """What a rule makes of its sources; float64 [n], as the sources."""
    x = sources[0]
    match name:
        case "same":
            return x
        case "clipped_log":
            slope, height, low, high = numbers
            return np.clip(height + slope * _log(x), low, high)
        case "score":
            up = numbers[1] + numbers[0] * _log(x)
            down = numbers[3] + numbers[2] * _log(x)
            return np.clip(np.where(up > 0, up, down), -1, 1)
        case "exp":
            return np.clip(np.exp(x), *numbers)
        case "exp_minus":
            return np.clip(np.exp(-x), *numbers)
        case "below":
            return numbers[1] + numbers[0] * np.minimum(x, 0)
        case "above":
            return numbers[1] + numbers[0] * np.maximum(x, 0)
        case "redistributed":
            base, score, ratio, low, high = sources
            inside = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
            scaled = np.where(score > 0, ~inside, inside)
            return base * np.where(scaled, 1 + numbers[0] * score, 1)
        case "surrogate":
            ratio, advantage, low, high, weight = sources
            bounded = np.clip(ratio, 1 - low, 1 + high)
            return -weight * np.minimum(ratio * advantage, bounded * advantage)
    raise ValueError(f"{name=} is no rule.")


def half(values: np.ndarray) -> np.ndarray:
    """Ordered numbers of the nearest half precision values; uint16.

    Neighbours differ by 1, also across 0; -0 becomes 0 and every nan the same.
    """
    with np.errstate(over="ignore"):
        bits = np.asarray(values, np.float64).astype(np.float16).view(np.uint16)
    bits = np.where(np.isnan(values), _NAN, bits).astype(np.int32)
    return np.where(bits & 0x8000, 0x8000 - (bits & 0x7FFF), 0x8000 + bits).astype(
        np.uint16
    )


def from_half(ordered: np.ndarray) -> np.ndarray:
    """The values of what `half` gives; float64."""
    ordered = ordered.astype(np.int32)
    bits = np.where(ordered >= 0x8000, ordered - 0x8000, 0x8000 | (0x8000 - ordered))
    return bits.astype(np.uint16).view(np.float16).astype(np.float64)


def planes(values: np.ndarray) -> bytes:
    """All first bytes, then all second ones, …; little-endian. They compress better."""
    width = values.dtype.itemsize
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return data.view(np.uint8).reshape(-1, width).T.tobytes()


def from_planes(data: bytes, kind: str, size: int) -> np.ndarray:
    """What `planes` has taken apart; `kind` is a NumPy dtype."""
    dtype = np.dtype(kind).newbyteorder("<")
    flat = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, size)
    return np.ascontiguousarray(flat.T).view(dtype).reshape(size)


def encode(
    name: str, values: np.ndarray, known: Columns
) -> tuple[dict[str, Any], bytes]:
    """A column as bytes, and how to read them.

    Args:
      name: of the column; those in RULES may be foretold.
      values: [n] float.
      known: the columns that were encoded before, as they are decoded.
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if finite.size and np.abs(finite).max() > LARGEST:
        return {"kind": "f4"}, planes(values.astype(np.float32))
    ordered = half(values)
    plain = {"kind": "f2"}, planes(ordered)
    rule = RULES.get(name)
    if rule is None or not finite.size or any(s not in known for s in rule.sources):
        return plain
    sources = [known[source] for source in rule.sources]
    if not all(np.isfinite(s).all() for s in (values, *sources)):
        return plain
    numbers = rule.fit(values, *sources) if rule.fit else []
    distance = ordered - half(predict(rule.name, numbers, *sources))  # modulo 2^16
    folded = _fold(distance)
    form = {"kind": "d2", "rule": rule.name, "of": rule.sources, "numbers": numbers}
    foretold = form, planes(folded)
    return min(plain, foretold, key=lambda found: len(zlib.compress(found[1], 6)))


def decode(form: Mapping[str, Any], data: bytes, size: int, known: Columns):
    """The values of a column that `encode` has kept; float64 [n]."""
    if form["kind"] == "f4":
        return from_planes(data, "f4", size).astype(np.float64)
    ordered = from_planes(data, "u2", size)
    if form["kind"] == "d2":
        sources = [known[source] for source in form["of"]]
        ordered = _unfold(ordered) + half(
            predict(form["rule"], form["numbers"], *sources)
        )
    return from_half(ordered)


def _fold(distance: np.ndarray) -> np.ndarray:
    """Small distances of either sign as small numbers: 0, -1, 1, -2 → 0, 1, 2, 3."""
    signed = distance.view(np.int16).astype(np.int32)
    return np.where(signed < 0, -2 * signed - 1, 2 * signed).astype(np.uint16)


def _unfold(folded: np.ndarray) -> np.ndarray:
    wide = folded.astype(np.int32)
    return np.where(wide & 1, -(wide + 1) // 2, wide // 2).astype(np.uint16)
