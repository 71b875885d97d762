"""Tokens as words: stems, words on both sides of the pivot, clipped ones in place."""

import re

import numpy as np
import pandas as pd

from hapo_jax.analysis import bootstrap, frames, tables

# Endings that are cut off, the first that fits, and the letters that must stay.
_ENDINGS = ("ing", "ed", "es", "s", "e")
_LEAST_LETTERS = 3
_BEFORE_TEXT = re.compile(r"^[^\w]+|[^\w]+$")
_SHOWN = 4  # strings of a stem that are listed


def stem(string: str) -> str:
    """What "Since", " since" and "(since" have in common.

    Lower-cased, without blanks, and without signs at either end unless there is nothing
    else; then the first of the endings -ing, -ed, -es, -s, -e is cut off a word of
    letters if three or more stay: "Multiplied" and " multiplies" stay apart,
    "solve", "solved" and "solving" do not.
    """
    bare = string.strip().lower()
    bare = _BEFORE_TEXT.sub("", bare) or bare or string
    if not bare.isalpha():
        return bare
    for ending in _ENDINGS:
        if bare.endswith(ending) and len(bare) - len(ending) >= _LEAST_LETTERS:
            return bare.removesuffix(ending)
    return bare


def by_string(
    tokens: pd.DataFrame,
    *,
    by: str = "string",
    least: int = 10,
    most: int = 200,
    dual_share: float = 0.1,
) -> pd.DataFrame:
    """Frequency and entropy of every string, and on which side of the pivot it is.

    Paper (arXiv 2509.16591, its observations on entropy): frequent tokens are mostly
    certain; but *dual entropy*: one word, or words of one stem, occur both in the
    uncertain and in the confident region, so that no list of words tells them apart.

    Args:
      tokens: of `frames.tokens`.
      by: "string", or "stem" of `stem`.
      least: occurrences; rarer ones are left out.
      most: of the rest, the most frequent.
      dual_share: the least share of the occurrences that is on either side of a dual
        one.

    Returns:
      A frame with the string or stem as index, the most frequent first, and the columns
        strings: those of a stem, the most frequent first (by="stem" alone).
        count; frequency: share of all tokens.
        entropy: nats, mean; entropy_confident, entropy_uncertain: on one side, NaN
          where there is none.
        confident, uncertain: occurrences.
        share_uncertain, low, high: with its interval over groups.
        dual: whether it has `dual_share` on both sides.
    """
    key = tokens["string"]
    if by == "stem":
        distinct = key.unique()
        key = key.map(dict(zip(distinct, map(stem, distinct))))
    counts = key.value_counts(sort=True)
    counts = counts[counts >= least].head(most)
    lines = []
    for name, part in tokens.groupby(key, sort=False):
        if name not in counts.index:
            continue
        uncertain = part["uncertain"]
        entropy = part["entropy"]
        interval = bootstrap.share(part, uncertain)
        line = {by: name}
        if by == "stem":
            line["strings"] = [*part["string"].value_counts().index[:_SHOWN]]
        lines.append(
            line
            | {
                "count": len(part),
                "frequency": len(part) / len(tokens),
                "entropy": entropy.mean(),
                "entropy_confident": entropy[~uncertain].mean(),
                "entropy_uncertain": entropy[uncertain].mean(),
                "confident": int((~uncertain).sum()),
                "uncertain": int(uncertain.sum()),
                "share_uncertain": interval.value,
                "low": interval.low,
                "high": interval.high,
                "dual": dual_share <= interval.value <= 1 - dual_share,
            }
        )
    frame = pd.DataFrame(lines, columns=None if lines else [by, "count"]).set_index(by)
    return frame.sort_values("count", ascending=False, kind="stable")


def dual_entropy(
    tokens: pd.DataFrame, *, by: str = "string", least: int = 10, most: int = 20
) -> pd.DataFrame:
    """The dual ones of `by_string`, those first that are nearest to half and half."""
    table = by_string(tokens, by=by, least=least)
    if table.empty:
        return table
    table = table[table["dual"]].drop(columns="dual")
    nearest = (table["share_uncertain"] - 0.5).abs()
    return table.loc[nearest.sort_values(kind="stable").index].head(most)


def clipped_tokens(
    tokens: pd.DataFrame, *, most: int = 20, context: int = 8
) -> pd.DataFrame:
    """The clipped tokens that moved most, each with what stands before it.

    Args:
      tokens: of `frames.tokens`.
      most: rows.
      context: tokens before it that are shown.

    Returns:
      Columns run, step, side, before, string, entropy (nats), advantages, ratio,
      range_low, range_high.
    """
    lines = []
    far = np.log(tokens["ratio"]).abs()
    for side, column in tables.CLIPS.items():
        for at in far[tokens[column]].nlargest(most).index:
            line = tokens.loc[at]
            same = (tokens[frames.COMPLETION] == line[frames.COMPLETION]).all(axis=1)
            earlier = tokens[same & (tokens["position"] < line["position"])]
            shown = ["run", "step", "string", "entropy", "advantages", "ratio"]
            lines.append(
                {"far": far[at], "side": side}
                | {"before": " ".join(earlier["string"].tail(context))}
                | line[shown].to_dict()
                | {"range_low": 1 - line["clip_low"]}
                | {"range_high": 1 + line["clip_high"]}
            )
    order = ["run", "step", "side", "before", "string", "entropy", "advantages"]
    order += ["ratio", "range_low", "range_high"]
    table = pd.DataFrame(lines, columns=["far", *order])
    found = table.sort_values("far", ascending=False, kind="stable").head(most)
    return found[order].reset_index(drop=True)
