"""Where each token of a batch lies: completions in rows of a fixed width. NumPy only.

    [B, P] prompts, [B, T] completions ─ place ► rows of W columns ─ pack ► Packed

A *unit* is a prompt with the completions that share it. It lies in one row as

    p₀ … pₙ₋₂ | pₙ₋₁ a₀ a₁ … | pₙ₋₁ b₀ b₁ …

the prompt but for its last token, then a branch per completion, which that last token
opens. A token sees the earlier tokens of its unit that are of the prompt or of its own
branch, so each completion is computed as if it were alone. The state of a column
predicts the next one, in every unit: this file holds the only shift between a token
and the state that predicts it.

One sequence per row (padding), several (packing) and several with a common prompt are
three placements of this one layout.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """How packed rows are cut, fixed for a run so that programs compile once.

    Attributes:
      width: W, columns per row; at least the longest prompt plus completion.
      micro_rows: rows per micro-batch over the whole mesh, a multiple of `shards`.
      shards: parts that the rows of a micro-batch are split into over the mesh.
      packing: several sequences may lie in a row.
      share_prompts: completions of a group may share their prompt's columns; needs
        `packing`.
    """

    width: int
    micro_rows: int
    shards: int
    packing: bool
    share_prompts: bool

    def num_micros(self, num_completions: int, longest: int) -> int:
        """Micro-batches that `num_completions` of at most `longest` tokens may need.

        First fit opens a row only for a sequence that fits into none before, and a row
        with fewer than W // longest sequences has room for one more.
        """
        per_row = self.width // longest if self.packing else 1
        rows = -(-num_completions // per_row)
        return -(-rows // self.micro_rows)

    def num_targets(self, multiple: int) -> int:
        """N, places for targets of a shard's rows, rounded up to a multiple."""
        columns = self.micro_rows // self.shards * self.width
        return -(-columns // multiple) * multiple


class Placement(NamedTuple):
    """The place of every completion.

    Attributes:
      row: [B] int32, its row, or -1 if it is left out.
      start: [B] int32, column of the last prompt token, which opens the branch.
      unit_start: [B] int32, first column of its unit.
      prompt_lengths, lengths: [B] int32, tokens.
      num_rows: rows with a token in them.
      computed_columns: columns of the micro-batches that have a token in them.
    """

    row: np.ndarray
    start: np.ndarray
    unit_start: np.ndarray
    prompt_lengths: np.ndarray
    lengths: np.ndarray
    num_rows: int
    computed_columns: int

    def num_micros(self, layout: Layout) -> int:
        """Micro-batches with a token in them."""
        return -(-self.num_rows // layout.micro_rows)

    @property
    def computed_tokens(self) -> int:
        """Columns that hold a token."""
        used = self.row >= 0
        # By unit, which its row and first column name: its prompt counts once.
        heads = {
            (r, s): n - 1
            for r, s, n in zip(
                self.row[used], self.unit_start[used], self.prompt_lengths[used]
            )
        }
        return int(sum(heads.values()) + used.sum() + self.lengths[used].sum())


class Drawn(NamedTuple):
    """How targets were drawn; float32, [M, S, N] each, see `TokenRecord`.

    Attributes:
      temperature: 0 for a target that was not drawn, or greedily.
      cut_logit: what separates the tokens that could be drawn from the others.
    """

    temperature: np.ndarray
    cut_logit: np.ndarray


class Packed(NamedTuple):
    """A placement as arrays for the devices. m = micro_rows, S = shards, int32 all.

    The targets (the tokens to be scored) of the m/S rows of a shard stand one after
    another, so that the head runs over them and over nothing else.

    Attributes:
      tokens, positions: [M, m, W]; positions count from 0 within a sequence.
      segment_ids: [M, m, W], which unit of its row; 0 marks padding.
      branch_ids: [M, m, W], which completion of its unit; 0 for the prompt.
      places: [M, m, W], the place of the target that this column's state predicts; N
        for none.
      sources: [M, S, N], column of the state that predicts a target, counted over the
        m/S rows of its shard.
      targets: [M, S, N], the token itself.
      counts: [M, S], targets there are; those behind are padding.
      num_micros: scalar, micro-batches with a token in them, the first ones.
      drawn: how the targets were drawn; None where log-probs are not of that.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    branch_ids: np.ndarray
    places: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    counts: np.ndarray
    num_micros: np.ndarray
    drawn: Drawn | None = None


class Index(NamedTuple):
    """Which token of the [B, T] arrays a target is; [M, S, N] int32 each.

    Attributes:
      row: the completion, B for padding.
      column: its token.
    """

    row: np.ndarray
    column: np.ndarray


def place(
    layout: Layout,
    prompt_lengths: np.ndarray,
    lengths: np.ndarray,
    group_ids: np.ndarray,
    *,
    include: np.ndarray | None = None,
) -> Placement:
    """Places completions into rows.

    Without packing every completion gets a row, in their order. With it, units go into
    rows by first fit, longest first. Prompts are shared only where that needs fewer
    rows, or as many rows with fewer tokens in them. A completion without tokens gets no
    place.

    Args:
      layout: widths and switches.
      prompt_lengths, lengths: [B] int, tokens of prompts and completions.
      group_ids: [B] int, equal where prompts are equal.
      include: [B] bool, False for completions to leave out.

    Raises:
      ValueError: a sequence is longer than a row.
    """
    kept = np.asarray(lengths) > 0
    if include is not None:
        kept = kept & include
    total = np.where(kept, prompt_lengths + lengths, 0)
    if total.max(initial=0) > layout.width:
        raise ValueError(
            f"completion {int(total.argmax())} has {int(total.max())} tokens with its "
            f"prompt, and a row only {layout.width}; raise learner.row_tokens."
        )
    chosen = np.flatnonzero(kept)
    single = [[int(i)] for i in chosen]
    if not layout.packing:
        rows = range(len(single))
        return _place_units(layout, single, prompt_lengths, lengths, rows=rows)
    placements = [_place_units(layout, single, prompt_lengths, lengths)]
    if layout.share_prompts:
        units = _shared_units(layout, chosen, prompt_lengths, lengths, group_ids)
        placements.append(_place_units(layout, units, prompt_lengths, lengths))
    # Rows cost whether they are full or not; among equals, fewer tokens cost less.
    return min(
        placements,
        key=lambda placement: (placement.num_rows, placement.computed_tokens),
    )


def _shared_units(layout, chosen, prompt_lengths, lengths, group_ids):
    """Completions of a group together, as many as fit into a row."""
    units = []
    for group in np.unique(group_ids[chosen]):
        members = chosen[group_ids[chosen] == group]
        prompt = int(prompt_lengths[members[0]]) - 1
        sizes = [int(lengths[i]) + 1 for i in members]
        bins = _first_fit(sizes, layout.width - prompt)
        parts = [[] for _ in range(max(bins) + 1)]
        for i, part in zip(members, bins):
            parts[part].append(int(i))
        units += parts
    return units


def _place_units(
    layout, units, prompt_lengths, lengths, rows: Sequence[int] | None = None
):
    """A placement of given units, in given rows or by first fit."""
    prompt_lengths, lengths = (
        np.asarray(x, np.int32) for x in (prompt_lengths, lengths)
    )
    sizes = [
        int(prompt_lengths[unit[0]]) - 1 + sum(int(lengths[i]) + 1 for i in unit)
        for unit in units
    ]
    if rows is None:
        rows = _first_fit(sizes, layout.width)
    row, start, unit_start = np.full((3, len(lengths)), -1, np.int32)
    placement = Placement(
        row=row,
        start=start,
        unit_start=unit_start,
        prompt_lengths=prompt_lengths,
        lengths=lengths,
        num_rows=0,
        computed_columns=0,
    )
    ends: dict[int, int] = {}  # of each row, the first column that is free
    for unit, size, row in zip(units, sizes, rows):
        begin = ends.get(row, 0)
        # The prompt once, but for its last token: every branch opens with a copy of
        # that, whose state predicts the branch's first token.
        column = begin + int(prompt_lengths[unit[0]]) - 1
        for i in unit:
            placement.row[i], placement.unit_start[i] = row, begin
            placement.start[i] = column
            column += 1 + int(lengths[i])
        ends[row] = begin + size
    placement = placement._replace(num_rows=max(ends, default=-1) + 1)
    columns = placement.num_micros(layout) * layout.micro_rows * layout.width
    return placement._replace(computed_columns=columns)


def _first_fit(sizes: Sequence[int], room: int) -> list[int]:
    """Bin of each item, by first fit in the order of falling sizes."""
    bins, left = [0] * len(sizes), np.zeros(0, np.int64)
    # Stable, so that equal sizes keep their order and a placement can be made again.
    for i in np.argsort(-np.asarray(sizes, np.int64), kind="stable"):
        fits = np.flatnonzero(left >= sizes[i])
        if len(fits):
            bins[i] = int(fits[0])
        else:
            bins[i] = len(left)
            left = np.append(left, room)
        left[bins[i]] -= sizes[i]
    return bins


def pack(
    layout: Layout,
    placement: Placement,
    prompt_tokens: np.ndarray,
    completion_tokens: np.ndarray,
    *,
    num_micros: int,
    pad_targets_to: int = 1,
) -> tuple[Packed, Index]:
    """The arrays of a placement.

    Args:
      layout, placement: where everything goes.
      prompt_tokens: [B, P] int32, padded on the left.
      completion_tokens: [B, T] int32, padded on the right.
      num_micros: M, micro-batches to allocate; see `Layout.num_micros`.
      pad_targets_to: N is a multiple of this.

    Returns:
      Packed, and where the targets stand in [B, T].

    Raises:
      ValueError: the placement needs more than M micro-batches.
    """
    M, m, S, W = num_micros, layout.micro_rows, layout.shards, layout.width
    used = placement.num_micros(layout)
    if used > M:
        raise ValueError(f"the placement needs {used} micro-batches, more than {M}.")
    B, P = prompt_tokens.shape
    per_shard = m // S
    N = layout.num_targets(pad_targets_to)
    # Shapes follow from the run's sizes alone and not from the batch, so that one
    # program serves all batches; N and B, one past the end, mark padding.
    tokens, positions, segments, branches = np.zeros((4, M * m, W), np.int32)
    places = np.full((M * m, W), N, np.int32)
    sources, targets, column = np.zeros((3, M * S, N), np.int32)
    row = np.full((M * S, N), B, np.int32)
    counts = np.zeros(M * S, np.int32)

    # By row, then by column: targets then stand in the order of their states.
    placed = np.flatnonzero(placement.row >= 0)
    placed = placed[np.lexsort((placement.start[placed], placement.row[placed]))]
    unit = branch = 0
    last = (-1, -1)
    for i in placed:
        r, start, begin = placement.row[i], placement.start[i], placement.unit_start[i]
        n, t = placement.prompt_lengths[i], placement.lengths[i]
        if (r, begin) != last:  # the first completion of its unit brings the prompt
            unit = unit + 1 if r == last[0] else 1
            branch, last = 0, (r, begin)
            tokens[r, begin : begin + n - 1] = prompt_tokens[i, P - n : P - 1]
            positions[r, begin : begin + n - 1] = np.arange(n - 1)
            segments[r, begin : begin + n - 1] = unit
        branch += 1
        # The branch counts on from its prompt, wherever in the row it lies.
        span = slice(start, start + t + 1)
        tokens[r, start] = prompt_tokens[i, P - 1]
        tokens[r, start + 1 : start + 1 + t] = completion_tokens[i, :t]
        positions[r, span] = np.arange(n - 1, n + t)
        segments[r, span], branches[r, span] = unit, branch
        # Devices hold whole rows, and the head runs over the targets of a device's
        # rows: so targets are numbered within the shard of their row.
        shard = r // per_shard
        first = counts[shard]
        at = slice(first, first + t)
        # The shift: column start + k predicts completion token k, which is written
        # one column further; the last token predicts nothing.
        places[r, start : start + t] = np.arange(first, first + t)
        sources[shard, at] = r % per_shard * W + np.arange(start, start + t)
        targets[shard, at] = completion_tokens[i, :t]
        row[shard, at], column[shard, at] = i, np.arange(t)
        counts[shard] += t
    # Micro-batches are the first axis, for the loop over them; a shard's rows follow
    # one another, so this only gives the axes their names.
    by_row, by_target = (M, m, W), (M, S, N)
    packed = Packed(
        tokens=tokens.reshape(by_row),
        positions=positions.reshape(by_row),
        segment_ids=segments.reshape(by_row),
        branch_ids=branches.reshape(by_row),
        places=places.reshape(by_row),
        sources=sources.reshape(by_target),
        targets=targets.reshape(by_target),
        counts=counts.reshape(M, S),
        num_micros=np.int32(used),
    )
    index = Index(row=row.reshape(by_target), column=column.reshape(by_target))
    return packed, index


def gather(index: Index, x: np.ndarray) -> np.ndarray:
    """[B, T] → [M, S, N] in the order of the targets, 0 in padding."""
    # Row B, which padding points to.
    padded = np.concatenate([x, np.zeros((1, x.shape[1]), x.dtype)])
    return padded[index.row, index.column]


def scatter(index: Index, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[M, S, N] → [B, T]; 0 where no target stands."""
    B, T = shape
    out = np.zeros((B + 1, T), x.dtype)  # padding is written to row B
    out[index.row, index.column] = x
    return out[:B]
