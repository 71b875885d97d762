"""Whole batches in a run's folder: all that a step's numbers follow from.

    batches/step_<k>.parquet      with log.record_groups=all

A row per completion, those beside the batch and empty ones too, in the order of the
mini-batches. `replay/` makes a step's statistics, advantages, clips and losses from it
again, under any method and without a model. The text is in `rollouts/`.
"""

import io
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict
from pyarrow import parquet

from hapo_jax.algo.terms import Rows
from hapo_jax.learner.head import Scores
from hapo_jax.learner.learn import Learnt
from hapo_jax.runs import records as records_lib
from hapo_jax.runs.folder import RunFolder
from hapo_jax.system.errors import Refused

_FORMAT = 1
_SCALARS = ("step", "minibatch_rows", "phases", "num_prompts")
_AFTER, _SEEN = "after_", "seen{}_"  # before the names of scores
_ABOUT, _STATE = b"hapo_jax", b"hapo_jax.method_state"
# Columns of a completion and of its tokens, by the field of Rows that they are.
_PER_COMPLETION = (
    *("rewards", "scores", "group_ids", "prompt_ids", "baselines", "beside"),
)
_PER_TOKEN = (
    *("old_logprobs", "old_entropy", "behavior_logprobs", "reference_logprobs"),
    *("old_square_sum", "old_cut_logprobs", "old_values", "forks"),
)
# Bytes of a token in a step's two records before compression: tokens and temperatures,
# the columns above, six outputs of each scoring, and `records.PER_TOKEN` with its text.
_ROW_COLUMNS, _OUTPUTS, _BYTES = 9, 6, 4
_ROLLOUT_BYTES = _BYTES * len(records_lib.PER_TOKEN) + 8


class Recorded(NamedTuple):
    """A step as its record has it; NumPy. B rows of T columns, 0 outside the mask.

    Attributes:
      step: of the run.
      tokens: [B, T] int32.
      temperature: [B, T] float32, at which each was drawn.
      rows: what the method was given. Of the old policy there is all that the head can
        tell, whether or not the run's method reads it.
      after, seen: see `learn.Watched`.
      method_state: before the step; leaves by their path.
      minibatch_rows: b.
      phases: of the run's method, so that `seen` has `phases` for each pass.
      num_prompts: training problems of the run.
    """

    step: int
    tokens: np.ndarray
    temperature: np.ndarray
    rows: Rows
    after: Scores
    seen: tuple[Scores, ...]
    method_state: dict[str, np.ndarray]
    minibatch_rows: int
    phases: int
    num_prompts: int

    @property
    def passes(self) -> int:
        """Over the batch."""
        return len(self.seen) // self.phases


def largest(config: ConfigDict, *, completions: int, phases: int) -> float:
    """What the records of a run may take in all, in GiB: not compressed, and with
    completions as long as they may be.

    Args:
      config: with log.record_groups=all.
      completions: of a step's batch, those beside it included.
      phases: of the method.

    Raises:
      Refused: more than log.record_gib.
    """
    log, longest = config.log, completions * config.rollout.max_completion_tokens
    tokens = (config.num_steps // log.record_every_steps + 1) * longest
    if config.max_sampled_tokens:  # a token is of one step's batch
        tokens = min(tokens, config.max_sampled_tokens + longest)
    columns = _ROW_COLUMNS + _OUTPUTS * (1 + config.learner.passes * phases)
    gib = tokens * (_ROLLOUT_BYTES + _BYTES * columns) / 2**30
    if gib > log.record_gib:
        raise Refused(
            f"log.record_groups=all may take {gib:.3g} GiB, of {tokens:,} tokens in "
            f"records of every {log.record_every_steps} steps, and log.record_gib="
            f"{log.record_gib:g} is the limit; raise it, or log.record_every_steps."
        )
    return gib


def of_step(
    step: int, learnt: Learnt, *, minibatch_rows: int, phases: int, num_prompts: int
) -> Recorded:
    """The record of a step; the arguments are those of `Recorded`.

    Args:
      learnt: with `watched`.
    """
    watched, rows = learnt.watched, learnt.rows
    before = watched.before
    rows = rows._replace(
        old_square_sum=_first(rows.old_square_sum, before.square_sum),
        old_cut_logprobs=_first(rows.old_cut_logprobs, before.cut_logprobs),
    )
    return Recorded(
        step=step,
        tokens=learnt.batch.completion_tokens,
        temperature=learnt.batch.record.temperature,
        rows=rows,
        after=watched.after,
        seen=watched.seen,
        method_state=_leaves(watched.method_state),
        minibatch_rows=minibatch_rows,
        phases=phases,
        num_prompts=num_prompts,
    )


def steps(workdir: str | pathlib.Path) -> list[int]:
    """The steps that `read` can read, ascending."""
    return sorted(records_lib.steps_in(pathlib.Path(workdir) / records_lib.BATCHES, ".parquet"))


def read(workdir: str | pathlib.Path, step: int) -> Recorded:
    """The batch of a step.

    Raises:
      Refused: there is none, or its file is broken.
    """
    folder = pathlib.Path(workdir) / records_lib.BATCHES
    found = records_lib.steps_in(folder, ".parquet")
    if step not in found:
        there = f"has the steps {sorted(found)}" if found else "holds none"
        raise Refused(
            f"{step=}: {folder} {there}; whole batches are recorded with "
            "--config.log.record_groups=all, every log.record_every_steps steps."
        )
    try:
        table = parquet.read_table(found[step])
        about = json.loads(table.schema.metadata[_ABOUT])
        state = dict(np.load(io.BytesIO(table.schema.metadata[_STATE])))
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise Refused(f"{found[step]} is broken ({error}); remove it.") from None
    if about["format"] > _FORMAT:
        raise Refused(
            f"{found[step]} was written by a later version; read it with that."
        )
    return _recorded(table, about, state)


def _recorded(table: pa.Table, about: dict[str, int], state) -> Recorded:
    """A file's content as arrays."""
    names = set(table.column_names)
    lengths = table["length"].to_numpy()
    mask = np.arange(about["width"]) < lengths[:, None]

    def of_tokens(name: str) -> np.ndarray | None:
        if name not in names:
            return None
        flat = table[name].combine_chunks().flatten().to_numpy()
        rows = np.zeros(mask.shape, flat.dtype)
        rows[mask] = flat
        return rows

    def of_scores(prefix: str) -> Scores:
        return Scores(**{n: of_tokens(prefix + n) for n in Scores._fields})

    per_completion = {
        name: table[name].to_numpy() if name in names else None
        for name in _PER_COMPLETION
    }
    rows = Rows(mask=mask, **per_completion, **{n: of_tokens(n) for n in _PER_TOKEN})
    return Recorded(
        tokens=of_tokens("tokens"),
        temperature=of_tokens("temperature"),
        rows=rows,
        after=of_scores(_AFTER),
        seen=tuple(of_scores(_SEEN.format(i)) for i in range(about["updates"])),
        method_state=state,
        **{name: about[name] for name in _SCALARS},
    )


def to_bytes(recorded: Recorded) -> bytes:
    """The file of a record; arrays that are None get no column."""
    rows, mask = recorded.rows, np.asarray(recorded.rows.mask, bool)
    per_token = {"tokens": recorded.tokens, "temperature": recorded.temperature}
    per_token |= {name: getattr(rows, name) for name in _PER_TOKEN}
    scores = [(_AFTER, recorded.after)]
    scores += [(_SEEN.format(i), seen) for i, seen in enumerate(recorded.seen)]
    for prefix, of_policy in scores:
        per_token |= {f"{prefix}{n}": x for n, x in of_policy._asdict().items()}
    lengths = mask.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns: dict[str, Any] = {"length": pa.array(lengths.astype(np.int32))}
    for name in _PER_COMPLETION:
        if (values := getattr(rows, name)) is not None:
            columns[name] = pa.array(np.asarray(values))
    for name, values in per_token.items():
        if values is not None:
            flat = pa.array(np.asarray(values)[mask])
            columns[name] = pa.ListArray.from_arrays(offsets, flat)
    about = {name: getattr(recorded, name) for name in _SCALARS}
    about |= {"format": _FORMAT, "width": mask.shape[1], "updates": len(recorded.seen)}
    state = io.BytesIO()
    np.savez(state, **recorded.method_state)
    table = pa.table(columns).replace_schema_metadata(
        {_ABOUT: json.dumps(about).encode(), _STATE: state.getvalue()}
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree by their path, as `Recorded.method_state` has them."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def _first(*arrays: np.ndarray | None) -> np.ndarray | None:
    """The first that is there."""
    return next((x for x in arrays if x is not None), None)
