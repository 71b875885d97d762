"""Checks of prompts, tokens and groups, from metrics and from the newest record."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hapo_jax.doctor.evidence import Evidence, Finding, above, lasting, percent
from hapo_jax.model.tokenizer import Tokenizer

_TRUNCATED = 0.2  # a share of the completions above which they are told of
_ZERO_VARIANCE = 0.8  # of the groups
_DUPLICATES = 0.01  # of the training problems
_ROUND_TRIP = 0.02  # completions whose text is not read as the same tokens


def groups_alike(found: Evidence) -> Finding | None:
    """The members of a group are drawn with keys of their own."""
    groups = collections.defaultdict(list)
    for row in found.records:
        groups[row["group"]].append(row)
    alike = [
        rows
        for rows in groups.values()
        if len(rows) > 1
        and len({row["tokens"].tobytes() for row in rows}) == 1
        # A policy that is certain draws the same; this one was not.
        and sum(row["entropy"].sum() for row in rows) > len(rows)
    ]
    if not alike or len(alike) < len(groups) / 2:
        return None
    return Finding(
        "groups_alike",
        found.record_step,
        f"in {len(alike)} of {len(groups)} recorded groups all completions are the "
        "same, although the policy was uncertain",
        "draws that share a random key; a temperature near 0; completions cached by "
        "their prompt",
        "rollout.base_temperature=1; if it is that already, please report it",
    )


def stop_not_learnt(found: Evidence) -> Finding | None:
    """The token that ends a completion is in the loss."""
    ended = [
        row
        for row in found.records
        if not row["truncated"]
        and len(row["tokens"])
        and (row["advantages"] != 0).any()
    ]
    lost = [row for row in ended if "counted" in row and not row["counted"][-1]]
    if not ended or len(lost) < len(ended) / 2 or not _others_count(lost):
        return None
    last = lost[0]["token_strings"][-1]
    return Finding(
        "stop_not_learnt",
        found.record_step,
        f"the last token ({last!r}) of {len(lost)} of {len(ended)} recorded "
        "completions is not in the loss, and the others are",
        "a mask that ends before the stop token",
        "algo.mask.name=all; a stage of your own: count the last token",
    )


def _others_count(rows: list[Mapping[str, Any]]) -> bool:
    """Whether most tokens are in the loss, or the last one is no exception."""
    counted = np.concatenate([row["counted"] for row in rows])
    return bool(counted.mean() > 0.5)


def truncation(found: Evidence) -> Finding | None:
    """Completions come to their end."""
    since = lasting(found, above("rollout/truncated", _TRUNCATED))
    if since is None:
        return None
    m, limit = found.newest, found.config.rollout.max_completion_tokens
    return Finding(
        "truncation",
        since,
        f"{percent(m['rollout/truncated'])} of the completions are cut off at "
        f"rollout.max_completion_tokens={limit}, "
        f"{_before(found, 'rollout/truncated')}; the mean length is "
        f"{m['length/mean']:.4g} tokens",
        "the limit is too low; the policy has learnt to go on; nothing ends a turn",
        "rollout.max_completion_tokens higher; reward.overlong_factor=1 with "
        "reward.overlong_buffer_share; model.stop_tokens",
    )


def no_contrast(found: Evidence) -> Finding | None:
    """Groups have right and wrong completions."""

    def share(m):
        if "rollout/all_right" not in m:
            return None
        return m["rollout/all_right"] + m["rollout/all_wrong"] > _ZERO_VARIANCE

    since = lasting(found, share)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "no_contrast",
        since,
        f"{percent(m['rollout/all_right'])} of the groups are all right and "
        f"{percent(m['rollout/all_wrong'])} all wrong: they teach nothing",
        "problems too easy or too hard for this policy; groups too small",
        "other problems (task.train); rollout.group_size higher",
    )


def starvation(found: Evidence) -> Finding | None:
    """Dynamic sampling fills its batches."""
    r = found.config.rollout
    if not r.dynamic_sampling:
        return None

    def starved(m):
        if "rollout/rounds" not in m:
            return None
        few = m["rollout/groups_trained"] < r.batch_prompts
        return m["rollout/rounds"] >= r.max_rounds and few

    since = lasting(found, starved)
    if since is None:
        return None
    m = found.newest
    return Finding(
        "starvation",
        since,
        f"after all {r.max_rounds} rounds of sampling only "
        f"{m['rollout/groups_trained']:g} of {r.batch_prompts} groups have right and "
        "wrong completions; the batch is filled up with nothing",
        "problems too easy or too hard; few rounds",
        "rollout.max_rounds or rollout.round_prompts higher; other problems "
        "(task.train)",
    )


def round_trip(found: Evidence) -> Finding | None:
    """The text of a completion is read as the tokens that were drawn."""
    if found.tokenizer is None or not found.records:
        return None
    decode, encode = found.tokenizer.decode, found.tokenizer.encode
    stops = set(found.tokenizer.stop_ids)
    other = []
    for row in found.records:
        drawn = [t for t in row["tokens"].tolist() if t not in stops]
        again = list(encode(decode(np.asarray(drawn, np.int32))))
        if again != drawn:
            other.append((drawn, again))
    if len(other) <= _ROUND_TRIP * len(found.records):
        return None
    drawn, again = other[0]
    at = next((i for i, (a, b) in enumerate(zip(drawn, again)) if a != b), 0)
    return Finding(
        "round_trip",
        found.record_step,
        f"{len(other)} of {len(found.records)} recorded completions are read back as "
        f"other tokens than were drawn; the first from its token {at} on",
        "the policy spells words in rare tokens, which scoring by text would not see; "
        "tokenizer files of another model",
        "nothing for training, which keeps the drawn tokens; compare by tokens and not "
        "by text, and check model.path's tokenizer if it is most of them",
    )


def prompt_form(found: Evidence) -> Finding | None:
    """A prompt begins once, ends with the assistant's turn, and can be answered."""
    wrong = [*_prompt_faults(found)]
    if not wrong:
        return None
    return Finding(
        "prompt_form",
        found.step,
        "; ".join(wrong),
        "a chat template that writes what the tokenizer adds as well; one that ignores "
        "add_generation_prompt; a tokenizer without an end token",
        "task.chat_template; model.stop_tokens",
    )


def _prompt_faults(found: Evidence) -> Iterator[str]:
    tokenizer, prompts = found.tokenizer, found.prompt_tokens
    if tokenizer is None or not prompts:
        return
    bos, stops = tokenizer.backend.bos_token_id, set(tokenizer.stop_ids)
    if not stops:
        yield "no token ends a completion"
    begun = sum(list(p[:2]) == [bos, bos] for p in prompts if bos is not None)
    if begun:
        yield f"{begun} of {len(prompts)} prompts begin with two begin tokens"
    ended = sum(_last_word(tokenizer, p) in stops - {bos} for p in prompts)
    if ended:
        yield (
            f"{ended} of {len(prompts)} prompts end with a token that ends a turn, so "
            "that nobody's turn has begun"
        )


def _last_word(tokenizer: Tokenizer, prompt: Sequence[int]) -> int | None:
    """The last token that is not white space."""
    pieces = tokenizer.pieces(prompt)
    words = [t for t, piece in zip(prompt, pieces, strict=True) if piece.strip()]
    return words[-1] if words else None


def data_repeats(found: Evidence) -> Finding | None:
    """No problem is met several times in one step."""
    problems = collections.defaultdict(set)
    for row in found.records:
        problems[row["problem_id"]].add(row["group"])
    twice = [name for name, groups in problems.items() if len(groups) > 1]
    if not twice:
        return None
    return Finding(
        "data_repeats",
        found.record_step,
        f"{len(twice)} of {len(problems)} problems are in several groups of one step, "
        f"such as {twice[0]!r}",
        "rows that are in the data several times; fewer problems than a step draws",
        "more problems (task.train); data.exclude_ids for the duplicates",
    )


def data_twice(found: Evidence) -> Finding | None:
    """The rows of the training data differ."""
    if (found.duplicates or 0) <= _DUPLICATES:
        return None
    return Finding(
        "data_twice",
        1,
        f"{percent(found.duplicates)} of the training problems have the statement of "
        "another, which is so met more often than the rest",
        "sets that were joined; a generator that repeats itself",
        "data.exclude_ids=flags.json:duplicate_groups; a seed or a larger range for "
        "the generator",
    )


def leak(found: Evidence) -> Finding | None:
    """What is evaluated is not trained on."""
    if not found.leaks:
        return None
    return Finding(
        "leak",
        1,
        f"{found.leaks} evaluation problems are trained on as well",
        "training and evaluation read the same file; a set that holds the other",
        "data.exclude_ids=flags.json:eval_overlap; another task.test or eval.sets",
    )


def _before(found: Evidence, key: str) -> str:
    values = found.values(key)
    return f"{percent(values[0])} {len(values) - 1} steps before"


CHECKS = (
    groups_alike,
    stop_not_learnt,
    truncation,
    no_contrast,
    starvation,
    round_trip,
    prompt_form,
    data_repeats,
    data_twice,
    leak,
)
