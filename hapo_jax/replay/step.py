"""A step again, from its record: statistics, advantages, clips and loss, no model.

The functions are those that the learner runs (`method.make`, `train_step.prepare`,
`learn.of_minibatch`, `batch_loss.token_loss`), on what the policy said of each token
then.
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hapo_jax import assembly
from hapo_jax.algo import batch_loss
from hapo_jax.algo import method as method_lib
from hapo_jax.algo.terms import Rows, Terms
from hapo_jax.config import arguments, defaults, presets, resolution, upgrade
from hapo_jax.learner import learn, metrics, train_step
from hapo_jax.learner.head import Scores
from hapo_jax.runs import batches
from hapo_jax.runs import records as records_lib
from hapo_jax.runs.batches import Recorded
from hapo_jax.system.errors import Refused

_SECTION = "algo."


class Replayed(NamedTuple):
    """A step under a method; NumPy, B rows of T columns in the order of the record.

    Attributes:
      recorded: the step.
      config: whose section `algo` was in force.
      terms: each token's, of the last update that it was in; 0 where it was in none.
      push: [B, T] float32, minus the derivative of the loss in the token's log-prob,
        summed over the updates: above 0 the token is made more probable. A gradient
        through the entropy is not in it.
      metrics: of the step, by their names in metrics.jsonl.
      fresh: stages whose state the run did not have: they began as in a first step.
    """

    recorded: Recorded
    config: ConfigDict
    terms: Terms
    push: np.ndarray
    metrics: dict[str, float]
    fresh: tuple[str, ...]


def replay(
    workdir: str | pathlib.Path,
    step: int,
    changes: Mapping[str, Any] | None = None,
    *,
    method: str | None = None,
    at: str | int = "updates",
) -> Replayed:
    """Makes a recorded step again.

    Statistics are of the whole batch, the loss of the run's own mini-batches. The
    completions stay those that were drawn, at the temperatures at which they were.

    Args:
      workdir: of a run with log.record_groups=all.
      step: one of `batches.steps`.
      changes: settings of the section `algo`, by their whole names.
      method: one of algo.methods.METHODS with its own settings, without the run's
        departures from its method; None for the run's method with the run's settings.
      at: the policy that the recorded one is compared with: "updates", for each token
        the one that its update began with; "after", the one behind the step; or the
        number of an update, from 0: its tokens alone.

    Raises:
      Refused: no such step or method, a key that is not of the section `algo`, or
        something that the method reads and the record does not have.
    """
    run = upgrade.from_saved(records_lib.read_config(workdir))
    return of_record(batches.read(workdir, step), run, changes, method=method, at=at)


def of_record(
    recorded: Recorded,
    run: ConfigDict,
    changes: Mapping[str, Any] | None = None,
    *,
    method: str | None = None,
    at: str | int = "updates",
) -> Replayed:
    """See `replay`; of a record at hand, and the resolved config of its run."""
    config = _config(run, changes or {}, method)
    made = assembly.make_method(config, num_prompts=recorded.num_prompts)
    _check(made, run, recorded)
    state, fresh = _state(made, recorded)
    prepared = jax.device_get(
        jax.jit(
            functools.partial(
                train_step.prepare, made, minibatch_rows=recorded.minibatch_rows
            )
        )(_rows(made, recorded), state)
    )
    shape = recorded.rows.mask.shape
    push, terms, parts = np.zeros(shape, np.float32), None, []
    for span, seen, phase in _updates(made, recorded, at):
        found = _update(made, prepared, span, seen, phase)
        if found is None:
            continue
        part, own, of_terms, of_push = found
        parts.append(part)
        push[span] += of_push
        if terms is None:
            terms = jax.tree.map(lambda x: np.zeros(shape, x.dtype), of_terms)
        for whole, x in zip(terms, of_terms, strict=True):
            whole[span] = np.where(own, x, whole[span])
    numbers = metrics.of_batch(recorded.rows, prepared)
    if parts:
        numbers |= metrics.of_losses(parts)
    else:
        terms = _nothing(shape)
    return Replayed(recorded, config, terms, push, numbers, fresh)


def _config(run: ConfigDict, changes: Mapping[str, Any], method: str | None):
    """The run's config with the settings of a method and some changes."""
    config = run.copy_and_resolve_references()
    with config.unlocked():
        if method is not None:
            config.algo = defaults.default().algo
            presets.apply_method(config, method)
        for key, value in changes.items():
            if not key.startswith(_SECTION):
                raise Refused(
                    f"changes has {key!r}, and a replay can change settings of the "
                    "section algo alone: the completions are drawn already."
                )
            arguments.override(config, key, str(value))
    return resolution.resolve(config).config


def _check(method: method_lib.Method, run: ConfigDict, recorded: Recorded) -> None:
    """Refuses what the record has not."""
    given = recorded.rows
    lacks = {
        "reference_logprobs": given.reference_logprobs is None,
        "baselines": not run.rollout.greedy_baseline,
        "old_values": given.old_values is None,
        "forks": given.forks is None,
    }
    for name, lacking in lacks.items():
        if lacking and name in method.reads:
            raise Refused(
                f"this method reads {name}, and the run's method ({run.method}) did "
                "not have it; record a run that does, or leave out what reads it"
                + (", algo.kl.strength=0." if name == "reference_logprobs" else ".")
            )
    if method.ratio_of != run.algo.ratio_of:
        raise Refused(
            f"algo.ratio_of={method.ratio_of!r}: the run has recorded log-probs of "
            f"algo.ratio_of={run.algo.ratio_of!r}; leave it."
        )
    if "cut_logprobs" in method.old_outputs and method.cut_share != run.algo.cut_share:
        raise Refused(
            f"algo.cut_share={method.cut_share}: the run has recorded log-probs under "
            f"algo.cut_share={run.algo.cut_share}; leave it."
        )
    if method.imitation_weight is not None and not run.algo.demonstrations.share:
        raise Refused(
            "this method imitates demonstrations, and the run had none; record a run "
            "with algo.demonstrations.share."
        )


def _rows(method: method_lib.Method, recorded: Recorded) -> Rows:
    """As the learner would give them to the method."""
    unread = {
        f"old_{name}": None
        for name in ("square_sum", "cut_logprobs")
        if name not in method.old_outputs
    }
    if not method.needs_reference:
        unread["reference_logprobs"] = None
    return recorded.rows._replace(**unread)


def _state(method: method_lib.Method, recorded: Recorded):
    """The method's state before the step, as far as the run's method had it.

    Returns:
      The state, and the stages whose state is as before a first step.
    """
    initial = method.init_state()
    known, fresh = recorded.method_state, set()

    def leaf(path, first):
        found = known.get(jax.tree_util.keystr(path))
        if found is None or found.shape != np.shape(first):
            fresh.add(path[0].key)
            return first
        return jnp.asarray(found, jnp.asarray(first).dtype)

    return jax.tree_util.tree_map_with_path(leaf, initial), tuple(sorted(fresh))


def _updates(
    method: method_lib.Method, recorded: Recorded, at: str | int
) -> Iterator[tuple[slice, Scores, int | None]]:
    """(rows, what the policy said of them, the method's phase) of each update."""
    b, phases = recorded.minibatch_rows, range(method.phases)
    spans = [slice(i, i + b) for i in range(0, len(recorded.rows.mask), b)]
    orders = []
    for of_pass in _seen(recorded, at):
        for phase in phases:
            # A pass of the run may have had other phases than this method has.
            seen = of_pass[min(phase, len(of_pass) - 1)]
            said = phase if method.phases > 1 else None
            orders += [(span, seen, said) for span in spans]
    if isinstance(at, int):
        if not 0 <= at < len(orders):
            raise Refused(
                f"{at=} must be 'updates', 'after', or the number of an update in "
                f"[0, {len(orders)})."
            )
        orders = orders[at : at + 1]
    for span, seen, phase in orders:
        yield span, jax.tree.map(lambda x, span=span: x[span], seen), phase


def _seen(recorded: Recorded, at: str | int) -> list[tuple[Scores, ...]]:
    """Of each pass, what the policy said in each of the run's phases."""
    if at == "after":
        return [(recorded.after,)]
    if at != "updates" and not isinstance(at, int):
        raise Refused(
            f"{at=} must be 'updates', 'after', or the number of an update, from 0."
        )
    if not recorded.passes:
        raise Refused(
            f"{at=}: step {recorded.step} has made no update (learner.passes=0); "
            "replay it with at='after'."
        )
    n = recorded.phases
    return [recorded.seen[i * n : (i + 1) * n] for i in range(recorded.passes)]


def _update(
    method: method_lib.Method,
    prepared: train_step.Prepared,
    span: slice,
    seen: Scores,
    phase: int | None,
):
    """What an update makes of its rows; None for one that learns from none.

    Returns:
      (numerator, denominator, sums), the tokens that it is of, [b, T] bool, their terms
      and their pushes.
    """
    constants, weights, learns = learn.of_minibatch(prepared, span, phase)
    own = np.asarray(constants["mask"])
    if method.silent_at_zero and not method.by_rows:
        own = own & learns[:, None]
    if not own.any():
        return None
    lacking = [n for n in method.outputs if getattr(seen, n) is None]
    lacking += ["values"] * (method.has_critic and seen.values is None)
    assert not lacking, lacking
    current = {n: getattr(seen, n) for n in ("logprobs", *method.outputs)}
    values = seen.values if method.has_critic else None
    part, terms, push = jax.device_get(
        _loss(
            method,
            current,
            values,
            {**constants, "mask": own},
            weights,
            prepared.denominators[span.start // (span.stop - span.start)],
            prepared.method_state,
        )
    )
    waits = prepared.constants.get("waits")
    if phase is not None:
        own = own & (waits[span] == phase)
    return part, own, terms, push


@functools.partial(jax.jit, static_argnums=0)
def _loss(method, current, values, constants, weights, denominator, state):
    """The loss of a mini-batch in its parts, its terms and pushes."""

    def numerator(logprobs):
        given = {**current, "logprobs": logprobs}
        if method.by_rows:
            total, counted, sums = batch_loss.rows_loss(method, given, constants, state)
            return total, (counted, sums)
        total, sums = batch_loss.token_loss(method, given, constants, weights, state)
        return total, (jnp.float32(0), sums)

    (total, (counted, sums)), slope = jax.value_and_grad(numerator, has_aux=True)(
        current["logprobs"]
    )
    divisor = counted + denominator
    if values is not None:
        if weights is None:
            weights = batch_loss.row_weights(method, current, constants, state)
        _, more = batch_loss.critic_loss(method, values, constants, weights)
        sums = sums | more
    terms = method.terms(current, constants, state)
    push = -slope / jnp.where(divisor == 0, 1, divisor)
    return (total, divisor, sums), terms, push


def _nothing(shape: tuple[int, int]) -> Terms:
    """The terms of a step that learns from no token."""
    flags = {"counted", "clipped_low", "clipped_high", "dual_clipped"}
    return Terms(
        **{
            name: np.zeros(shape, bool if name in flags else np.float32)
            for name in Terms._fields
        }
    )
