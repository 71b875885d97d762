"""From the verifier's score to the reward: a sum of named parts, each logged alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from hapo_jax.algo import rewards as rewards_lib


@dataclasses.dataclass(frozen=True)
class Rewards:
    """The parts of a reward and their weights, as in the config's section `reward`.

    Attributes:
      correct, wrong: the part `correctness` at score 1 and 0; between them it is
        linear. 1 and 0, or 1 and -1.
      format_weight: the part `format` of a completion that ended by itself and in
        which the verifier found an answer, right or wrong; 0 elsewhere.
      max_tokens, buffer_tokens, factor: the part `overlong`, a soft penalty, see
        `algo.rewards.overlong_penalty`; buffer_tokens 0 switches it off.
    """

    correct: float
    wrong: float
    format_weight: float
    max_tokens: int
    buffer_tokens: int
    factor: float

    def parts(
        self,
        scores: np.ndarray,
        *,
        answered: np.ndarray,
        truncated: np.ndarray,
        lengths: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """The parts that are switched on; the reward is their sum.

        Args:
          scores: [B] float32, what the verifier said.
          answered: [B] bool, whether it found an answer.
          truncated: [B] bool, stopped by the token limit.
          lengths: [B] int, completion lengths in tokens, stop token included.

        Returns:
          name → [B] float32.
        """
        found = {"correctness": self.wrong + (self.correct - self.wrong) * scores}
        if self.format_weight:
            found["format"] = self.format_weight * (answered & ~truncated)
        if self.buffer_tokens:
            found["overlong"] = np.asarray(
                rewards_lib.overlong_penalty(
                    jnp.asarray(lengths),
                    max_tokens=self.max_tokens,
                    buffer_tokens=self.buffer_tokens,
                    factor=self.factor,
                )
            )
        return {name: part.astype(np.float32) for name, part in found.items()}
