"""One step of learning from one rollout batch: score, prepare, update."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hapo_jax.algo.terms import Rows
from hapo_jax.learner import head, metrics, packing, train_step
from hapo_jax.learner.state import TrainState
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.system import distributed


class Watched(NamedTuple):
    """What a step can be replayed from, beside its rows; NumPy, on the host.

    Attributes:
      method_state: before the step.
      before: [B, T], of the policy before the updates, all of `head.OUTPUTS`.
      after: of the policy behind them.
      seen: [B, T] each, of the policy that a token's update began with; one for each
        phase of each pass, in their order.
    """

    method_state: Any
    before: head.Scores
    after: head.Scores
    seen: tuple[head.Scores, ...]


class Learnt(NamedTuple):
    """What the updates of a step saw, for its records; NumPy, on the host.

    Attributes:
      batch: the rollout.
      old: what the old policy says of its tokens, [B, T].
      rows: with old log-probs and entropies.
      prepared: constants and state of the method, and weights.
      scorings: placements of the batch, one for each policy that scored it.
      updates: placement of each update.
      watched: None, or what a record of the whole step has beside.
    """

    batch: RolloutBatch
    old: head.Scores
    rows: Rows
    prepared: train_step.Prepared
    scorings: tuple[packing.Placement, ...] = ()
    updates: tuple[packing.Placement, ...] = ()
    watched: Watched | None = None


def learn(
    learner: train_step.Learner,
    state: TrainState,
    batch: RolloutBatch,
    *,
    passes: int,
    reference_params=None,
    watch: bool = False,
) -> tuple[TrainState, Learnt, dict[str, float]]:
    """Makes `passes` passes of mini-batch updates over a batch, in the method's phases.

    Old log-probs and entropies are taken once, under the parameters before the first
    update or from the sampler's records; statistics and advantages follow from them.

    Args:
      learner: the jitted functions.
      state: donated; use the returned one.
      batch: B rows, a multiple of `learner.minibatch_rows`.
      passes: over the batch; without one the policy stays as it is.
      reference_params: of the reference policy, if the method reads it.
      watch: whether to keep what a replay of the step needs. It costs two scorings
        of the batch, and one for each pass; it changes no number.

    Returns:
      The new state, what the updates saw, and the step's metrics.
    """
    scores = given_scores(learner, state, reference_params, batch)
    if watch:
        states, seen = jax.device_get(state.method_state), []
        before = _watch(learner, state, batch)
    learnt, method_state = prepare(learner, batch, state.method_state, *scores)
    state = state._replace(method_state=method_state)

    tallies, placements, tokens = [], [], []
    starts = range(0, len(batch.rewards), learner.minibatch_rows)
    phases = range(learner.phases)
    for _, phase, first in itertools.product(range(passes), phases, starts):
        minibatch, placement = make_minibatch(learner, learnt, first, phase)
        if watch:
            seen.append(_watch(learner, state, batch, first=first))
        state, tally = learner.update(state, minibatch)
        tallies.append(tally)
        placements.append(placement)
        tokens.append(trained_tokens(learner, learnt, first, phase))
    tallies = jax.device_get(tallies)
    found = metrics.of_updates(tallies) | metrics.of_ledger(tallies, tokens)
    found |= metrics.of_batch(learnt.rows, learnt.prepared)
    if learner.imitation_weight is not None:
        found["beside/weight"] = float(learner.imitation_weight(method_state))
    if learner.recompute_old_logprobs:
        recorded = recorded_scores(learner, batch)
        found |= metrics.of_mismatch(batch, recorded, learnt.rows)
    if passes:
        skipped = sum(((p.row < 0) & (p.lengths > 0)).sum() for p in placements)
        found["batch/skipped_sequences"] = float(skipped) / (passes * learner.phases)
    scorings = learner.recompute_old_logprobs + (reference_params is not None)
    scorings = (place_all(learner, batch),) * scorings
    learnt = learnt._replace(scorings=scorings, updates=tuple(placements))
    if watch:
        # Of a pass and phase, each update saw its own rows and 0 at all others.
        parts = [seen[i : i + len(starts)] for i in range(0, len(seen), len(starts))]
        whole = tuple(jax.tree.map(lambda *x: np.sum(x, axis=0), *p) for p in parts)
        after = _watch(learner, state, batch)
        learnt = learnt._replace(watched=Watched(states, before, after, whole))
    return state, learnt, found


def _watch(
    learner: train_step.Learner,
    state: TrainState,
    batch: RolloutBatch,
    *,
    first: int | None = None,
) -> head.Scores:
    """All that the head tells under the current policy; of the mini-batch that begins
    at completion `first` and 0 elsewhere, or of the batch."""
    include = None
    if first is not None:
        row = np.arange(len(batch.rewards))
        include = (row >= first) & (row < first + learner.minibatch_rows)
    (found,) = _score(
        learner, learner.watch, [state.params], batch, state.critic, include
    )
    return found


def given_scores(
    learner: train_step.Learner,
    state: TrainState,
    reference_params,
    batch: RolloutBatch,
) -> list[head.Scores]:
    """Old scores, recomputed or recorded, then the reference's if there is one."""
    recompute = learner.recompute_old_logprobs
    policies = [state.params] * recompute
    if reference_params is not None:
        policies.append(reference_params)
    scores = score(learner, policies, batch, state.critic) if policies else []
    return scores if recompute else [recorded_scores(learner, batch), *scores]


def recorded_scores(learner: train_step.Learner, batch: RolloutBatch) -> head.Scores:
    """What the sampler says of the policy that it drew from, [B, T]."""
    record = batch.record
    of_base = learner.ratio_of == "base"
    logprobs = record.base_logprobs if of_base else record.behavior_logprobs
    return head.Scores(logprobs=logprobs, entropy=record.entropy)


def score(
    learner: train_step.Learner, policies: list, batch: RolloutBatch, critic=None
) -> list[head.Scores]:
    """Scores of a batch under each of some policies; NumPy [B, T], 0 outside the mask.

    Args:
      learner: the jitted functions.
      policies: parameters of each.
      batch: B rows; a batch of another size or width is compiled for anew.
      critic: the value head of a method that has one.
    """
    return _score(learner, learner.score, policies, batch, critic)


def _score(
    learner: train_step.Learner,
    scorer: Callable[..., head.Scores],
    policies: list,
    batch: RolloutBatch,
    critic,
    include: np.ndarray | None = None,
) -> list[head.Scores]:
    """See `score`; 0 too for rows that `include`, [B] bool, leaves out."""
    placement = place_all(learner, batch, include)
    packed, index = _pack(learner, placement, batch)
    shape = batch.completion_mask.shape
    placed = distributed.put(packed, learner.shardings.packed)
    return [
        jax.tree.map(
            lambda x: packing.scatter(index, np.asarray(x), shape),
            scorer(params, critic, placed),
        )
        for params in policies
    ]


def place_all(
    learner: train_step.Learner,
    batch: RolloutBatch,
    include: np.ndarray | None = None,
) -> packing.Placement:
    """The placement that scores the completions of a batch; all unless `include`,
    [B] bool, leaves some out."""
    return packing.place(
        learner.layout,
        batch.prompt_lengths,
        batch.lengths,
        batch.group_ids,
        include=include,
    )


def prepare(
    learner: train_step.Learner,
    batch: RolloutBatch,
    method_state,
    old: head.Scores,
    reference: head.Scores | None = None,
):
    """Constants, weights and the method's new state for a batch, given its scores.

    Returns:
      Learnt, and the new state of the method on the devices.
    """
    rows = Rows(
        mask=batch.completion_mask,
        old_logprobs=old.logprobs,
        old_entropy=old.entropy,
        # What nobody drew is taken as drawn from the old policy.
        behavior_logprobs=np.where(
            batch.given, old.logprobs, batch.record.behavior_logprobs
        ),
        reference_logprobs=None if reference is None else reference.logprobs,
        rewards=batch.rewards,
        scores=batch.scores,
        group_ids=batch.group_ids,
        prompt_ids=batch.prompt_ids.astype(np.int32),
        old_square_sum=old.square_sum,
        old_cut_logprobs=old.cut_logprobs,
        old_values=old.values,
        baselines=batch.baselines,
        beside=batch.beside if learner.beside_rows else None,
        forks=batch.forks if learner.reads_forks else None,
    )
    placed = distributed.put(rows, learner.row_sharding)
    prepared = learner.prepare(placed, method_state)
    learnt = Learnt(batch=batch, old=old, rows=rows, prepared=jax.device_get(prepared))
    return learnt, prepared.method_state


def make_minibatch(
    learner: train_step.Learner, learnt: Learnt, first: int, phase: int = 0
) -> tuple[train_step.Minibatch, packing.Placement]:
    """The mini-batch that begins at completion `first`, on the devices, and where its
    completions lie.

    Completions whose advantages in this phase are all 0 are left out where the method
    allows it; they still count in the denominator.
    """
    span = slice(first, first + learner.minibatch_rows)
    batch = jax.tree.map(lambda x: x[span], learnt.batch)
    constants, weights, learns = of_minibatch(
        learnt.prepared, span, phase if learner.phases > 1 else None
    )
    include = learns if learner.skips else None
    placement = packing.place(
        learner.layout,
        batch.prompt_lengths,
        batch.lengths,
        batch.group_ids,
        include=include,
    )
    packed, index = _pack(learner, placement, batch)
    if not learner.by_rows:
        constants, weights = jax.tree.map(
            lambda x: packing.gather(index, x), (constants, weights)
        )
    minibatch = train_step.Minibatch(
        packed=packed,
        constants=constants,
        weights=weights,
        index=index if learner.by_rows else None,
        denominator=learnt.prepared.denominators[first // learner.minibatch_rows],
        num_tokens=np.int32(batch.completion_mask.sum()),
    )
    return distributed.put(minibatch, learner.shardings), placement


def of_minibatch(
    prepared: train_step.Prepared, span: slice, phase: int | None
) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray]:
    """What the rows `span` take into an update.

    Args:
      prepared: of the batch.
      span: rows of the mini-batch.
      phase: of the method; None for one that has a single phase.

    Returns:
      (constants [b, T] by name, weights [b, T] or None, [b] bool: the completions that
      have an advantage other than 0 at some token of this phase).
    """
    constants, weights = jax.tree.map(
        lambda x: x[span], (prepared.constants, prepared.weights)
    )
    learns = constants["advantages"] != 0
    if phase is not None:
        own = constants.pop("waits") == phase
        learns = learns & own
        weights = np.where(own, weights, 0)
        constants["signal"] = constants["signal"] & own
    return constants, weights, learns.any(axis=1)


def trained_tokens(
    learner: train_step.Learner, learnt: Learnt, first: int, phase: int
) -> int:
    """Tokens with a gradient in the mini-batch that begins at completion `first`."""
    constants = learnt.prepared.constants
    trained = constants["signal" if learner.silent_at_zero else "mask"]
    if learner.beside_rows:
        trained = trained | constants["beside"]
    if learner.phases > 1:
        trained = trained & (constants["waits"] == phase)
    return int(trained[first : first + learner.minibatch_rows].sum())


def look_back(learner: train_step.Learner, state: TrainState, learnt: Learnt):
    """What the loss makes of each token now that the updates are done.

    Returns:
      terms.Terms and the current head.Scores, NumPy, [B, T] each. Ratios compare the
      policy after the step with the one before it.
    """
    now = learnt.old
    known = {name for name, x in now._asdict().items() if x is not None}
    # Without an update the policy is the old one.
    if learnt.updates or not learner.outputs <= known:
        (now,) = score(learner, [state.params], learnt.batch, state.critic)
    current = {name: x for name, x in now._asdict().items() if x is not None}
    constants = learnt.prepared.constants
    terms = jax.device_get(learner.inspect(current, constants, state.method_state))
    return terms, now


def _pack(
    learner: train_step.Learner, placement: packing.Placement, batch: RolloutBatch
):
    """A placement as arrays, of the size that the worst case of this shape needs."""
    layout = learner.layout
    longest = batch.prompt_tokens.shape[1] + batch.completion_tokens.shape[1]
    packed, index = packing.pack(
        layout,
        placement,
        batch.prompt_tokens,
        batch.completion_tokens,
        num_micros=layout.num_micros(len(batch.rewards), longest),
        pad_targets_to=learner.width,
    )
    if learner.ratio_of == "sampled":
        drawn = packing.Drawn(
            temperature=packing.gather(index, batch.record.temperature),
            cut_logit=packing.gather(index, batch.record.cut_logit),
        )
        packed = packed._replace(drawn=drawn)
    return packed, index
