"""Frames of run folders that are made by hand."""

import subprocess
import sys

import numpy as np
import pytest
from pyarrow import parquet

from hapo_jax.analysis import frames
from hapo_jax.runs import records
from hapo_jax.system.errors import Refused
from tests import made_runs
from tests.analysis import made_records
from tests.analysis.made_records import completion, word


@pytest.fixture
def run(tmp_path):
    rows = [
        completion([word("a"), word("b", 0.9, ratio=1.2)], group=3),
        completion(
            [word("c", base_advantages=0.0)], group=3, score=0.5, truncated=True
        ),
    ]
    return made_records.make(tmp_path / "run", {2: rows, 4: rows[:1]})


def test_a_row_per_token_in_its_place(run):
    frame = frames.tokens(run)
    assert frame["string"].tolist() == ["a", "b", "c", "a", "b"]
    assert frame["step"].tolist() == [2, 2, 2, 4, 4]
    assert frame["completion"].tolist() == [0, 0, 1, 0, 0]
    assert frame["position"].tolist() == [0, 1, 0, 0, 1]
    assert set(frame["group"]) == {3} and set(frame["run"]) == {"run"}
    assert frame["correct"].tolist() == [True, True, False, True, True]
    assert frame["truncated"].tolist() == [False, False, True, False, False]
    assert frame["signal"].tolist() == [True, True, False, True, True]
    assert frame["uncertain"].tolist() == [False, True, False, False, True]
    # 1.2 is in the clip range and outside the zone of half its width.
    assert frame["in_zone"].tolist() == [True, False, True, True, False]
    np.testing.assert_allclose(frame["pivot"], 0.5)
    assert set(records.PER_TOKEN) - {"token_strings"} <= set(frame.columns)
    for name, kind in records.PER_TOKEN.items():
        if name != "token_strings":
            assert frame[name].dtype == kind.to_pandas_dtype(), name


def test_entropies_below_the_floor_count_as_it(tmp_path):
    made_records.make(tmp_path / "run", {1: [completion([word("a", 0.0)])]})
    assert frames.tokens(tmp_path / "run")["log_entropy"][0] == pytest.approx(
        np.log(1e-8), rel=1e-6
    )


def test_the_zone_is_that_of_the_settings(tmp_path):
    wide = word("a", ratio=1.2, clip_high=0.5)
    rows = {1: [completion([wide])]}
    adapted = made_records.make(tmp_path / "adapted", rows)
    base = made_records.make(
        tmp_path / "base", rows, changes=[("algo.redistribution.zone", "base")]
    )
    assert frames.tokens([adapted, base])["in_zone"].tolist() == [True, False]


def test_a_row_per_completion(run):
    frame = frames.completions(run, steps=[2])
    assert frame["length"].tolist() == [2, 1]
    assert frame["text"].tolist() == ["a b", "c"]
    assert frame["correct"].tolist() == [True, False]
    assert frame["entropy"].tolist() == pytest.approx([0.5, 0.1])


def test_metrics_and_evaluations(tmp_path):
    a = made_runs.make(
        tmp_path / "a", seed=3, evaluations={0: {"p": [0.0, 1.0]}, 2: {"p": [1.0, 1.0]}}
    )
    steps = frames.steps({"first": a})
    assert steps["run"].unique().tolist() == ["first"]
    assert set(steps["seed"]) == {3} and set(steps["method"]) == {"dapo"}
    assert steps.set_index("step")["eval/avg@2"].dropna().to_dict() == {0: 0.5, 2: 1.0}
    found = frames.evaluations(a)
    assert found["step"].tolist() == [0, 0, 2, 2]
    assert found["sample"].tolist() == [0, 1, 0, 1]
    assert found["correct"].tolist() == [False, True, True, True]
    assert (
        found["length"].tolist() == [5] * 4 and found["entropy"].tolist() == [0.5] * 4
    )


def test_what_cannot_be_read_is_refused(run, tmp_path):
    with pytest.raises(Refused, match=r"elsewhere holds no run.*make demo"):
        frames.tokens(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="names no run"):
        frames.steps([])
    with pytest.raises(Refused, match="equal names; give them as"):
        frames.steps([run, run])
    with pytest.raises(Refused, match=r"step=3.*has the steps \[2, 4\]"):
        frames.tokens(run, steps=[3])
    without = made_runs.make(tmp_path / "without", evaluations={2: {"p": [1.0]}})
    with pytest.raises(Refused, match=r"no records of tokens.*log.record_groups"):
        frames.tokens(without)
    (run / records.METRICS).write_text('{"step": 2}\n')
    with pytest.raises(Refused, match="no stats/log_entropy_quantile for step 2"):
        frames.tokens(run)


def test_records_of_an_earlier_version_are_refused(run):
    path = records.step_path(run / records.ROLLOUTS, 2, ".parquet")
    parquet.write_table(parquet.read_table(path).drop_columns(["loss"]), path)
    with pytest.raises(Refused, match="step 2: the records lack loss.*run it again"):
        frames.tokens(run)


def test_without_pandas_the_extra_is_named():
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "from hapo_jax.system.errors import Refused\n"
        "try:\n    import hapo_jax.analysis\n"
        "except Refused as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "pip install 'hapo_jax[analysis]'" in done.stdout, done.stderr
