"""What a search may set a key to."""

from typing import Any, NamedTuple


class Range(NamedTuple):
    """Values of one setting.

    Attributes:
      low, high: ends of an interval, both included; None for a choice.
      log: whether a factor counts, and not a difference.
      whole: whether values are whole numbers.
      values: of a choice.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    values: tuple[Any, ...] = ()

    def distribution(self) -> Any:
        """As Optuna has it."""
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution(self.values)
        if self.whole:
            return distributions.IntDistribution(self.low, self.high, log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)


def uniform(low: float, high: float) -> Range:
    """Any number between both."""
    return Range(low=low, high=high)


def log_uniform(low: float, high: float) -> Range:
    """Any positive number between both, equal factors alike."""
    return Range(low=low, high=high, log=True)


def integers(low: int, high: int) -> Range:
    """Whole numbers from low to high."""
    return Range(low=low, high=high, whole=True)


def choice(*values: Any) -> Range:
    """One of these."""
    return Range(values=values)
