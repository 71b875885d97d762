"""Says early that a run learns nothing: why, and what to do about it.

Some runs go on for days without an error while no parameter moves for the better: all
completions are wrong, or cut off, or give an answer in a form that nobody reads. Here
is what that looks like in the metrics. An alarm is raised once, when its state has
lasted for `PATIENCE` steps on end, and is noted as the metric `alarm/NAME` of that
step. What is raised follows from the metrics alone, so a resumed run reads them again
and forgets nothing. `train.py` and `sft.py` feed it; `evaluate.py` asks `of_figures`.
"""

import dataclasses
import logging
from collections.abc import Iterable

from ml_collections import ConfigDict

from hapo_jax.runs.alarm_kinds import KINDS
from hapo_jax.runs.alarm_kinds import Facts
from hapo_jax.runs.alarm_kinds import Metrics
from hapo_jax.runs.alarm_kinds import states
from hapo_jax.model.policy import Policy

_log = logging.getLogger("hapo_jax")

PATIENCE = 3  # steps on end; fewer in a run that is shorter
PREFIX = "alarm/"


@dataclasses.dataclass
class Alarm:
    """One that was raised.

    Attributes:
      name: of its kind.
      first, last: steps between which its state lasted, the patience included.
      words: cause and remedy.
    """

    name: str
    first: int
    last: int
    words: str

    def __str__(self) -> str:
        return f"Steps {self.first} to {self.last}: {self.words}"


class Alarms:
    """The alarms of a run; owns what has been raised so far."""

    def __init__(
        self, facts: Facts, before: Iterable[Metrics] = (), *, every_steps: int = 1
    ):
        """Reads the metrics of the steps before again, in silence.

        Args:
          facts: of the run.
          before: one per step, ascending, with their `step`.
          every_steps: how often `see` is called.
        """
        self.raised: dict[str, Alarm] = {}
        self._facts = facts
        looks = -(-facts.config.num_steps // every_steps)
        self._patience = min(PATIENCE, looks)
        self._since: dict[str, tuple[int, int]] = {}  # kind → first step, observations
        for metrics in before:
            if "grad/skipped" in metrics:  # a line of an evaluation alone has none
                self._see(int(metrics["step"]), metrics)

    def see(self, step: int, metrics: Metrics) -> dict[str, float]:
        """Looks at a step; warns of what is new, and returns that as metrics."""
        new = self._see(step, metrics)
        for alarm in new:
            _log.warning("This run seems to learn nothing. %s", alarm)
        return {PREFIX + alarm.name: 1.0 for alarm in new}

    def _see(self, step: int, metrics: Metrics) -> list[Alarm]:
        there = states(metrics, self._facts)
        before, self._since = self._since, {}
        new = []
        for name in there:
            first, seen = before.get(name, (step, 0))
            self._since[name] = first, seen + 1
            if name in self.raised:
                # Of a state that comes again, the last time is told.
                if first > self.raised[name].last and seen + 1 >= self._patience:
                    self.raised[name].first = first
                if seen + 1 >= self._patience:
                    self.raised[name].last = step
            elif seen + 1 >= self._patience:
                words = KINDS[name].words(metrics, self._facts)
                self.raised[name] = Alarm(
                    name=name, first=first, last=step, words=words
                )
                new.append(self.raised[name])
        return new

    def summary(self) -> str:
        """All that was raised, for the end of a run; empty if nothing was."""
        if not self.raised:
            return ""
        told = "While these lasted, the run seems to have learnt nothing:"
        return "\n".join([told, *(f"  {alarm}" for alarm in self.raised.values())])


def facts(config: ConfigDict, policy: Policy, **changes: str) -> Facts:
    """The facts of a run or an evaluation; `changes` are fields of `Facts`."""
    model, tokenizer = policy.config, policy.tokenizer
    unused = sum(end - first for first, end in model.unused_ids)
    stops = tokenizer.pieces(tokenizer.stop_ids)
    return Facts(
        config=config, num_tokens=model.vocab_size - unused, stops=stops, **changes
    )


def of_figures(
    figures: Metrics, facts: Facts, *, unreadable: float | None = None
) -> list[str]:
    """What is suspicious about the figures of an evaluation, cause and remedy each.

    Args:
      figures: of `figures.summary`.
      facts: of the policy and the config.
      unreadable: the share of completions without an answer; None if unknown.
    """
    metrics = {"rollout/truncated": figures.get("eval/truncated", 0.0)}
    if "eval/entropy" in figures:
        metrics["entropy/mean"] = figures["eval/entropy"]
    if unreadable is not None:
        metrics["rollout/unreadable"] = unreadable
    return [KINDS[name].words(metrics, facts) for name in states(metrics, facts)]
