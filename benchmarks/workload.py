"""What every engine is asked to do: model shapes, prompts, planned lengths, updates.

`workload.json` is the definition; this file gives it types, and counts the floating
point operations that no engine can do without. Imports numpy alone, since the workers
of the peers read it in environments that lack this package.
"""

import dataclasses
import functools
import json
import pathlib
import zlib

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


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Settings of the optimizer; gradients are scaled down to `max_grad_norm`."""

    learning_rate: float
    b1: float
    b2: float
    eps: float
    weight_decay: float
    max_grad_norm: float


@dataclasses.dataclass(frozen=True, eq=False)
class Update:
    """One optimizer update: DAPO's token mean over all rows, old log-probs given.

    Attributes:
      prompts: [B, P] int32, one per completion, without padding.
      completions: [B, T] int32, padded on the right; neither pad nor stop token else.
      mask: [B, T] bool, True on the completions' tokens.
      advantages: [B] float32, none of them zero.
      old_logprobs: [B, T] float32, those of the uniform distribution.
      micro_rows: rows of a micro-batch; whole groups.
      clip_low, clip_high: of the importance ratio.
      adamw: the optimizer.
    """

    prompts: np.ndarray
    completions: np.ndarray
    mask: np.ndarray
    advantages: np.ndarray
    old_logprobs: np.ndarray
    micro_rows: int
    clip_low: float
    clip_high: float
    adamw: AdamW

    @property
    def micro_batches(self) -> list[slice]:
        """Rows of each micro-batch."""
        rows = len(self.prompts)
        return [slice(i, i + self.micro_rows) for i in range(0, rows, self.micro_rows)]


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


def first_rows(work: Work, model_name: str) -> Work:
    """The part of a work that an update of this model is made of: its first groups."""
    rows = _definition()["updates"][model_name]["rows"]
    return dataclasses.replace(
        work,
        prompts=work.prompts[: rows // work.group_size],
        lengths=work.lengths[:rows],
    )


def update(work: Work, model_name: str) -> Update:
    """An update from completions of the planned lengths, with random tokens.

    Args:
      work: of `first_rows`.
      model_name: as `model` knows it; says how many rows a micro-batch has.

    Raises:
      ValueError: a micro-batch would cut a group, which some engines do not do.
    """
    spec = _definition()
    micro_rows = spec["updates"][model_name]["micro_rows"]
    if micro_rows % work.group_size:
        raise ValueError(
            f"micro-batches of {micro_rows} rows, which model={model_name!r} has, must "
            f"hold whole groups of {work.group_size}; choose another work or model."
        )
    rng = np.random.default_rng(spec["update_seed"])
    vocab = model(model_name).vocab
    shape = (len(work.lengths), work.max_tokens)
    mask = np.arange(work.max_tokens) < work.lengths[:, None]
    first = max(work.pad_id, work.stop_id) + 1
    tokens = rng.integers(first, vocab, shape)
    rewards = rng.standard_normal((len(work.prompts), work.group_size))
    centred = rewards - rewards.mean(1, keepdims=True)
    advantages = centred / rewards.std(1, ddof=1, keepdims=True)
    return Update(
        prompts=np.repeat(work.prompts, work.group_size, axis=0),
        completions=np.where(mask, tokens, work.pad_id).astype(np.int32),
        mask=mask,
        advantages=advantages.reshape(-1).astype(np.float32),
        old_logprobs=np.full(shape, -np.log(vocab), np.float32),
        micro_rows=micro_rows,
        clip_low=spec["clip"]["low"],
        clip_high=spec["clip"]["high"],
        adamw=AdamW(**spec["adamw"]),
    )


def reward(text: str) -> float:
    """A reward in [0, 1] that costs nothing and differs from one completion to another.

    Args:
      text: token ids in decimal.
    """
    return zlib.crc32(text.encode()) % 97 / 96


def needed_flops(model: Model, work: Work) -> int:
    """Floating point operations of one forward pass over the work without waste.

    Each prompt is read once, attention is causal and over existing tokens, logits are
    made where a token is drawn or scored, and a completion's last token is not fed.
    Of matrix products only; a multiply-add counts as two. A rollout needs this once;
    an update three times, since each product has two more behind it.
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
