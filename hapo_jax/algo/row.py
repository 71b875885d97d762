"""A method as a row: the settings that it changes, and where they come from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

STATUSES = ("full", "part")
# What methods with statistics of many completions have in common; for `open`.
STATISTICS = (
    "statistics are of the whole batch under the policy before its updates; with "
    "algo.entropy.source=current of each micro-batch under the current one"
)


class Row(NamedTuple):
    """A method by its settings alone; nothing in the code asks for its name.

    Attributes:
      settings: by key, over the defaults, which are HAPO; a section that chooses a
        stage is given whole, its name and its options.
      source: the paper, with its equation; or the code.
      status: "full", all of it follows from paper or code; "part", a constant or a
        convention was chosen here, and `open` says which.
      open: what paper and code leave open or tell apart, and the option that chooses.
      given: options without a default, by key, that the user has to give because no
        source has them; the values are what tests take.
    """

    settings: Mapping[str, Any]
    source: str
    status: str = "full"
    open: str = ""
    given: Mapping[str, Any] = {}


# All four components of HAPO off: DAPO.
DAPO = {
    "algo.temperature.strength": 0.0,
    "algo.token_group.strength": 0.0,
    "algo.redistribution.strength": 0.0,
    "algo.clip.strength": 0.0,
}
# All of DAPO off as well: GRPO without its KL term.
GRPO = {
    **DAPO,
    "algo.clip.high": 0.2,
    "algo.aggregation": {"name": "seq_mean_token_mean"},
    "rollout.dynamic_sampling": False,
    "reward.overlong_buffer_tokens": 0,
    "reward.overlong_buffer_share": 0.0,
}
