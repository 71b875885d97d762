"""The requests that wait for a row, and the prompts that were read for them."""

import collections
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from hapo_jax.model import decoding, sharding
from hapo_jax.rollout.programs import Programs
from hapo_jax.rollout.requests import Request


class Prefilled(NamedTuple):
    """Prompts that were read, with the requests that still wait for a row.

    Attributes:
      hidden: [n, D], of each prompt's last token.
      prompts: keys and values of the n prompts.
      groups: of (index, Request), one per prompt.
    """

    hidden: jax.Array
    prompts: decoding.Prompts
    groups: list[collections.deque]


class Taken(NamedTuple):
    """Requests of one prompt that get rows.

    Attributes:
      prefilled: the prompts that were read together with theirs.
      source: which of those prompts is theirs.
      requests: (index, Request) of each.
    """

    prefilled: Prefilled
    source: int
    requests: list[tuple[int, Request]]


class Queue:
    """Requests in their order, and the prompts that were read for the next of them."""

    def __init__(self, programs: Programs, params, requests: Iterable[Request]):
        self._programs, self._params = programs, params
        # Neighbours of one prompt make a group: the prompt is read once for all.
        numbered = enumerate(requests)
        self._groups = itertools.groupby(numbered, key=lambda x: x[1].prompt_id)
        self._ready: collections.deque[Prefilled] = collections.deque()
        # One group ahead, so that `empty` is known without reading a prompt.
        self._next = self._read_group()

    @property
    def empty(self) -> bool:
        """No request waits."""
        return not self._ready and self._next is None

    def take(self, rows: int, wanted: int) -> Taken | None:
        """Up to `rows` requests of one prompt; None if no request waits.

        `wanted` is how many lanes are free, a hint how many prompts to read at once.
        """
        if not self._ready and self._next is not None:
            self._prefill(wanted)
        if not self._ready:
            return None
        prefilled = self._ready[0]
        source = next(i for i, group in enumerate(prefilled.groups) if group)
        group = prefilled.groups[source]
        taken = [group.popleft() for _ in range(min(rows, len(group)))]
        # The arrays of prompts that were read go once nobody waits for them.
        if not any(prefilled.groups):
            self._ready.popleft()
        return Taken(prefilled=prefilled, source=source, requests=taken)

    def _read_group(self) -> collections.deque | None:
        for _, members in self._groups:
            group = collections.deque(members)
            for index, request in group:
                _check(self._programs, index, request)
            return group
        return None

    def _prefill(self, wanted: int) -> None:
        """Reads the next prompts: as many as lanes are free, in one of few sizes."""
        # Every size is a compilation: few prompts are padded up to the next size.
        sizes = self._programs.prefill_sizes
        size = next((s for s in sizes if s >= wanted), sizes[-1])
        groups = []
        while self._next is not None and len(groups) < size:
            groups.append(self._next)
            self._next = self._read_group()
        columns = self._programs.max_prompt_tokens
        tokens = np.full((size, columns), self._programs.sampling.pad_id, np.int32)
        lengths = np.ones(size, np.int32)  # nobody continues the prompts of padding
        for i, group in enumerate(groups):
            prompt = group[0][1].prompt_tokens
            lengths[i] = len(prompt)
            tokens[i, columns - len(prompt) :] = prompt
        # Among several processes jit takes no split arrays from the host.
        by_row = sharding.batch_sharding(self._programs.mesh)
        tokens, lengths = jax.device_put((tokens, lengths), by_row)
        hidden, prompts = self._programs.prefill(self._params, tokens, lengths)
        self._ready.append(Prefilled(hidden=hidden, prompts=prompts, groups=groups))


def _check(programs: Programs, index: int, request: Request) -> None:
    """Raises ValueError if a request is longer than the programs were made for."""
    n, limit = len(request.prompt_tokens), request.max_tokens
    if not 1 <= n <= programs.max_prompt_tokens:
        raise ValueError(
            f"request {index}: {n} prompt tokens, and max_prompt_tokens="
            f"{programs.max_prompt_tokens}; cut the prompt or raise it."
        )
    if not 1 <= limit <= programs.max_completion_tokens:
        raise ValueError(
            f"request {index}: max_tokens={limit} must be between 1 and "
            f"max_completion_tokens={programs.max_completion_tokens}."
        )
