"""The doctor beside a run: looks every few steps, tells each finding once."""

import logging
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from hapo_jax.doctor import checks
from hapo_jax.doctor.evidence import Evidence, Finding, Metrics
from hapo_jax.model.tokenizer import Tokenizer
from hapo_jax.runs import alarms
from hapo_jax.runs import records as records_lib
from hapo_jax.system.errors import Unhealthy

_log = logging.getLogger("hapo_jax")

MODES = ("strict", "warn", "off")
PREFIX = "doctor/"
_KEPT = 1000  # steps whose metrics are looked at


class Doctor:
    """Of a run; owns what it has seen, and what has been told."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: str,
        before: Iterable[Metrics] = (),
        *,
        tokenizer: Tokenizer | None = None,
        prompt_tokens: Sequence[Sequence[int]] = (),
        leaks: int | None = None,
        duplicates: float | None = None,
    ):
        """Reads the metrics of the steps before again, and what they say was told.

        Args:
          config: resolved.
          workdir: of the run.
          before: one per step, ascending, with their `step`.
          tokenizer, prompt_tokens, leaks, duplicates: see `Evidence`.
        """
        self._workdir = workdir
        self._steps: list[Metrics] = []
        self._told: set[str] = set()
        self._evidence = Evidence(
            config,
            self._steps,
            tokenizer=tokenizer,
            prompt_tokens=prompt_tokens,
            leaks=leaks,
            duplicates=duplicates,
        )
        for metrics in before:
            self.see(metrics)
            self._told |= {
                name.removeprefix(PREFIX) for name in metrics if name.startswith(PREFIX)
            }

    def see(self, metrics: Metrics) -> None:
        """Takes note of a step; `metrics` have their `step`."""
        if "grad/skipped" in metrics:  # a line of an evaluation alone has none
            self._steps.append(metrics)
            del self._steps[:-_KEPT]

    def look(self, step: int, weights_gap: float | None) -> dict[str, float]:
        """Warns of what has not been told before; returns it as metrics.

        Args:
          step: that was reached. Its own record may not be on the disk yet, so that of
            an earlier one is looked at: a resumed run tells what any run would.
          weights_gap: see `weights_gap`.
        """
        recorded = [s for s in records_lib.rollout_steps(self._workdir) if s < step]
        last = recorded[-1] if recorded else None
        rows = records_lib.read_rollouts(self._workdir, last) if recorded else ()
        evidence = self._evidence._replace(
            records=rows, record_step=last, weights_gap=weights_gap
        )
        found = checks.examine(evidence)
        new = [
            f for f in found if f.name not in self._told and not self._alarmed(f.name)
        ]
        self._told |= {finding.name for finding in new}
        for finding in new:
            _log.warning("The run doctor: %s", finding)
        return {PREFIX + finding.name: 1.0 for finding in new}

    def _alarmed(self, name: str) -> bool:
        """Whether an alarm has said the same."""
        alarm = alarms.PREFIX + checks.ALARMS.get(name, name)
        return any(alarm in metrics for metrics in self._steps)


def end(told: Metrics) -> None:
    """Ends a run whose doctor is strict.

    Raises:
      Unhealthy: names what it has told.
    """
    names = ", ".join(name.removeprefix(PREFIX) for name in told)
    raise Unhealthy(
        f"the run doctor has found {names} (see above), and --doctor=strict ends the "
        "run; the same command with --doctor=warn goes on."
    )


@jax.jit
def weights_gap(sampler: nnx.State, learner: nnx.State) -> jax.Array:
    """Largest difference between two copies of the parameters, relative to the largest
    weight of its array; float32 scalar."""

    def gap(ours, theirs):
        ours, theirs = (x.astype(jnp.float32) for x in (ours, theirs))
        largest = jnp.maximum(jnp.abs(theirs).max(), 1e-30)
        return jnp.abs(ours - theirs).max() / largest

    return jnp.stack(jax.tree.leaves(jax.tree.map(gap, sampler, learner))).max()


def told(steps: Iterable[Metrics]) -> list[tuple[int, str]]:
    """(step, check) of what a run's doctor has told, by its metrics."""
    return [
        (int(m["step"]), name.removeprefix(PREFIX))
        for m in steps
        for name in m
        if name.startswith(PREFIX)
    ]


def words(findings: Sequence[Finding]) -> str:
    """Findings one below the other."""
    return "\n\n".join(map(str, findings))
