"""What the paper observed, as numbers: from frames of tokens to small tables.

Every function names the statement of arXiv 2509.16591 (HAPO) that it tests; intervals
are those of `bootstrap`, over groups, unless another is named. The tables of words are
in `words.py`.
"""

import jax.numpy as jnp
import numpy as np
import pandas as pd

from hapo_jax.algo import advantages
from hapo_jax.analysis import bootstrap, frames
from hapo_jax.comparison import intervals
from hapo_jax.runs import records
from hapo_jax.system.errors import Refused

QUANTILES = (0.1, 0.5, 0.8, 0.9, 0.99)
RATIO_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CRITICAL = 0.8  # quantile of entropy from which a token is critical; the paper's rho
CLIPS = {"low": "clipped_low", "high": "clipped_high", "dual": "dual_clipped"}
KINDS = ("confident", "uncertain")
NORMALISATIONS = {
    "sequence": advantages.grpo,  # over the completions of a group
    "token": advantages.hapo_token_group,  # over its tokens
}
COMPARED = ("entropy/mean", "length/mean", "rollout/accuracy")


def entropy_quantiles(
    tokens: pd.DataFrame, quantiles: tuple[float, ...] = QUANTILES
) -> pd.DataFrame:
    """Quantiles of the entropy over training.

    Paper: few tokens are uncertain; most are all but certain, throughout training.

    Returns:
      A row per run and step: tokens, mean and a column per quantile, in nats.
    """
    grouped = tokens.groupby(["run", "step"], sort=False)["entropy"]
    table = grouped.agg(tokens="size", mean="mean")
    found = grouped.quantile(list(quantiles)).unstack()
    return table.join(found).reset_index()


def entropy_distribution(tokens: pd.DataFrame, bins: int = 50) -> pd.DataFrame:
    """Tokens by entropy, in bins of equal width on a logarithmic scale.

    Paper: the distribution is far from even; high entropy is the exception.

    Returns:
      A row per bin: left, right (nats), confident, uncertain (tokens of the kind).
    """
    x = tokens["log_entropy"].to_numpy(np.float64)
    edges = np.linspace(x.min(), x.max() + 1e-9, bins + 1)
    kinds = _kinds(tokens)
    counts = {kind: np.histogram(x[hit], edges)[0] for kind, hit in kinds.items()}
    return pd.DataFrame(
        {"left": np.exp(edges[:-1]), "right": np.exp(edges[1:])} | counts
    )


def _kinds(tokens: pd.DataFrame) -> dict[str, pd.Series]:
    return {"confident": ~tokens["uncertain"], "uncertain": tokens["uncertain"]}


def temperature_by_entropy(tokens: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """The temperature at which tokens were drawn, by entropy.

    Paper, Eq. (8): T_t = T (1 + tau h_t), hotter the more uncertain.

    Returns:
      A row per bin with as many tokens each: entropy (nats, median), tokens, mean, min
      and max of the temperature.
    """
    grouped = tokens.groupby(_equal_bins(tokens["log_entropy"], bins))
    table = grouped["temperature"].agg(["mean", "min", "max"])
    table.insert(0, "tokens", grouped.size())
    table.insert(0, "entropy", grouped["entropy"].median())
    return table.reset_index(drop=True)


def _equal_bins(values: pd.Series, bins: int) -> np.ndarray:
    """The number of each value's bin; equal values share one."""
    return pd.qcut(values, bins, labels=False, duplicates="drop").to_numpy()


def temperatures(runs: frames.Runs, critical: float | None = None) -> pd.DataFrame:
    """Accuracy and share of critical tokens of one policy at several temperatures.

    Paper, the temperature dilemma: with the fixed temperature (0.5, 0.8, 1.0, 1.1)
    accuracy falls and the share of critical tokens rises; the adaptive one has both.

    The runs sample and do not learn (`learner.passes=0`, and two steps: an adaptive
    temperature needs the statistics of the first); their last record counts.

    Args:
      runs: see `frames`; in the order of the rows.
      critical: nats; tokens above it are critical. None: the `CRITICAL` quantile of
        the entropies of all the runs.

    Returns:
      A row per run: run, temperature and temperature_sd (over tokens), groups,
      completions, tokens, accuracy and critical, each with _low and _high, length
      (tokens), and threshold
      (nats).

    Raises:
      Refused: a run replaced groups without a difference, so that its accuracy is that
        of the others alone.
    """
    parts = []
    for run, folder in frames.folders(runs).items():
        config = records.read_config(folder)
        if config["rollout"]["dynamic_sampling"]:
            raise Refused(
                f"{folder}: rollout.dynamic_sampling=True keeps groups with a "
                "difference alone, whose accuracy is no policy's; sample with False."
            )
        last = records.rollout_steps(folder)[-1:]
        one = {run: folder}
        parts.append((frames.tokens(one, last), frames.completions(one, last)))
    if critical is None:
        every = np.concatenate([tokens["entropy"] for tokens, _ in parts])
        critical = float(np.quantile(every, CRITICAL))
    lines = []
    for tokens, completions in parts:
        accuracy = bootstrap.share(completions, completions["correct"])
        share = bootstrap.share(tokens, tokens["entropy"] > critical)
        lines.append(
            {
                "run": completions["run"].iloc[0],
                "temperature": tokens["temperature"].mean(),
                "temperature_sd": tokens["temperature"].std(ddof=0),
                "groups": completions["group"].nunique(),
                "completions": len(completions),
                "tokens": len(tokens),
                **_named("accuracy", accuracy),
                **_named("critical", share),
                "length": completions["length"].mean(),
                "threshold": critical,
            }
        )
    return pd.DataFrame(lines)


def _named(name: str, found: bootstrap.Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def advantage_balance(completions: pd.DataFrame) -> pd.DataFrame:
    """Positive against negative advantage in a token mean, under two normalisations.

        sequence: A = (R - mean of the group's completions) / std of them
        token:    A = (R - mean of the group's tokens) / std of them

    Paper, token-level group average: with the token mean of the loss, long wrong
    completions dominate where advantages are normalised per sequence; normalised over
    tokens, both signs weigh alike.

    Args:
      completions: of `frames.completions`; the advantages are made again of `reward`,
        whatever the run's method.

    Returns:
      A row per run and normalisation: positive, negative: sums of the advantages' sizes
      over tokens, per token; balance: positive / negative, with its interval;
      length_positive, length_negative: tokens of a completion with such an advantage.
    """
    ids = completions.groupby(frames.GROUP, sort=False).ngroup().to_numpy()
    lengths = completions["length"].to_numpy()
    mask = jnp.asarray(np.arange(lengths.max()) < lengths[:, None])
    rewards = jnp.asarray(completions["reward"].to_numpy(np.float32))
    lines = []
    for name, normalised in NORMALISATIONS.items():
        per_token = normalised(rewards, mask, jnp.asarray(ids, jnp.int32))
        of_completion = np.asarray(per_token[:, 0], np.float64)
        weight = pd.Series(of_completion * lengths, index=completions.index)
        for run, part in completions.groupby("run", sort=False):
            up = weight[part.index].clip(lower=0)
            down = -weight[part.index].clip(upper=0)
            lines.append(
                {
                    "run": run,
                    "normalisation": name,
                    "positive": up.sum() / part["length"].sum(),
                    "negative": down.sum() / part["length"].sum(),
                    **bootstrap.ratio(part, up, down)._asdict(),
                    "length_positive": part["length"][up > 0].mean(),
                    "length_negative": part["length"][down > 0].mean(),
                }
            )
    return pd.DataFrame(lines).rename(columns={"value": "balance"})


def ratios(tokens: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """How far a step moves its tokens, by entropy and by the advantage's sign.

    Paper, redistribution: tokens of equal entropy need not want the same update, the
    ratio says which still move; uncertain tokens have the wider ratios.

    Args:
      tokens: of `frames.tokens`; those without an advantage are left out.
      bins: of entropy, with as many tokens each.

    Returns:
      A row per sign and bin: sign (+1, -1), entropy (nats, median), tokens, a column
      per quantile of the ratio, outside: the share outside the neutral zone, with low
      and high; zone_low, zone_high: its mean ends.
    """
    moved = tokens[tokens["base_advantages"] != 0]
    if moved.empty:
        raise Refused(
            "no token has an advantage; record steps with groups that differ."
        )
    sign = np.sign(moved["base_advantages"]).astype(int)
    lines = []
    by_bin = [sign, pd.Series(_equal_bins(moved["log_entropy"], bins), moved.index)]
    for (of_sign, _), part in moved.groupby(by_bin):
        lines.append(
            {
                "sign": of_sign,
                "entropy": part["entropy"].median(),
                "tokens": len(part),
                **{q: part["ratio"].quantile(q) for q in RATIO_QUANTILES},
                "outside": bootstrap.share(part, ~part["in_zone"]),
                "zone_low": part["zone_low"].mean(),
                "zone_high": part["zone_high"].mean(),
            }
        )
    table = pd.DataFrame(lines)
    ends = pd.DataFrame([*table["outside"]])
    table["outside"], table["low"], table["high"] = ends.to_numpy().T
    return table.sort_values(["sign", "entropy"], ascending=[False, True])


def clips(tokens: pd.DataFrame) -> pd.DataFrame:
    """Which clip fired at which kind of token.

    Paper, clipping: what is clipped on the left is mostly certain formatting, on the
    right mostly uncertain reasoning, so that equal bounds keep noise and curb
    exploration.

    Args:
      tokens: of `frames.tokens`. Those of completions without an advantage are left
        out, as in the metrics `clip/frac_low` and so on.

    Returns:
      A row per side (low, high, dual) and kind (confident, uncertain, all): clipped,
      tokens, share with low and high; of_side: the kind's share of what the side
      clipped; entropy (nats) and advantage: means over the clipped.
    """
    tokens = tokens[tokens["signal"]]
    kinds = _kinds(tokens) | {"all": pd.Series(True, tokens.index)}
    lines = []
    for side, column in CLIPS.items():
        hits = tokens[column].astype(bool)
        for kind, among in kinds.items():
            hit = hits & among
            found = bootstrap.share(tokens, hits, among)
            lines.append(
                {
                    "side": side,
                    "kind": kind,
                    "clipped": int(hit.sum()),
                    "tokens": int(among.sum()),
                    "share": found.value,
                    "low": found.low,
                    "high": found.high,
                    "of_side": hit.sum() / hits.sum() if hits.any() else np.nan,
                    "entropy": tokens["entropy"][hit].mean(),
                    "advantage": tokens["advantages"][hit].mean(),
                }
            )
    return pd.DataFrame(lines)


def lengths(completions: pd.DataFrame) -> pd.DataFrame:
    """Length of right and wrong completions over training.

    Paper: wrong completions are the longer ones, which is why normalising per sequence
    tips the token mean; HAPO keeps completions longer than DAPO.

    Returns:
      A row per run, step and correct: completions, mean (tokens), low, high.
    """
    lines = []
    for (run, step, correct), part in completions.groupby(
        ["run", "step", "correct"], sort=False
    ):
        found = bootstrap.mean(part, part["length"])
        names = {"run": run, "step": step, "correct": correct}
        count = {"completions": len(part), "mean": found.value}
        lines.append(names | count | {"low": found.low, "high": found.high})
    return pd.DataFrame(lines)


def compared(
    steps: pd.DataFrame,
    *,
    metrics: tuple[str, ...] = COMPARED,
    by: str = "method",
) -> pd.DataFrame:
    """Metrics of several runs over training, means over the seeds of a variant.

    Paper: HAPO keeps completions longer and entropy higher than DAPO while accuracy
    rises.

    Args:
      steps: of `frames.steps`.
      metrics: of docs/metrics.md.
      by: the column that names a variant; its runs differ in their seed.

    Returns:
      A row per metric, variant and step: mean, low, high (Student's over seeds; NaN
      for one) and seeds.

    Raises:
      Refused: the runs lack a metric.
    """
    missing = [name for name in metrics if name not in steps]
    if missing:
        raise Refused(f"metrics={metrics}: the runs have no {', '.join(missing)}.")
    lines = []
    for metric in metrics:
        known = steps[steps[metric].notna()]
        for (variant, step), part in known.groupby([by, "step"], sort=False):
            found = intervals.two_way(part[[metric]].to_numpy())
            names = {"metric": metric, by: variant, "step": step, "mean": found.mean}
            ends = {"low": found.low, "high": found.high, "seeds": found.num_seeds}
            lines.append(names | ends)
    return pd.DataFrame(lines)
