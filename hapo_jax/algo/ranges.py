"""Numbers that a setting may have."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that a setting may have; NaN and infinities are never among them.

    Attributes:
      low, high: the ends, which belong to it unless `above` or `below` says otherwise.
      above, below: the low or the high end does not belong to it.
      whole: whole numbers alone.
      also: one more number that is allowed, such as 0 for "off".
      word: a word that is allowed in place of a number; empty: none.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    whole: bool = False
    also: float | None = None
    word: str = ""

    def holds(self, value: Any) -> bool:
        """Whether the value is one of these numbers."""
        if self.word and value == self.word:
            return True
        kind = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        if value == self.also:
            return True
        from_low = value > self.low if self.above else value >= self.low
        to_high = value < self.high if self.below else value <= self.high
        return from_low and to_high  # False for NaN

    def __str__(self) -> str:
        """In words, behind "must be", such as "0 or a number in (1, 10]"."""
        off = "" if self.also is None else f"{self.also:g} or "
        off = f"{self.word} or {off}" if self.word else off
        kind = "a whole number" if self.whole else "a number"
        left, right = "[("[self.above], "])"[self.below]
        return f"{off}{kind} in {left}{_plain(self.low)}, {_plain(self.high)}{right}"


FINITE = Range(-1e300, 1e300)


def _plain(number: float) -> str:
    """Without an exponent where that is as short."""
    return str(number) if isinstance(number, int) else f"{number:g}"
