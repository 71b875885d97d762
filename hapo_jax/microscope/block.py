"""A step's records as one block of bytes, which the page unpacks when it is looked at.

A block is, in gzip and base64: the length of its header (uint32), the header (JSON in
ASCII, spaces up to a multiple of 4), and the bytes of its columns, one after the other.
Strings are in the header: those of tokens once each, `tokens` are indices into them.

Exact are tokens, flags, scores and rewards; how far others may be off is in
`columns.py`. Of the log-probs the old one is kept, and the distances of the other two
to it, since small distances are what is looked at: a behavior or new log-prob is off by
what both are off.
"""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hapo_jax.microscope import columns as columns_lib
from hapo_jax.runs import records as records_lib

# Bits of the column `flags`.
FLAGS = ("counted", "clipped_low", "clipped_high", "dual_clipped")
# Kept as a distance to another column.
GAPS = {
    "behavior_gap": ("behavior_logprobs", "old_logprobs"),
    "log_ratio": ("logprobs", "old_logprobs"),
}
_NO_CUT = -1e29  # of `cut_logit`; the page gets -inf
# Sources come before what `columns.RULES` foretells from them.
_ORDER = (
    "entropy",
    "old_logprobs",
    *GAPS,
    *(name for name, _ in GAPS.values()),
    "base_advantages",
    "cut_logit",
    *columns_lib.RULES,
)


def pack(header: Mapping[str, Any], parts: Sequence[tuple[dict, bytes]]) -> str:
    """A block: a header, and columns as (how to read them, bytes); base64."""
    listing = []
    start = 0
    for form, data in parts:
        listing.append({**form, "start": start, "bytes": len(data)})
        start += len(data)
    # ASCII: lone surrogates and NUL are escaped, and come back as they were.
    text = json.dumps({**header, "columns": listing}, allow_nan=False).encode("ascii")
    text += b" " * (-len(text) % 4)
    whole = len(text).to_bytes(4, "little") + text + b"".join(d for _, d in parts)
    return base64.b64encode(gzip.compress(whole, 9, mtime=0)).decode()


def unpack(block: str) -> tuple[dict[str, Any], dict[str, tuple[dict, bytes]]]:
    """The header of a block, and its columns by name, still as bytes."""
    whole = gzip.decompress(base64.b64decode(block))
    length = int.from_bytes(whole[:4], "little")
    header = json.loads(whole[4 : 4 + length])
    body = whole[4 + length :]
    return header, {
        form["name"]: (form, body[form["start"] : form["start"] + form["bytes"]])
        for form in header.pop("columns")
    }


def of_records(records: Sequence[Mapping[str, Any]]) -> str:
    """The block of a step.

    Args:
      records: as `records.read_rollouts` gives them; at least one.
    """
    lengths = [len(record["tokens"]) for record in records]
    there = {name for name in records_lib.PER_TOKEN if name in records[0]}
    flat = {
        name: np.concatenate([record[name] for record in records])
        for name in sorted(there - {"token_strings"})
    }
    strings, index = _table(records)
    flags = np.zeros(sum(lengths), np.uint8)
    for bit, name in enumerate(FLAGS):
        if name in flat:
            flags |= flat[name].astype(np.uint8) << bit
    parts = [
        ({"name": "tokens", "kind": f"u{index.itemsize}"}, columns_lib.planes(index)),
        ({"name": "flags", "kind": "u1"}, flags.tobytes()),
    ]
    parts += _floats(flat)
    asked = dict.fromkeys(record["prompt"] for record in records)
    prompts = {prompt: i for i, prompt in enumerate(asked)}
    header = {
        "lengths": lengths,
        "strings": [string for _, string in strings],
        "ids": [int(token) for token, _ in strings],
        "completions": [_completion(record, prompts) for record in records],
        "prompts": [*prompts],
        "flags": [name for name in FLAGS if name in flat],
    }
    return pack(header, parts)


def read(block: str) -> dict[str, Any]:
    """What the page makes of a block: its header, and every column as an array."""
    header, parts = unpack(block)
    size = sum(header["lengths"])
    form, data = parts.pop("tokens")
    header["tokens"] = columns_lib.from_planes(data, form["kind"], size)
    header["flags_of"] = np.frombuffer(parts.pop("flags")[1], np.uint8)
    known: dict[str, np.ndarray] = {}
    for name, (form, data) in parts.items():
        known[name] = columns_lib.decode(form, data, size, known)
    for gap, (name, other) in GAPS.items():
        if gap in known:
            known[name] = known[other] + known[gap]
    return header | known


def _floats(flat: Mapping[str, np.ndarray]):
    """The columns of numbers, encoded one after the other."""
    values = {n: v.astype(np.float64) for n, v in flat.items() if v.dtype.kind == "f"}
    for gap, (name, other) in GAPS.items():
        if name in values and other in values:
            values[gap] = values.pop(name) - values[other]
    if "cut_logit" in values:
        cut = values["cut_logit"]
        values["cut_logit"] = np.where(cut < _NO_CUT, -np.inf, cut)
    known: dict[str, np.ndarray] = {}
    size = len(flat["tokens"])
    for name in _ORDER:
        if name in values:
            form, data = columns_lib.encode(name, values[name], known)
            known[name] = columns_lib.decode(form, data, size, known)
            yield {"name": name, **form}, data


def _table(records: Sequence[Mapping[str, Any]]):
    """The different (token, string), the most frequent first, and indices into them."""
    pairs = [
        pair
        for record in records
        for pair in zip(record["tokens"].tolist(), record["token_strings"])
    ]
    strings = [pair for pair, _ in Counter(pairs).most_common()]
    place = {pair: i for i, pair in enumerate(strings)}
    kind = np.uint16 if len(strings) <= 1 << 16 else np.uint32
    return strings, np.array([place[pair] for pair in pairs], kind)


def _completion(
    record: Mapping[str, Any], prompts: Mapping[str, int]
) -> dict[str, Any]:
    """A completion without its tokens; `text` where its tokens do not spell it."""
    spelt = "".join(record["token_strings"]) == record["completion"]
    return {
        "problem": record["problem_id"],
        "group": record["group"],
        "prompt": prompts[record["prompt"]],
        "text": None if spelt else record["completion"],
        "score": _number(record["score"]),
        "reward": _number(record["reward"]),
        "truncated": bool(record["truncated"]),
    }


def _number(value: float) -> float | None:
    """A number as JSON has it; None for what is not finite."""
    return float(value) if np.isfinite(value) else None
