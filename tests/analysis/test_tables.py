"""Tables of records whose answers are known."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from hapo_jax.algo import batch_loss
from hapo_jax.analysis import bootstrap, frames, tables, words
from hapo_jax.system.errors import Refused
from tests import tiny
from tests.algo import given
from tests.analysis import made_records
from tests.analysis.made_records import completion, word


def tokens_of(tmp_path, rows, **options):
    return frames.tokens(made_records.make(tmp_path / "run", {1: rows}, **options))


# --- words --------------------------------------------------------------------------


def planted(tmp_path):
    """`since` in three spellings, each on one side alone; `and` certain, `so` not."""
    rows = []
    for group in range(12):
        rows.append(
            completion(
                [
                    word("since", 0.1),
                    word(" Since", 0.9),
                    word("(since", 0.9 if group % 2 else 0.2),
                    word("and", 0.05),
                    word("and", 0.02),
                    word("so", 1.5),
                ],
                group=group,
            )
        )
    return tokens_of(tmp_path, rows)


def test_the_planted_dual_token_is_found(tmp_path):
    tokens = planted(tmp_path)
    by_string = words.by_string(tokens)
    assert by_string["dual"].to_dict() == {
        "and": False,
        "since": False,
        " Since": False,
        "(since": True,
        "so": False,
    }
    assert [*words.dual_entropy(tokens).index] == ["(since"]
    found = words.by_string(tokens, by="stem").loc["sinc"]
    assert found["dual"] and set(found["strings"]) == {"since", " Since", "(since"}
    assert (found["count"], found["confident"], found["uncertain"]) == (36, 18, 18)
    assert found["share_uncertain"] == 0.5 and found["low"] < 0.5 < found["high"]
    assert found["frequency"] == 0.5
    assert found["entropy_uncertain"] == pytest.approx(0.9)
    assert found["entropy_confident"] == pytest.approx((12 * 0.1 + 6 * 0.2) / 18)
    assert [*words.dual_entropy(tokens, by="stem").index] == ["sinc"]


def test_rare_strings_are_left_out(tmp_path):
    tokens = planted(tmp_path)
    assert [*words.by_string(tokens, least=13).index] == ["and"]
    assert words.by_string(tokens, least=100).empty
    assert words.dual_entropy(tokens, least=100).empty


@pytest.mark.parametrize(
    ("strings", "stem"),
    [
        (("Since", " since", "(since", "since,"), "sinc"),
        (("solve", "solved", "solving", "Solves"), "solv"),
        (("is", "Is"), "is"),
        ((" 12", "12."), "12"),
        (("x1",), "x1"),
        (("\\(",), "\\("),
        (("ring",), "ring"),
        ((" ",), " "),
        (("答案", " 答案"), "答案"),
    ],
)
def test_stems(strings, stem):
    assert {words.stem(s) for s in strings} == {stem}


def test_clipped_tokens_come_with_what_is_before_them(tmp_path):
    rows = [
        completion([word("a"), word("b"), word("c", ratio=1.5, clipped_high=True)]),
        completion([word("d", ratio=0.2, clipped_low=True)], group=1),
    ]
    found = words.clipped_tokens(tokens_of(tmp_path, rows), context=1)
    assert found["string"].tolist() == ["d", "c"]
    assert found["before"].tolist() == ["", "b"]
    assert found["side"].tolist() == ["low", "high"]
    assert found["range_low"].tolist() == pytest.approx([0.8, 0.8])
    assert found["range_high"].tolist() == pytest.approx([1.28, 1.28])


# --- clips --------------------------------------------------------------------------


def test_shares_of_clips_are_the_learners_metrics(tmp_path):
    """Records of a batch under HAPO's loss, and what the learner counts of it."""
    B, T = 8, 30
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, T + 1, B)
    mask = np.arange(T) < lengths[:, None]
    old = -rng.uniform(0.05, 3, (B, T))

    def float32(x):
        return jnp.asarray(x, jnp.float32)

    rewards = float32([1, 0, 1, 0, 1, 1, 1, 1])  # the second group has no signal
    group_ids = jnp.array([0, 0, 0, 0, 1, 1, 1, 1], jnp.int32)
    nats = float32(rng.uniform(1e-3, 3, (B, T)))
    rows = given.Tokens(
        logprobs=float32(old + rng.normal(scale=0.5, size=(B, T))),
        entropy=nats,
        old_logprobs=float32(old),
        old_entropy=nats,
        behavior_logprobs=float32(old),
        reference_logprobs=None,
        advantages=None,
        mask=jnp.asarray(mask),
    )
    method = tiny.method("hapo", clip_dual=10.0)
    whole = given.rows(rows, rewards, group_ids)
    state = method.update_state(whole, method.init_state())
    constants = method.constants(whole, state)
    terms = method.terms(rows.current(), constants, state)
    _, _, sums = batch_loss.rows_loss(method, rows.current(), constants, state)

    per_token = {
        name: np.asarray(getattr(terms, name))
        for name in ("clipped_low", "clipped_high", "dual_clipped", "ratio", "loss")
    }
    per_token |= {
        name: np.asarray(getattr(terms, name))
        for name in ("base_advantages", "advantages", "clip_low", "clip_high")
    }
    per_token |= {"entropy": np.asarray(nats), "old_entropy": np.asarray(nats)}
    found = [
        completion(
            [{n: v[b, t] for n, v in per_token.items()} for t in range(lengths[b])],
            group=int(group_ids[b]),
            score=float(rewards[b]),
        )
        for b in range(B)
    ]
    pivot = float(np.exp(state["entropy"].quantile))
    tokens = tokens_of(tmp_path, found, pivot=pivot)
    table = tables.clips(tokens).set_index(["side", "kind"])
    for side in tables.CLIPS:
        hits, count = (float(x) for x in sums[f"clip/frac_{side}"])
        line = table.loc[(side, "all")]
        assert (line["clipped"], line["tokens"]) == (hits, count)
        assert line["share"] == pytest.approx(hits / count)
        kinds = table.loc[side].loc[[*tables.KINDS]]
        assert kinds["clipped"].sum() == hits and kinds["tokens"].sum() == count
    assert table.loc[("low", "all"), "clipped"] > 3
    assert table.loc[("high", "all"), "clipped"] > 3
    assert len(tokens) > table.loc[("low", "all"), "tokens"]  # some have no signal
    # The pivot of the records parts the tokens as the scores of the learner do.
    score = np.asarray(terms.score)[mask]
    np.testing.assert_array_equal(tokens["uncertain"], score > 0)


def test_clips_by_kind(tmp_path):
    rows = [
        completion(
            [
                word("a", 0.1, clipped_low=True, advantages=-1.0),
                word("b", 0.1),
                word("c", 0.9, clipped_high=True, advantages=2.0),
            ],
            group=group,
        )
        for group in range(4)
    ]
    table = tables.clips(tokens_of(tmp_path, rows)).set_index(["side", "kind"])
    assert table["share"].dropna().to_dict() == {
        ("low", "confident"): 0.5,
        ("low", "uncertain"): 0.0,
        ("low", "all"): pytest.approx(1 / 3),
        ("high", "confident"): 0.0,
        ("high", "uncertain"): 1.0,
        ("high", "all"): pytest.approx(1 / 3),
        **{("dual", kind): 0.0 for kind in (*tables.KINDS, "all")},
    }
    assert table.loc[("low", "confident"), "of_side"] == 1
    assert table.loc[("high", "uncertain"), "advantage"] == 2
    assert table.loc[("high", "uncertain"), "entropy"] == pytest.approx(0.9)


# --- entropy, temperature, advantages, ratios ---------------------------------------


def test_quantiles_and_distribution(tmp_path):
    nats = np.linspace(0.01, 1.0, 100)
    tokens = tokens_of(tmp_path, [completion([word("a", x) for x in nats])])
    line = tables.entropy_quantiles(tokens).iloc[0]
    assert line["tokens"] == 100 and line["mean"] == pytest.approx(nats.mean())
    assert line[0.5] == pytest.approx(np.quantile(nats, 0.5))
    table = tables.entropy_distribution(tokens, bins=10)
    assert table["confident"].sum() == (nats <= 0.5).sum()
    assert table["uncertain"].sum() == (nats > 0.5).sum()
    assert table["left"].iloc[0] == pytest.approx(0.01)
    assert table["right"].iloc[-1] == pytest.approx(1.0)


def test_temperature_by_entropy(tmp_path):
    row = [word("a", x, temperature=1 + x) for x in np.linspace(0.1, 1, 40)]
    table = tables.temperature_by_entropy(
        tokens_of(tmp_path, [completion(row)]), bins=4
    )
    assert table["tokens"].tolist() == [10] * 4
    np.testing.assert_allclose(table["mean"], 1 + table["entropy"], rtol=1e-5)
    assert table["min"].iloc[0] == pytest.approx(1.1)
    assert table["max"].iloc[-1] == pytest.approx(2)


def at_temperature(folder, temperature, right, critical, **options):
    """`right` of ten groups are right; `critical` of four tokens have 2 nats."""
    entropies = [2.0] * critical + [0.1] * (4 - critical)
    rows = [
        completion(
            [word("a", x, temperature=temperature) for x in entropies],
            group=group,
            score=float(group < right),
        )
        for group in range(10)
    ]
    options.setdefault("changes", [("rollout.dynamic_sampling", False)])
    return made_records.make(folder, {2: rows}, **options)


def test_the_dilemma_of_the_temperature(tmp_path):
    runs = {
        "cold": at_temperature(tmp_path / "cold", 0.5, 8, 1),
        "hot": at_temperature(tmp_path / "hot", 1.1, 3, 2),
    }
    table = tables.temperatures(runs, critical=1.0).set_index("run")
    assert table["accuracy"].to_dict() == {"cold": 0.8, "hot": 0.3}
    assert table["critical"].to_dict() == {"cold": 0.25, "hot": 0.5}
    assert table["temperature"].to_dict() == pytest.approx({"cold": 0.5, "hot": 1.1})
    assert table["groups"].tolist() == [10, 10]
    low, high = table.loc["hot", ["accuracy_low", "accuracy_high"]]
    assert low < 0.3 < high
    # Without a threshold it is the 80 % quantile of all tokens, here 2 nats.
    assert tables.temperatures(runs)["threshold"].tolist() == [2.0, 2.0]


def test_accuracies_of_chosen_groups_are_refused(tmp_path):
    run = at_temperature(tmp_path / "a", 1.0, 5, 1, changes=())
    with pytest.raises(Refused, match=r"dynamic_sampling=True.*sample with False"):
        tables.temperatures(run)


def test_balance_of_advantages(tmp_path):
    """Two groups of a right completion of 2 tokens and wrong ones of 6 and 4."""
    rows = []
    for group, wrong in enumerate((6, 4)):
        rows += [
            completion([word("a")] * 2, group=group, score=1.0),
            completion([word("a")] * wrong, group=group, score=0.0),
        ]
    # Of these nothing follows: all are right.
    rows += [completion([word("a")], group=2) for _ in range(2)]
    run = made_records.make(tmp_path / "run", {1: rows})
    table = tables.advantage_balance(frames.completions(run))
    table = table.set_index("normalisation")
    # Per sequence all have the same size, so that lengths decide.
    assert table.loc["sequence", "balance"] == pytest.approx((2 + 2) / (6 + 4))
    size = 0.5 / (np.sqrt(0.5) + 1e-6)
    assert table.loc["sequence", "positive"] == pytest.approx(4 * size / 16, rel=1e-5)
    assert table.loc["token", "balance"] == pytest.approx(1, abs=1e-5)
    assert table.loc["token", "length_negative"] == 5
    assert table.loc["token", "length_positive"] == 2


def test_ratios_by_sign_and_entropy(tmp_path):
    rows = [
        completion(
            [
                word("a", 0.1, ratio=1.0),
                word("b", 0.9, ratio=0.5 if sign < 0 else 1.3),
                word("c", 0.9, base_advantages=0.0),
            ],
            group=group,
        )
        for group, sign in enumerate((1, -1))
    ]
    for row in rows[1:]:
        row["base_advantages"] = [-1.0, -1.0, 0.0]
    table = tables.ratios(tokens_of(tmp_path, rows), bins=2)
    assert table["sign"].tolist() == [1, 1, -1, -1]
    assert table[0.5].tolist() == pytest.approx([1, 1.3, 1, 0.5])
    assert table["outside"].tolist() == [0, 1, 0, 1]
    assert table["tokens"].tolist() == [1] * 4
    np.testing.assert_allclose(table["zone_low"], 0.9)
    np.testing.assert_allclose(table["zone_high"], 1.14)
    still = [completion([word("a", base_advantages=0.0)])]
    with pytest.raises(Refused, match="no token has an advantage"):
        tables.ratios(frames.tokens(made_records.make(tmp_path / "still", {1: still})))


def test_lengths_by_correctness(tmp_path):
    rows = [completion([word("a")] * (2 + g), group=g) for g in range(5)]
    rows += [completion([word("a")] * 9, group=g, score=0.0) for g in range(5)]
    run = made_records.make(tmp_path / "run", {1: rows})
    table = tables.lengths(frames.completions(run)).set_index("correct")
    assert table["mean"].to_dict() == {True: 4.0, False: 9.0}
    assert table.loc[True, "low"] < 4 < table.loc[True, "high"]
    assert np.isnan(table.loc[False, "low"])  # all are equal


def test_runs_are_compared_over_seeds(tmp_path):
    runs = {}
    for method in ("dapo", "hapo"):
        for seed in range(3):
            value = seed + 10 * (method == "hapo")
            name = f"{method}-{seed}"
            runs[name] = made_records.make(
                tmp_path / name,
                {2: [completion([word("a")])]},
                metrics={"length/mean": value},
                method=method,
                seed=seed,
            )
    steps = frames.steps(runs)
    table = tables.compared(steps, metrics=("length/mean",)).set_index("method")
    assert table["mean"].to_dict() == {"dapo": 1.0, "hapo": 11.0}
    assert table["seeds"].tolist() == [3, 3]
    half = 4.302653 / np.sqrt(3)  # Student's quantile at two degrees of freedom
    assert (table["high"] - table["low"]).iloc[0] == pytest.approx(2 * half, rel=0.2)
    with pytest.raises(Refused, match="the runs have no entropy/mean"):
        tables.compared(steps)


# --- intervals ----------------------------------------------------------------------


def test_the_interval_counts_groups_and_not_tokens(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for group in range(30):
        x = 2.0 if rng.random() < 0.3 else 0.1  # the same for all tokens of a group
        rows.append(completion([word("a", x)] * 50, group=group))
    tokens = tokens_of(tmp_path, rows)
    found = bootstrap.share(tokens, tokens["uncertain"])
    standard_error = np.sqrt(found.value * (1 - found.value) / 30)
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_intervals_hold_the_share():
    """In 90 % or more of 200 worlds with 40 groups of unlike size."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        sizes = rng.integers(2, 20, 40)
        shares = rng.beta(2, 6, 40)
        group = np.repeat(np.arange(40), sizes)
        frame = pd.DataFrame({"run": "a", "step": 1, "group": group})
        hits = pd.Series(rng.random(len(group)) < np.repeat(shares, sizes))
        found = bootstrap.share(frame, hits)
        held += found.low <= 0.25 <= found.high
    assert 0.9 <= held / 200 <= 0.99
