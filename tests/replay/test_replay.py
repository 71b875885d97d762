"""A step made again from a record made by hand, with numbers worked out by hand.

tests/test_every_method.py replays a step of every method.
"""

import io

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest

from hapo_jax import replay
from hapo_jax.algo.terms import Rows
from hapo_jax.config import defaults, presets, upgrade
from hapo_jax.learner.head import Scores
from hapo_jax.runs import batches
from hapo_jax.runs import records as records_lib
from hapo_jax.system.errors import Refused
from tests import made_runs

# Two groups of two completions, a mini-batch each. The tokens of the first completion
# of a group are a and b, those of the second c and, in the first group, d.
MASK = np.array([[1, 1], [1, 1], [1, 1], [1, 0]], bool)
OLD = np.log(np.array([[0.5, 0.4], [0.5, 0.25], [0.2, 0.5], [0.5, 1]], np.float32))
ENTROPY = np.array([[0.1, 1.0], [0.2, 0.8], [0.4, 0.5], [0.3, 0]], np.float32)
# By update: 1 at the first, and then tokens on both sides of [0.8, 1.28].
A = 0.5**0.5  # the advantage: 0.5 over the standard deviation of two rewards, 0 and 1
RATIO = np.array([[1, 1], [1, 1], [1.5, 1.1], [0.7, 1]], np.float32)


def scores(logprobs):
    """Of a policy that says this of the tokens."""
    logprobs = np.where(MASK, logprobs, 0).astype(np.float32)
    ones = MASK.astype(np.float32)
    return Scores(logprobs, ENTROPY, rank=ones, square_sum=ones, cut_logprobs=logprobs)


def record(**changes):
    """The record of a step of a DAPO run with one pass of two updates."""
    old = np.where(MASK, OLD, 0)
    rows = Rows(
        mask=MASK,
        old_logprobs=old,
        old_entropy=ENTROPY,
        behavior_logprobs=old,
        reference_logprobs=None,
        rewards=np.array([1, 0, 1, 0], np.float32),
        scores=np.array([1, 0, 1, 0], np.float32),
        group_ids=np.array([0, 0, 2, 2], np.int32),
        prompt_ids=np.array([5, 5, 6, 6], np.int32),
        baselines=np.zeros(4, np.float32),
    )
    seen = scores(OLD + np.log(RATIO))
    made = batches.Recorded(
        step=3,
        tokens=np.where(MASK, 7, 0).astype(np.int32),
        temperature=MASK.astype(np.float32),
        rows=rows,
        after=seen,
        seen=(seen,),
        method_state={},
        minibatch_rows=2,
        phases=1,
        num_prompts=10,
    )
    return made._replace(**changes)


def config(method="dapo"):
    """Of the run, with importance weights off: they would all be 1."""
    return presets.apply_method(defaults.default(), method).lock()


@pytest.fixture
def workdir(tmp_path):
    """A run's folder with the record, its text, and nothing else."""
    folder = made_runs.make(tmp_path / "run", evaluations={3: {"p": [1.0]}})
    (folder / records_lib.BATCHES).mkdir()
    path = records_lib.step_path(folder / records_lib.BATCHES, 3, ".parquet")
    path.write_bytes(batches.to_bytes(record()))
    kinds = {pa.string(): "x", pa.bool_(): False}
    strings = [["a", "b"], ["c", "d"], ["a", "b"], ["c"]]
    data = records_lib.rollouts_to_bytes(
        completion_mask=MASK,
        per_completion={
            name: [kinds.get(kind, 0)] * 4
            for name, kind in records_lib.PER_COMPLETION.items()
        },
        per_token={
            name: np.full(MASK.shape, kinds.get(kind, 0))
            for name, kind in records_lib.PER_TOKEN.items()
        }
        | {"token_strings": strings},
    )
    (folder / records_lib.ROLLOUTS).mkdir(exist_ok=True)
    path = records_lib.step_path(folder / records_lib.ROLLOUTS, 3, ".parquet")
    path.write_bytes(data)
    return folder


def test_a_step_without_updates_has_none_to_replay():
    still = record(seen=())
    with pytest.raises(Refused, match="step 3 has made no update.*at='after'"):
        replay.of_record(still, config())
    assert np.isfinite(replay.of_record(still, config(), at="after").terms.loss).all()


def test_dapo_by_hand():
    """Advantages are ±A; of the second group's tokens the ratio 1.5 counts as 1.28 and
    0.7 as 0.8, both without a gradient, and 1.1 has one: 1.1 A / 3 tokens."""
    found = replay.of_record(record(), config())
    terms = found.terms
    advantage = np.array([[1, 1], [-1, -1], [1, 1], [-1, 0]])
    np.testing.assert_allclose(terms.advantages, A * advantage, atol=1e-5)
    np.testing.assert_allclose(terms.ratio[MASK], RATIO[MASK], rtol=1e-6)
    loss = np.array([[-1, -1], [1, 1], [-1.28, -1.1], [0.8, 0]])
    np.testing.assert_allclose(terms.loss, A * loss, atol=1e-5)
    push = np.array([[1, 1], [-1, -1], [0, 0], [0, 0]]) / 4
    push[2, 1] = 1.1 / 3
    np.testing.assert_allclose(found.push, A * push, atol=1e-5)
    assert terms.clipped_high.tolist() == [[False] * 2] * 2 + [
        [True, False],
        [False] * 2,
    ]
    assert terms.clipped_low.tolist() == [[False] * 2] * 3 + [[True, False]]
    # Summed numerators over summed denominators, as in metrics.jsonl.
    np.testing.assert_allclose(found.metrics["loss/policy"], -1.58 * A / 7, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["clip/frac_high"], 1 / 7, rtol=1e-6)
    assert found.fresh == ("entropy",)  # a record without a state


def test_a_summary_splits_tokens_by_their_entropy():
    """The most uncertain of the seven tokens are 1.0 and 0.8 nats, of group 1."""
    found = replay.summary(replay.of_record(record(), config()), quantile=0.7)
    np.testing.assert_allclose(found["push × 1000, uncertain"], 1e3 * A / 4, rtol=1e-4)
    confident = 1e3 * (2 * A / 4 + 1.1 * A / 3) / 5
    np.testing.assert_allclose(found["push × 1000, confident"], confident, rtol=1e-4)
    np.testing.assert_allclose(found["clipped below, %"], 100 / 7, rtol=1e-5)


def test_a_setting_a_method_and_an_update():
    wide = replay.of_record(record(), config(), {"algo.clip.high": 0.6})
    assert not wide.terms.clipped_high.any()
    np.testing.assert_allclose(wide.push[2], [1.5 * A / 3, 1.1 * A / 3], atol=1e-5)

    # GRPO: the mean of each completion's mean, so that a lone token weighs double.
    without_kl = {"algo.kl.strength": 0.0}
    grpo = replay.of_record(record(), config(), without_kl, method="grpo")
    np.testing.assert_allclose(grpo.push[:2], [[A / 4] * 2, [-A / 4] * 2], atol=1e-5)
    assert grpo.terms.clip_high.max() < 0.28

    second = replay.of_record(record(), config(), at=1)
    assert not second.push[:2].any() and not second.terms.loss[:2].any()
    np.testing.assert_allclose(second.metrics["loss/policy"], -1.58 * A / 3, rtol=1e-5)
    first = replay.of_record(record(), config(), at=0)
    np.testing.assert_allclose(first.metrics["loss/policy"], 0, atol=1e-6)


def test_after_the_step_every_token_has_its_last_ratio():
    ratio = np.full_like(RATIO, 1.2)
    after = record(after=scores(OLD + np.log(ratio)))
    found = replay.of_record(after, config(), at="after")
    np.testing.assert_allclose(found.terms.ratio[MASK], 1.2, rtol=1e-6)
    # Both passes of a run are added up.
    twice = replay.of_record(record(seen=record().seen * 2), config())
    once = replay.of_record(record(), config())
    np.testing.assert_allclose(twice.push, 2 * once.push, rtol=1e-6)
    np.testing.assert_allclose(
        twice.metrics["loss/policy"], once.metrics["loss/policy"], rtol=1e-6
    )


def test_a_step_of_equal_rewards_pushes_nothing():
    flat = record()
    flat = flat._replace(rows=flat.rows._replace(rewards=np.ones(4, np.float32)))
    found = replay.of_record(flat, config())
    assert not found.push.any() and not found.terms.loss.any()
    assert "loss/policy" not in found.metrics and found.metrics["batch/tokens"] == 7


@pytest.mark.parametrize(
    "method, said",
    [
        ("ppo", "old_values"),
        ("remax", "baselines"),
        ("archer", "reference_logprobs"),
        ("hapoo", "did you mean 'hapo'"),
    ],
)
def test_what_the_record_has_not_is_refused(method, said):
    with pytest.raises(Refused, match=said):
        replay.of_record(record(), config(), method=method)


@pytest.mark.parametrize(
    "changes, at, said",
    [
        ({"rollout.top_p": 0.5}, "updates", "section algo alone"),
        ({"algo.clip.hihg": 0.5}, "updates", "algo.clip.high"),
        ({"algo.clip.high": "wide"}, "updates", "of type float"),
        ({"algo.ratio_of": "sampled"}, "updates", "algo.ratio_of='base'"),
        ({}, 2, r"\[0, 2\)"),
        ({}, "before", "'updates', 'after'"),
    ],
)
def test_a_wrong_question_is_refused(changes, at, said):
    with pytest.raises(Refused, match=said):
        replay.of_record(record(), config(), changes, at=at)


def test_a_folder_is_read_and_drawn(workdir):
    assert batches.steps(workdir) == [3]
    found = replay.replay(workdir, 3)
    run = upgrade.from_saved(records_lib.read_config(workdir))
    want = replay.of_record(record(), run)
    np.testing.assert_array_equal(found.push, want.push)
    assert found.metrics == want.metrics

    figure = replay.picture(workdir, 3, {"algo.clip.high": 0.6}, method="hapo")
    png = io.BytesIO()
    figure.savefig(png, dpi=50)
    png.seek(0)
    assert len(np.unique(matplotlib.image.imread(png))) > 20
    ticks = [t.get_text() for t in figure.axes[-1].get_xticklabels()]
    assert ticks in (["a", "b"], ["c", "d"], ["c"])
    assert "hapo, clip.high=0.6" in figure.get_suptitle()


def test_a_record_is_read_as_it_was_written(workdir):
    state = {"['entropy'].mean": np.float32(0.5), "['advantage']": np.arange(3)}
    written = record(method_state=state, phases=1, seen=record().seen * 2)
    path = records_lib.step_path(workdir / records_lib.BATCHES, 4, ".parquet")
    path.write_bytes(batches.to_bytes(written))
    read = batches.read(workdir, 4)
    assert read.passes == 2 and read.num_prompts == 10
    assert read.rows.reference_logprobs is None and read.rows.beside is None
    for a, b in zip(read.rows, written.rows, strict=True):
        if b is not None:
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    for a, b in zip(read.seen[1], written.seen[1], strict=True):
        assert (a is None) == (b is None)
    assert {k: v.tolist() for k, v in read.method_state.items()} == {
        k: v.tolist() for k, v in state.items()
    }


def test_a_step_that_is_not_there_or_broken_is_refused(workdir):
    with pytest.raises(Refused, match=r"step=9.*\[3\].*record_groups=all"):
        batches.read(workdir, 9)
    path = records_lib.step_path(workdir / records_lib.BATCHES, 3, ".parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Refused, match="is broken"):
        batches.read(workdir, 3)


def test_what_records_may_take_has_a_limit():
    c = defaults.default()
    c.num_steps, c.log.record_groups, c.log.record_every_steps = 100, "all", 10
    c.rollout.max_completion_tokens = 1000
    gib = batches.largest(c, completions=512, phases=1)
    # 11 records of 512 × 1000 tokens, with some 200 bytes each.
    assert 0.8 < gib < 2
    c.max_sampled_tokens = 512_000  # which two records hold at most
    np.testing.assert_allclose(
        batches.largest(c, completions=512, phases=1), gib * 2 / 11
    )
    c.log.record_gib = gib / 20
    with pytest.raises(Refused, match="record_gib=.*record_every_steps"):
        batches.largest(c, completions=512, phases=1)
