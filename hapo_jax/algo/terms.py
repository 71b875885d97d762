"""From a batch and the current policy to the loss of each token, through the stages.

`constants` runs those that can do without the policy, `terms` the others; `method.py`
says which is which.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import advantages as advantages_lib
from hapo_jax.algo import critics, entropy, stages

Array = jax.Array
# Numbers per token by name, see `stages.NAMES`; [B, T] each, or any tokens in any
# arrangement of two axes.
Values = Mapping[str, Array]

# What the loss of every method may look at, for its metrics if for nothing else.
_ALWAYS = ("mask", "old_logprobs", "old_entropy", "behavior_logprobs")
_DIFFERENTIABLE = ("logprobs", "current_entropy")
# What is known of a token that is imitated, beside the current entropy.
_SHOWN = ("logprobs", "rank")
# What a stage gives to those behind it, by the attribute of `Stages` that it is, in
# the order in which they run.
GIVES = {
    "weight": ("weight",),
    "clip_range": ("clip_low", "clip_high"),
    "shaping": ("advantages",),
    "selection": ("selected",),
    "mask": ("kept", "counted"),
}


class Rows(NamedTuple):
    """What is known of a batch before the policy is run. Padding may hold anything.

    Attributes:
      mask: [B, T] bool, True on the tokens of the completion.
      old_logprobs, old_entropy: [B, T] float32, nats; policy before the updates.
      behavior_logprobs: [B, T] float32, nats; under the distribution drawn from.
      reference_logprobs: [B, T] float32, nats; None unless the method reads it.
      rewards: [B] float32, score plus penalties.
      scores: [B] float32, what the verifier said; 1 is correct.
      group_ids: [B] int32 in [0, B), equal for the completions of a prompt.
      prompt_ids: [B] int32, which of the training problems it answers.
      old_square_sum, old_cut_logprobs: [B, T] float32, see `stages.NAMES`; None unless
        the method reads it.
      old_values: [B, T] float32, of the critic before the updates; None without one.
      baselines: [B] float32, reward of the prompt's greedy completion; None if none is
        drawn.
      beside: [B] bool, imitated beside the batch, see `_batch_alone`; None if there
        are none.
      forks: [B, T] bool, choices by the task's `labels`; None unless the method reads
        it.
    """

    mask: Array
    old_logprobs: Array
    old_entropy: Array
    behavior_logprobs: Array
    reference_logprobs: Array | None
    rewards: Array
    scores: Array
    group_ids: Array
    prompt_ids: Array
    old_square_sum: Array | None = None
    old_cut_logprobs: Array | None = None
    old_values: Array | None = None
    baselines: Array | None = None
    beside: Array | None = None
    forks: Array | None = None


class Terms(NamedTuple):
    """The loss before aggregation and what led to it; [B, T] each.

    Attributes:
      loss: float32, differentiable, 0 outside the mask.
      counted: bool, the tokens that count in the denominator.
      ratio: float32, importance ratio of current over old policy.
      base_advantages: float32, before shaping.
      advantages: float32, after shaping.
      clip_low, clip_high: float32, widths of the clip range below and above 1.
      clipped_low, clipped_high, dual_clipped: bool, which bound acted.
      score: float32 entropy score in [-1, 1]; all 0 where no stage reads it.
      weight: float32, importance weight on the surrogate; 1 where there is none.
    """

    loss: Array
    counted: Array
    ratio: Array
    base_advantages: Array
    advantages: Array
    clip_low: Array
    clip_high: Array
    clipped_low: Array
    clipped_high: Array
    dual_clipped: Array
    score: Array
    weight: Array


class Stages(NamedTuple):
    """The stages of a method, in the order in which they run."""

    advantage: stages.Stage
    weight: stages.Stage | None
    ratio: stages.Stage
    clip_range: stages.Stage
    shaping: stages.Stage
    selection: stages.Stage
    surrogate: stages.Stage
    mask: stages.Stage
    kl: stages.Stage | None
    regulariser: stages.Stage
    aggregation: stages.Stage
    critic: stages.Stage | None
    returns: stages.Stage | None
    imitation: stages.Stage
    phases: stages.Stage | None


class Score(NamedTuple):
    """How entropies become scores."""

    fit: Callable[..., entropy.EntropyStats]
    score: Callable[..., Array]
    micro: bool  # statistics of the tokens at hand
    control: str  # see `settings.Entropy`
    floor: float  # nats


# --- before the policy is run ---------------------------------------------------------


def update_state(present, stateful, score: Score, rows: Rows, state):
    """Statistics of the step, and what stages make of it."""
    rows = _batch_alone(rows)
    stats = score.fit(rows.old_entropy, rows.mask, previous=state["entropy"])
    values = _before(rows)
    own = {
        name: jax.tree.map(
            lambda new, old: jnp.where(rows.mask.any(), new, old),
            present[name].declared.update(values, state[name]),
            state[name],
        )
        for name in stateful
        if present[name].declared.update is not None
    }
    own |= {name: state[name] + 1 for name in ("draws", "steps") if name in state}
    return jax.lax.stop_gradient({**state, **own, "entropy": stats})


def _batch_alone(rows: Rows) -> Rows:
    """The batch alone: completions beside it as if they were empty.

    Those of a second rollout and demonstrations are imitated: they have no ratio, and
    no stage and no statistic sees them. How they weigh, see `batch_loss.aggregation`.
    """
    if rows.beside is None:
        return rows
    return rows._replace(
        mask=rows.mask & ~rows.beside[:, None],
        rewards=jnp.where(rows.beside, 0, rows.rewards),
        scores=jnp.where(rows.beside, 0, rows.scores),
        prompt_ids=jnp.where(rows.beside, -1, rows.prompt_ids),
        beside=None,
    )


def _before(rows: Rows) -> dict[str, Array]:
    """Rows by name, with padding set to 0."""
    values = {n: x for n, x in rows._asdict().items() if x is not None}
    zeroed = clean({n: x for n, x in values.items() if n not in stages.PER_COMPLETION})
    right = rows.scores > 0.5
    ones = jnp.ones(right.shape, jnp.float32)
    share = advantages_lib.group_mean(right.astype(jnp.float32), rows.group_ids, ones)
    return {
        **values,
        **zeroed,
        "entropy": zeroed["old_entropy"],
        "source_logprobs": zeroed["old_logprobs"],
        "correct": rows.mask & right[:, None],
        "group_accuracy": jnp.where(rows.mask, share[:, None], 0),
    }


def constants(
    chosen: Stages,
    early: Collection[str],
    score: Score,
    with_score: bool,
    read_late: Collection[str],
    seed: int,
    rows: Rows,
    state,
    advantages: Array | None = None,
) -> dict[str, Array]:
    """What follows from rows alone, as the loss of a token needs it; no gradient.

    Args:
      chosen: the stages.
      early: names of those that run before the policy.
      score: how entropies become scores.
      with_score: whether a stage reads the score, and it is known beforehand.
      read_late: what the other stages read.
      seed: of the run.
      rows: the batch.
      state: of the method.
      advantages: [B, T] float32, in place of the method's own.
    """
    key = None
    if "draws" in state:
        key = jax.random.fold_in(jax.random.key(seed), state["draws"])
    rows = _controlled(rows, score, key)
    whole, rows = rows, _batch_alone(rows)
    values = _before(rows)
    if key is not None:
        values["random"] = jax.random.uniform(key, rows.mask.shape)
    # These are of the policy that algo.entropy.source names, perhaps the current one.
    names = {*_ALWAYS, *(read_late & values.keys() - {"entropy", "source_logprobs"})}
    everything = values if rows is whole else _before(whole._replace(beside=None))
    given = {name: everything[name] for name in names}
    if chosen.returns is not None:
        values["returns"] = given["returns"] = chosen.returns(values)
    if advantages is None:
        advantages = chosen.advantage({**values, "state": state.get("advantage")})
    values["advantages"] = given["advantages"] = advantages
    # Metrics are over these tokens, so that they do not depend on whether completions
    # without an advantage are passed through the policy.
    given["signal"] = rows.mask & (given["advantages"] != 0).any(axis=1, keepdims=True)
    if with_score:
        scored = score.score(rows.old_entropy, state["entropy"])
        values["score"] = given["score"] = jnp.where(rows.mask, scored, 0)
    if chosen.phases is not None:
        state_of = {"state": state.get("phases")}
        given["waits"] = rows.mask & chosen.phases({**values, **state_of})
    for name in early:
        found = _run(name, getattr(chosen, name), values, state)
        values |= found
        # The loss needs both those before and those after shaping.
        given |= {"shaped": found["advantages"]} if name == "shaping" else found
    if whole.beside is not None:
        given["beside"] = whole.mask & whole.beside[:, None]
        given["advantages"] = jnp.where(given["beside"], 1, given["advantages"])
    return jax.lax.stop_gradient(given)


def _controlled(rows: Rows, score: Score, key: Array | None) -> Rows:
    """Rows with the entropies that stages are to see."""
    if score.control == "none":
        return rows
    of, mask = rows.old_entropy, rows.mask
    if score.control == "shuffled":
        key = jax.random.fold_in(key, 0)  # `random` is drawn by the key itself
        return rows._replace(old_entropy=entropy.shuffled(of, mask, key))
    seen = entropy.constant(of, _batch_alone(rows).mask, floor=score.floor)
    return rows._replace(old_entropy=seen)


# --- at every token -------------------------------------------------------------------


def terms(
    chosen: Stages,
    early: Collection[str],
    score: Score,
    source: str,
    with_score: bool,
    outputs: frozenset[str],
    current: Values,
    constants: Values,
    state,
) -> Terms:
    """The loss of each token, from the stages in their order.

    Args:
      chosen, early, score, state: see `constants`.
      source: of the entropy, see `settings.Entropy`.
      with_score: whether a stage reads the score.
      outputs: what is read of the current policy beside log-probs.
      current: of the current policy, see `Method.terms`.
      constants: of the function of that name.
    """
    assert outputs <= current.keys(), f"this method reads the {', '.join(outputs)}"
    own = {name: current[name] for name in ("logprobs", *(outputs - {"entropy"}))}
    if "entropy" in outputs:
        own["current_entropy"] = current["entropy"]
    values = clean({**constants, **own})
    mask, beside = values["mask"], values.get("beside")
    if beside is not None:
        mask = values["mask"] = mask & ~beside
    values["entropy"] = values["old_entropy"]
    if source == "current" and "entropy" in outputs:
        values["entropy"] = jax.lax.stop_gradient(values["current_entropy"])
    of_source = values["logprobs" if source == "current" else "old_logprobs"]
    values["source_logprobs"] = jax.lax.stop_gradient(of_source)
    if with_score and "score" not in values:
        stats = state["entropy"]
        if score.micro:
            stats = score.fit(values["entropy"], mask, previous=stats)
        scored = score.score(values["entropy"], stats)
        values["score"] = jnp.where(mask, scored, 0)

    def run(name):
        if name in early:
            return
        stage = getattr(chosen, name)
        values.update(_run(name, stage, values, state))

    run("ratio")
    run("clip_range")
    base_advantages = values["advantages"]
    values["advantages"] = values.get("shaped", base_advantages)
    run("shaping")
    run("selection")
    surrogate = _run("surrogate", chosen.surrogate, values, state)["surrogate"]
    loss = surrogate.loss
    if chosen.weight is not None:
        run("weight")
        loss = loss * values["weight"]
    run("mask")
    counted = values["counted"] & mask
    loss = jnp.where(values["kept"] & mask, loss, 0)
    for name in ("kl", "regulariser"):
        if (stage := getattr(chosen, name)) is not None:
            loss = loss + jnp.where(counted, _run(name, stage, values, state)[name], 0)
    if beside is not None:
        shown = {"mask": beside, **{name: values.get(name) for name in _SHOWN}}
        shown["entropy"] = jax.lax.stop_gradient(values.get("current_entropy"))
        loss = jnp.where(beside, chosen.imitation(shown).loss, loss)
    nothing = jnp.zeros_like(values["advantages"])
    return Terms(
        loss=loss,
        counted=counted,
        ratio=values["ratio"],
        base_advantages=base_advantages,
        advantages=values["advantages"],
        clip_low=values["clip_low"],
        clip_high=values["clip_high"],
        clipped_low=surrogate.clipped_low & mask,
        clipped_high=surrogate.clipped_high & mask,
        dual_clipped=surrogate.dual_clipped & mask,
        score=values.get("score", nothing),
        weight=values.get("weight", nothing + 1),
    )


def _run(name: str, stage: stages.Stage, values: Values, state) -> dict[str, Any]:
    """What a stage gives, by name."""
    given = stage({**values, "state": state.get(name)})
    names = GIVES.get(name, (name,))
    return dict(zip(names, given if len(names) > 1 else (given,), strict=True))


def value_loss(
    critic: stages.Stage, values: Array, constants: Values
) -> critics.ValueLoss:
    """The critic's loss of each token of the batch, whatever lies in padding."""
    mask = of_batch(constants)
    given = {n: constants[n] for n in critic.reads if n in constants}
    given = jax.lax.stop_gradient(given) | {"values": values}
    given = {n: jnp.where(mask, x, jnp.zeros((), x.dtype)) for n, x in given.items()}
    found = critic(given)
    return critics.ValueLoss(
        jnp.where(mask, found.loss, 0), jnp.where(mask, found.clipped, False)
    )


def clean(values: Values) -> dict[str, Array]:
    """Sets padding, which may hold NaN, to 0, and cuts all gradients but of what is
    differentiable.

    Zero everywhere means ratio 1 and advantage 0 in padding, so that no stage after
    this one can produce a non-finite number there.
    """
    mask = values["mask"]
    chex.assert_rank(mask, 2)
    chex.assert_type(mask, bool)
    chex.assert_equal_shape([mask, *values.values()])
    zeroed = {n: jnp.where(mask, x, jnp.zeros((), x.dtype)) for n, x in values.items()}
    fixed = {n: x for n, x in zeroed.items() if n not in _DIFFERENTIABLE}
    return {**zeroed, **jax.lax.stop_gradient(fixed)}


def of_batch(values: Values) -> Array:
    """The mask without tokens beside the batch."""
    mask, beside = values["mask"], values.get("beside")
    return mask if beside is None else mask & ~beside
