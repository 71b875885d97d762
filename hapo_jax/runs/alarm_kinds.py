"""The ways to learn nothing: what each looks like in the metrics, and what to do.

`alarms.py` asks which of them hold, step by step.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from hapo_jax.config import dotted
from hapo_jax.grading import pool as pool_lib

_NEARLY_ALL = 0.95
# Of the entropy, nats per token and a share of the most that there can be: a policy
# that draws the same token whatever happens, and one that knows nothing.
_CERTAIN = 1e-4
_UNIFORM = 0.98

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What alarms need to know of a run.

    Attributes:
      config: resolved.
      num_tokens: that the policy can draw.
      stops: texts that end a completion.
      section: of the config, with the options of the problems; empty if none has them.
      anew: where other settings can be tried.
    """

    config: ConfigDict
    num_tokens: int
    stops: Sequence[str] = ()
    section: str = "task.train"
    anew: str = "in a new workdir"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to learn nothing.

    Attributes:
      holds: whether a step's metrics are in that state.
      words: cause and remedy, from the metrics of the step that raised it.
      implies: kinds that follow from this one, and need not be told beside it.
    """

    holds: Callable[[Metrics, Facts], bool]
    words: Callable[[Metrics, Facts], str]
    implies: tuple[str, ...] = ()


def states(metrics: Metrics, facts: Facts) -> list[str]:
    """The kinds that hold, without those that follow from others."""
    there = [name for name, kind in KINDS.items() if kind.holds(metrics, facts)]
    implied = {other for name in there for other in KINDS[name].implies}
    return [name for name in there if name not in implied]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _options(facts: Facts) -> Mapping[str, Any]:
    """The options of the problems."""
    return dotted.get(facts.config, facts.section) if facts.section else {}


def _ungraded(metrics: Metrics, facts: Facts) -> bool:
    total = _graded(metrics)
    return bool(total) and _failed(metrics) >= _NEARLY_ALL * total


def _graded(metrics: Metrics) -> float:
    return sum(metrics.get(f"grading/{name}", 0) for name in pool_lib.OUTCOMES)


def _failed(metrics: Metrics) -> float:
    return sum(metrics.get(f"grading/{name}", 0) for name in pool_lib.UNGRADED)


def _say_ungraded(metrics: Metrics, facts: Facts) -> str:
    g = facts.config.grading
    share = _failed(metrics) / _graded(metrics)
    return (
        f"{_percent(share)} of the completions ran the verifier out of time or broke "
        f"it, and count as wrong. Raise grading.timeout_s={g.timeout_s:g} and "
        f"grading.memory_gib={g.memory_gib:g}; the same command with them goes on."
    )


def _truncated(metrics: Metrics, facts: Facts) -> bool:
    return metrics.get("rollout/truncated", 0.0) >= _NEARLY_ALL


def _say_truncated(metrics: Metrics, facts: Facts) -> str:
    stops = ", ".join(map(repr, facts.stops)) or "none"
    return (
        f"{_percent(metrics['rollout/truncated'])} of the completions are cut off at "
        f"rollout.max_completion_tokens={facts.config.rollout.max_completion_tokens}. "
        f"Raise it {facts.anew}. If they go on behind their answer, nothing ends "
        f"them (tokens that do: {stops}): name the token that closes a turn in "
        "model.stop_tokens, or give prompts the form that the model was trained on "
        "(task.chat_template)."
    )


def _unreadable(metrics: Metrics, facts: Facts) -> bool:
    return metrics.get("rollout/unreadable", 0.0) >= _NEARLY_ALL


def _say_unreadable(metrics: Metrics, facts: Facts) -> str:
    ways = ["ask for it in task.system_prompt"]
    options = _options(facts)
    if "prompt_template" in options:
        ways[0] = f"ask for it in {facts.section}.prompt_template or task.system_prompt"
    if options.get("grading", "lenient") != "lenient":
        ways.append(f"read other forms too by {facts.section}.grading=lenient")
    ways.append("let hapo-sft teach the form first")
    return (
        f"in {_percent(metrics['rollout/unreadable'])} of the completions no answer "
        "was found, so they count as wrong: they do not give it in the form that "
        f"the task reads. What helps, {facts.anew}: {', '.join(ways[:-1])}, or "
        f"{ways[-1]}."
    )


def _constant(metrics: Metrics, facts: Facts) -> bool:
    return metrics.get("rollout/reward_std") == 0


def _say_constant(metrics: Metrics, facts: Facts) -> str:
    reward = f"every completion has the reward {metrics['rollout/reward']:g}"
    if metrics["rollout/accuracy"] == 1:
        return (
            f"{reward}: all are right, and nothing is left to learn. Train on harder "
            "problems (task.train)."
        )
    if metrics["rollout/accuracy"] == 0:
        return (
            f"{reward}: all are wrong, so none is better than another. See in "
            "rollouts/ what the policy writes, and in the first lines of the run what "
            "its prompts look like. Then, in a new workdir, train on easier problems "
            "(task.train), from a policy that solves some of them (model.path, "
            "hapo-sft), or draw more completions (rollout.group_size)."
        )
    return (
        f"{reward}: none is better than another. Train on other problems (task.train)."
    )


def _no_signal(metrics: Metrics, facts: Facts) -> bool:
    return (
        metrics.get("batch/tokens") == 0 or metrics.get("advantages/frac_nonzero") == 0
    )


def _say_no_signal(metrics: Metrics, facts: Facts) -> str:
    r = facts.config.rollout
    text = (
        "no group has right and wrong completions, so no completion has an advantage "
        f"({_percent(metrics.get('rollout/all_right', 0.0))} of the groups are all "
        f"right, {_percent(metrics.get('rollout/all_wrong', 0.0))} all wrong). In a "
        "new workdir, train on problems that the policy solves now and then "
        f"(task.train), raise rollout.group_size (now {r.group_size})"
    )
    if r.dynamic_sampling:
        return f"{text}, or raise rollout.max_rounds (now {r.max_rounds})."
    return f"{text}, or raise rollout.batch_prompts (now {r.batch_prompts})."


def _no_gradient(metrics: Metrics, facts: Facts) -> bool:
    return metrics.get("grad/norm") == 0


def _say_no_gradient(metrics: Metrics, facts: Facts) -> str:
    text = "the gradient is 0 in every update, so no parameter moves. The weights may "
    text += "be broken (all 0): start from others (model.path)."
    if "algo" not in facts.config:
        return text
    return (
        f"{text} Or settings of algo mask or cancel all tokens (advantages/abs, clip/… "
        "and loss/frac_counted in metrics.jsonl, see docs/metrics.md): start in a new "
        "workdir with those of the method alone."
    )


def _most_entropy(facts: Facts) -> float:
    return math.log(max(facts.num_tokens, 2))


def _collapsed(metrics: Metrics, facts: Facts) -> bool:
    return metrics.get("entropy/mean", 1.0) <= _CERTAIN


def _say_collapsed(metrics: Metrics, facts: Facts) -> str:
    return (
        f"the entropy is {metrics['entropy/mean']:.2g} nats per token: the policy is "
        "certain of every token, and draws the same completion again and again. Its "
        "weights may be broken (too large): start from others (model.path), or if "
        "training has led to it, from the same with a lower learner.learning_rate, "
        "in a new workdir."
    )


def _uniform(metrics: Metrics, facts: Facts) -> bool:
    return metrics.get("entropy/mean", 0.0) >= _UNIFORM * _most_entropy(facts)


def _say_uniform(metrics: Metrics, facts: Facts) -> str:
    return (
        f"the entropy is {metrics['entropy/mean']:.4g} nats per token, and "
        f"log {facts.num_tokens} = {_most_entropy(facts):.4g} is the most that there "
        "can be: the policy draws tokens at random, as with weights that were never "
        "trained or that are broken. Start from others (model.path), such as what "
        "hapo-sft leaves in hf/."
    )


# In the order in which they are told, causes before what follows from them.
_FOLLOW = ("no_signal", "no_gradient")
KINDS: Mapping[str, Kind] = {
    "uniform_policy": Kind(_uniform, _say_uniform),
    "certain_policy": Kind(_collapsed, _say_collapsed, _FOLLOW),
    "ungraded": Kind(
        _ungraded, _say_ungraded, ("unreadable", "constant_reward", *_FOLLOW)
    ),
    "truncated": Kind(_truncated, _say_truncated, ("unreadable",)),
    "unreadable": Kind(_unreadable, _say_unreadable),
    "constant_reward": Kind(_constant, _say_constant, _FOLLOW),
    "no_signal": Kind(_no_signal, _say_no_signal, ("no_gradient",)),
    "no_gradient": Kind(_no_gradient, _say_no_gradient),
}
