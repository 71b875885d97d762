"""Rotary positions: the angles by which channels turn, and how contexts are stretched.

One place for all who turn: training, scoring, prefill and decoding. `read` knows how
`config.json` spells it, `write` says it so that transformers 4 and 5 both read it.
"""

import dataclasses
import functools
import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hapo_jax.system.errors import Refused
from hapo_jax.system.user_files import Fields

DEFAULT_THETA = 10_000.0  # of transformers, for every family here

log = logging.getLogger(__name__)


def _named(rope_type: str):
    """A field that says what a scaling is called, wherever it is written down."""
    return dataclasses.field(default=rope_type, init=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Linear:
    """All positions are divided by `factor`."""

    rope_type: str = _named("linear")
    factor: float


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """Nothing up to `max_position_embeddings`, which is as far as this package goes.

    Beyond, transformers would turn by other angles for every length, earlier tokens'
    too; a cache of keys would not hold.
    """

    rope_type: str = _named("dynamic")
    factor: float


@dataclasses.dataclass(frozen=True)
class Llama3:
    """Llama 3.1: channels that turn less than `low_freq_factor` times within the
    original length are slowed by `factor`, those above `high_freq_factor` are kept,
    and those between are blended.

    `original_max_position_embeddings` is in tokens, all else dimensionless.
    """

    rope_type: str = _named("llama3")
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071): as `Llama3`, blended by the number of the channel, and
    queries and keys are multiplied by `attention_factor`.

    Channels that turn more than `beta_fast` times within the original length are kept,
    those below `beta_slow` are slowed; `truncate` rounds both to whole channels.
    """

    rope_type: str = _named("yarn")
    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


Scaling = Linear | Dynamic | Llama3 | Yarn
KINDS = {cls.rope_type: cls for cls in (Linear, Dynamic, Llama3, Yarn)}


def angles(
    positions: jax.Array, *, head_dim: int, theta: float, scaling: Scaling | None
) -> tuple[jax.Array, jax.Array]:
    """What `transformer.rotate` turns by at these positions.

    Args:
      positions: [...] int32.
      head_dim: C.
      theta: the base of the frequencies.
      scaling: how they are stretched, or None.

    Returns:
      Cosines and sines of the angles, each [..., C/2] float32; YaRN's are multiplied by
      its attention factor.
    """
    turned = positions.astype(jnp.float32)[..., None] * jax.lax.broadcast_to_rank(
        jnp.asarray(frequencies(head_dim, theta, scaling)), positions.ndim + 1
    )
    cos, sin = jnp.cos(turned), jnp.sin(turned)
    if isinstance(scaling, Yarn):
        cos, sin = (x * np.float32(scaling.attention_factor) for x in (cos, sin))
    return cos, sin


def frequencies(head_dim: int, theta: float, scaling: Scaling | None) -> np.ndarray:
    """Rotary frequencies [C/2] float32, radians per position."""
    plain = theta ** -(np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if isinstance(scaling, Linear):
        plain = plain / scaling.factor
    elif isinstance(scaling, Llama3 | Yarn):
        keep = (_kept_by_llama3 if isinstance(scaling, Llama3) else _kept_by_yarn)(
            plain, theta, scaling
        )
        plain = plain * (keep + (1 - keep) / scaling.factor)
    return plain.astype(np.float32)


def _kept_by_llama3(plain: np.ndarray, theta: float, scaling: Llama3) -> np.ndarray:
    """How much of each frequency stays as it is, from 0 to 1."""
    del theta
    turns = scaling.original_max_position_embeddings * plain / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((turns - low) / (high - low), 0.0, 1.0)


def _kept_by_yarn(plain: np.ndarray, theta: float, scaling: Yarn) -> np.ndarray:
    """How much of each frequency stays as it is, from 0 to 1."""
    channels = 2 * len(plain)

    def channel(turns: float) -> float:
        """That turns so often within the original length; a fraction."""
        length = scaling.original_max_position_embeddings / (2 * math.pi * turns)
        return channels * math.log(length) / (2 * math.log(theta))

    first, last = channel(scaling.beta_fast), channel(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, channels - 1)
    width = last - first or 0.001  # a step, where the ramp has no room
    ramp = (np.arange(len(plain), dtype=np.float32) - first) / width
    return 1 - np.clip(ramp, 0.0, 1.0)


def longest(max_positions: int, scaling: Scaling | None) -> int:
    """Tokens that a model can read: YaRN's recipes leave `max_position_embeddings` at
    the original length or raise it, and mean the same."""
    if not isinstance(scaling, Yarn):
        return max_positions
    stretched = int(scaling.factor * scaling.original_max_position_embeddings)
    return max(max_positions, stretched)


def read(hf: Fields) -> tuple[float, Scaling | None]:
    """Theta and scaling of a `config.json`.

    There are two spellings, `rope_theta` with `rope_scaling` (transformers 4, read by 5
    too) and `rope_parameters` (5 alone). A file may hold both if they say the same.

    Raises:
      Refused: they differ, or a value is not as it must be.
    """
    scaling, parameters = hf.table("rope_scaling"), hf.table("rope_parameters")
    if not parameters:
        return _read_one(hf, scaling)
    new = _read_one(hf, parameters)
    if not scaling and "rope_theta" not in hf:
        return new
    old = _read_one(hf, scaling)
    if old != new:
        raise Refused(
            f"{hf.where}: rope_parameters means {_said(*new)}, and rope_theta with "
            f"rope_scaling means {_said(*old)}; versions of transformers read one or "
            "the other. Leave rope_theta and rope_scaling out, or copy the same values "
            "to both."
        )
    return new


def write(theta: float, scaling: Scaling | None) -> dict[str, Any]:
    """The fields of a `config.json`, in the spelling that transformers 4 and 5 read."""
    told = scaling and dataclasses.asdict(scaling)
    return {"rope_theta": theta, "rope_scaling": told}


def _said(theta: float, scaling: Scaling | None) -> str:
    return f"theta {theta:g}, {scaling or 'no scaling'}"


def _read_one(hf: Fields, rope: Fields) -> tuple[float, Scaling | None]:
    """Theta and scaling of one spelling, as transformers would understand it."""
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    if nested:
        raise Refused(
            f"{rope.where} differs by kind of layer ({', '.join(nested)}), which no "
            "model here does; write the values of its layers directly into it."
        )
    for fields in (hf, rope):
        if fields.number("partial_rotary_factor", 1.0, above=0) != 1:
            fields.refuse("partial_rotary_factor", "is not supported; it must be 1")
    inner = rope.number("rope_theta", None, above=1)
    outer = hf.number("rope_theta", None, above=1)
    if inner is not None and outer is not None and inner != outer:
        hf.refuse("rope_theta", f"differs from {inner:g} in {rope.where}")
    theta = inner or outer
    if theta is None and "rope_theta" in hf.nulls | rope.nulls:
        hf.refuse("rope_theta", "must be a number above 1, as in the original")
    theta = theta or DEFAULT_THETA
    kind = rope.text("rope_type", rope.text("type", None))
    if rope.text("type", kind) != kind:
        rope.refuse("type", f"differs from rope_type={kind!r}; leave one out")
    told = set(rope) - {"type", "rope_type", "rope_theta", "partial_rotary_factor"}
    if kind in (None, "default"):
        if unused := sorted(told & _SCALES):
            rope.refuse(
                unused[0],
                f"stretches positions, and rope_type is {kind or 'not given'}; write "
                f"the rope_type that is meant ({', '.join(KINDS)}), or leave it out",
            )
        return theta, None
    if kind not in KINDS:
        raise Refused(
            f"{rope.where}: rope_type={kind!r} is not supported; 'default', "
            f"{', '.join(map(repr, KINDS))} are."
        )
    if unused := sorted(told - _READ[kind]):
        _warn(
            f"{rope.where}: neither transformers nor this package reads "
            f"{', '.join(unused)} of rope_type={kind!r}."
            + (_ATTN_FACTOR if "attn_factor" in unused else "")
        )
    return theta, _READERS[kind](hf, rope)


def _linear(hf: Fields, rope: Fields) -> Linear:
    del hf
    return Linear(rope.number("factor", least=1))


def _dynamic(hf: Fields, rope: Fields) -> Dynamic:
    del hf
    return Dynamic(rope.number("factor", least=1))


def _llama3(hf: Fields, rope: Fields) -> Llama3:
    keys = [field.name for field in dataclasses.fields(Llama3) if field.init]
    rope.require(*keys, remedy="copy them from the original model")
    low, high = (rope.number(f"{x}_freq_factor", above=0) for x in ("low", "high"))
    if high <= low:
        rope.refuse("high_freq_factor", f"must be above low_freq_factor={low:g}")
    return Llama3(
        factor=rope.number("factor", least=1),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=_original(hf, rope),
    )


def _yarn(hf: Fields, rope: Fields) -> Yarn:
    rope.require("factor", remedy="write it there, such as 4.0")
    factor = rope.number("factor", least=1)
    fast = rope.number("beta_fast", Yarn.beta_fast, above=0)
    slow = rope.number("beta_slow", Yarn.beta_slow, above=0)
    if fast < slow:
        rope.refuse("beta_fast", f"must not be below beta_slow={slow:g}")
    scale, all_dim = (
        rope.number(key, 0.0, least=0) for key in ("mscale", "mscale_all_dim")
    )
    # The paper's temperature of attention; DeepSeek's models weigh it.
    if not (scale and all_dim):
        scale, all_dim = 1.0, 0.0
    log_factor = 0.1 * math.log(factor)
    derived = (1 + scale * log_factor) / (1 + all_dim * log_factor)
    if "truncate" in rope.nulls:  # transformers takes it for false, unlike none
        rope.refuse("truncate", "must be true or false")
    return Yarn(
        factor=factor,
        original_max_position_embeddings=_original(hf, rope),
        attention_factor=rope.number("attention_factor", derived, above=0),
        beta_fast=fast,
        beta_slow=slow,
        truncate=rope.flag("truncate", True),
    )


def _original(hf: Fields, rope: Fields) -> int:
    """Length in tokens that a model was trained on before it was stretched."""
    key = "original_max_position_embeddings"
    found = rope.whole(key, hf.whole("max_position_embeddings"))
    # transformers 5 takes one beside the scaling instead, 4 does not.
    if hf.whole(key, found) != found:
        hf.refuse(key, f"differs from {found}, which {rope.where} means")
    return found


_READERS = {"linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}
_READ = {
    kind: {field.name for field in dataclasses.fields(cls)}
    for kind, cls in KINDS.items()
}
_READ["yarn"] |= {"mscale", "mscale_all_dim"}
_SCALES = set().union(*_READ.values()) | {"short_factor", "long_factor"}
_ATTN_FACTOR = (
    " vLLM multiplies its own attention factor by attn_factor, and transformers reads "
    "attention_factor: write the product there, and all agree."
)


@functools.cache
def _warn(message: str) -> None:
    """Says it once, however often a config is read."""
    log.warning("%s", message)
