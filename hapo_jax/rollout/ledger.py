"""What a run has spent so far: the measures over which methods can be compared.

Every method pays into the same account: each token that the policy drew is in it,
whatever became of its completion.
"""

from collections.abc import Mapping
from typing import NamedTuple

SAMPLED = ("ledger/sampled_tokens", "ledger/sampled_completions")


class Ledger(NamedTuple):
    """Sums over the steps that led to a policy, those before a resumption included.

    Attributes:
      sampled_tokens: drawn by the policy, in completions that were left out as well.
      sampled_completions: of which these are the tokens.
      trained_tokens: with a gradient, once for each update that was made from them.
      updates: from at least one such token.
      seconds: of the steps; evaluations and checkpoints lie between them.
    """

    sampled_tokens: int = 0
    sampled_completions: int = 0
    trained_tokens: int = 0
    updates: int = 0
    seconds: float = 0.0

    def plus(self, metrics: Mapping[str, float]) -> "Ledger":
        """With a step, by its metrics."""
        counts = {
            name: total + metrics[f"ledger/{name}"]
            for name, total in self._asdict().items()
            if name != "seconds"
        }
        return Ledger(**counts, seconds=self.seconds + metrics["time/step"])

    def metrics(self) -> dict[str, float]:
        """`ledger/total_…`, and `time/total`."""
        found = {f"ledger/total_{n}": x for n, x in self._asdict().items()}
        return found | {"time/total": found.pop("ledger/total_seconds")}
