"""A step's records come back from their block, and are small in it."""

import numpy as np
import pytest

from hapo_jax.microscope import block
from hapo_jax.runs import records
from tests.microscope import made

HOSTILE = ["</script><script>x()</script>", "\0", "\ud800", "\u202e", "<!--", "é", ""]
LIMIT = 4e6  # bytes of 16 completions of 10,240 tokens


def whole(rows, name):
    return np.concatenate([row[name] for row in rows])


def test_all_that_was_recorded_comes_back():
    rows = made.groups()
    rows[1]["truncated"] = True
    rows[2]["counted"][:5] = False
    found = block.read(block.of_records(rows))
    assert found["lengths"] == [len(row["tokens"]) for row in rows]
    strings = [s for row in rows for s in row["token_strings"]]
    assert [found["strings"][i] for i in found["tokens"]] == strings
    ids = np.array(found["ids"])[found["tokens"]]
    np.testing.assert_array_equal(ids, whole(rows, "tokens"))
    for bit, name in enumerate(block.FLAGS):
        flag = (found["flags_of"] >> bit & 1).astype(bool)
        np.testing.assert_array_equal(flag, whole(rows, name), name)
    for name, kind in records.PER_TOKEN.items():
        if kind == "float" and name != "cut_logit":
            gap = name in ("logprobs", "behavior_logprobs")
            size = np.abs(whole(rows, "old_logprobs" if gap else name).astype(float))
            given = whole(rows, name).astype(float)
            allowed = (
                2**-11 * np.maximum(size, np.abs(given)) * (2 if gap else 1) + 6e-8
            )
            assert (np.abs(found[name] - given) <= allowed).all(), name
    assert (found["cut_logit"] == -np.inf).all()
    for row, completion in zip(rows, found["completions"]):
        assert completion["problem"] == row["problem_id"]
        assert completion["group"] == row["group"]
        assert found["prompts"][completion["prompt"]] == row["prompt"]
        assert completion["score"] == row["score"]
        assert completion["reward"] == row["reward"]
        assert completion["truncated"] == row["truncated"]
        assert completion["text"] is None


def test_hostile_text_comes_back_and_cannot_end_a_script():
    row = made.record(len(HOSTILE), strings=HOSTILE, problem=HOSTILE[0])
    row["completion"] = "\ud800 another text"
    data = block.of_records([row])
    assert set(data) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    )
    found = block.read(data)
    assert [found["strings"][i] for i in found["tokens"]] == HOSTILE
    assert found["completions"][0]["problem"] == HOSTILE[0]
    assert found["completions"][0]["text"] == "\ud800 another text"


def test_one_token_may_have_several_strings():
    """Half a character reads differently in different places."""
    row = made.record(3, strings=["a", "b", "a"], tokens=np.int32([7, 7, 8]))
    found = block.read(block.of_records([row]))
    pairs = [(found["ids"][i], found["strings"][i]) for i in found["tokens"]]
    assert pairs == [(7, "a"), (7, "b"), (8, "a")]


def test_columns_of_an_earlier_version_may_be_missing():
    rows = made.groups(1, 2)
    for row in rows:
        del row["cut_logit"], row["dual_clipped"], row["entropy_score"]
        del row["old_logprobs"]
    found = block.read(block.of_records(rows))
    assert "cut_logit" not in found and "entropy_score" not in found
    assert found["flags"] == ["counted", "clipped_low", "clipped_high"]
    given = whole(rows, "logprobs").astype(float)
    np.testing.assert_allclose(found["logprobs"], given, rtol=2**-11, atol=3e-8)


def test_completions_may_be_empty_and_rewards_not_finite():
    rows = [made.record(0), made.record(5, reward=np.nan)]
    found = block.read(block.of_records(rows))
    assert found["lengths"] == [0, 5]
    assert found["completions"][1]["reward"] is None


def test_the_same_records_give_the_same_bytes():
    assert block.of_records(made.groups()) == block.of_records(made.groups())


@pytest.mark.slow
def test_a_long_group_is_small():
    rows = [made.record(10_240, seed=i) for i in range(16)]
    size = len(block.of_records(rows))
    print(f"{size / 1e6:.2f} MB")
    assert size <= LIMIT
