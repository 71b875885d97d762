"""What every engine is asked to do: model shapes, prompts and planned lengths.

`workload.json` is the definition; this file gives it types, and counts the floating
point operations that no engine can do without. Imports numpy alone, since the workers
of the peers read it in environments that lack this package.
"""

import dataclasses
import functools
import json
import pathlib

import numpy as np

_FILE = pathlib.Path(__file__).with_name("workload.json")


@dataclasses.dataclass(frozen=True)
class Model:
    """A Qwen2.5-style decoder (bias on query, key and value) with random weights."""

    layers: int  # L
    d_model: int  # D
    heads: int  # H
    kv_heads: int  # K
    head_dim: int  # C
    d_ff: int  # F
    vocab: int  # V
    rope_theta: float
    rms_eps: float
    tied: bool
    max_positions: int
    init_std: float


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Requests of one run; those of a prompt follow one another.

    Attributes:
      prompts: [N, P] int32 tokens; neither pad nor stop token among them.
      lengths: [N·G] int32, tokens that each request must generate.
      group_size: G.
      max_tokens: the limit that an engine is told; no length exceeds it.
      pad_id, stop_id: the tokenizer's.
    """

    prompts: np.ndarray
    lengths: np.ndarray
    group_size: int
    max_tokens: int
    pad_id: int
    stop_id: int

    @property
    def ragged(self) -> bool:
        """Whether rows must be stopped before `max_tokens`."""
        return bool((self.lengths < self.max_tokens).any())


@functools.cache
def _definition() -> dict:
    return json.loads(_FILE.read_text())


def models() -> tuple[str, ...]:
    """Names that `model` knows."""
    return tuple(_definition()["models"])


def works() -> tuple[str, ...]:
    """Names that `work` knows."""
    return tuple(_definition()["works"])


def model(name: str) -> Model:
    """Shapes by name."""
    return Model(**_definition()["models"][name])


def work(name: str, *, vocab: int, requests: int | None = None) -> Work:
    """The work by name, or as much of its kind as `requests` says.

    Prompts are drawn from the first 4096 tokens, so that they are the same for every
    model with at least as many.

    More than the definition's requests repeat its planned lengths, each time in another
    order, so that the mean length, and with it the cost of a useful token, is that of
    the definition; every group has a prompt of its own.

    Raises:
      ValueError: `requests` is not a positive multiple of the definition's requests.
    """
    spec = _definition()["works"][name]
    size = spec["requests"]
    lengths = np.asarray(spec["lengths"] or [spec["max_tokens"]] * size, np.int32)
    copies, rest = divmod(size if requests is None else requests, size)
    if rest or copies < 1:
        raise ValueError(
            f"requests={requests} must be a positive multiple of the {size} requests "
            f"of work={name!r}, whose planned lengths are repeated whole."
        )
    rng = np.random.default_rng(_definition()["lengths_seed"])
    more = [rng.permutation(lengths) for _ in range(copies - 1)]
    first, last = _definition()["prompt_ids"]
    prompts = np.random.default_rng(_definition()["prompts_seed"]).integers(
        first,
        min(last, vocab),
        (copies * size // spec["group_size"], spec["prompt_tokens"]),
    )
    return Work(
        prompts=prompts.astype(np.int32),
        lengths=np.concatenate([lengths, *more]),
        group_size=spec["group_size"],
        max_tokens=spec["max_tokens"],
        pad_id=_definition()["pad_id"],
        stop_id=_definition()["stop_id"],
    )


def needed_flops(model: Model, work: Work) -> int:
    """Floating point operations of the work done without waste.

    Each prompt is prefilled once, attention is causal and over existing tokens, logits
    are made where a token is drawn, and a request's last token is not fed back. Of
    matrix products only; a multiply-add counts as two.
    """
    D, C, F = model.d_model, model.head_dim, model.d_ff
    projections = D * C * 2 * (model.heads + model.kv_heads)
    body = model.layers * (projections + 3 * D * F)
    head = D * model.vocab
    N, P = work.prompts.shape
    fed = work.lengths.astype(np.int64) - 1
    # Key positions that queries attend to: causal within the prompt, then P + 1, …
    seen = N * P * (P + 1) // 2 + int((P * fed + fed * (fed + 1) // 2).sum())
    tokens = N * P + int(fed.sum())
    attention = 4 * model.layers * model.heads * C * seen
    return 2 * body * tokens + 2 * head * (N + int(fed.sum())) + attention
