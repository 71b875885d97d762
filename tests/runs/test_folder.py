"""The run's folder: what is written is read back, and a resumed run leaves no seam."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from ml_collections import ConfigDict
from pyarrow import parquet
from tensorboardX.proto import event_pb2

from hapo_jax.config import defaults, presets, resolution, upgrade
from hapo_jax.runs import folder as folder_lib
from hapo_jax.runs import records as records_lib


def make_config(**changes):
    config = ConfigDict(
        {
            "num_steps": 10,
            "algo": {"clip": {"low": 0.2}, "names": ("a", "b")},
            "mesh": {"data": -1},
            "log": {"tensorboard": True, "wandb": ""},
        }
    )
    config.update_from_flattened_dict(changes)
    return config


def open_folder(path, *, resume_step=None, config=None, derived=(), **options):
    home = folder_lib.Home(
        workdir=path,
        resolved=resolution.Resolved(config or make_config(), tuple(derived)),
        may_change=("num_steps", "mesh"),
    )
    return folder_lib.RunFolder(home, resume_step=resume_step, **options)


def records(mask):
    """Columns for the completions of a [b, T] mask."""
    rng = np.random.default_rng(0)
    b = len(mask)
    per_completion = {
        "problem_id": [f"p{i}" for i in range(b)],
        "group": np.zeros(b, np.int32),
        "prompt": ["1 2 3 → 6"] * b,
        "completion": ["a half character \udce2"] * b,
        "score": np.ones(b, np.float32),
        "reward": np.full(b, 0.1, np.float32),
        "truncated": np.zeros(b, bool),
    }
    per_token = {
        name: rng.random(mask.shape, np.float32) for name in records_lib.PER_TOKEN
    }
    per_token |= {
        "tokens": rng.integers(0, 9, mask.shape, np.int32),
        "token_strings": [["t"] * int(row.sum()) for row in mask],
        "counted": mask,
        "clipped_low": rng.random(mask.shape) < 0.5,
        "clipped_high": rng.random(mask.shape) < 0.5,
        "dual_clipped": np.zeros(mask.shape, bool),
        "counted": mask,
    }
    return {
        "completion_mask": mask,
        "per_completion": per_completion,
        "per_token": per_token,
    }


MASK = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)


def read_board(path):
    """(step, tag, value) of every scalar, and the tags of all other summaries."""
    scalars, tags = [], set()
    for file in sorted((path / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            body, data = data[12 : 12 + length], data[16 + length :]
            event = event_pb2.Event.FromString(body)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.append((event.step, value.tag, value.simple_value))
                else:
                    tags.add(value.tag)
    return scalars, tags


def test_metrics_are_read_back_by_step(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.log(0, {"eval/accuracy": np.float32(0.5)})
        folder.log(1, {"loss/policy": 0.1, "batch/tokens": np.int64(7), "on": True})
        folder.log(2, {"loss/policy": float("nan"), "grad/norm": float("inf")})
        folder.log(2, {"eval/accuracy": 1.0})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 4, "every line is on disk before the folder is closed"
    zero, one, two = records_lib.read_metrics(tmp_path)
    assert zero == {"step": 0, "eval/accuracy": 0.5}
    assert one == {"step": 1, "loss/policy": 0.1, "batch/tokens": 7, "on": 1}
    assert two["step"] == 2
    assert two["eval/accuracy"] == 1.0
    assert math.isnan(two["loss/policy"])
    assert math.isnan(two["grad/norm"])
    scalars, _ = read_board(tmp_path)
    assert (1, "batch/tokens", 7.0) in scalars
    assert (2, "eval/accuracy", 1.0) in scalars


def test_resuming_removes_what_lies_beyond_the_restored_step(tmp_path):
    with open_folder(tmp_path) as folder:
        for step in range(5):
            folder.log(step, {"loss/policy": float(step)})
            folder.save_rollouts(step, **records(MASK))
            folder.save_eval(step, [{"id": "a"}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss/pol')  # killed while writing
    with open_folder(tmp_path, resume_step=2) as folder:
        folder.log(3, {"loss/policy": 30.0})
    found = records_lib.read_metrics(tmp_path)
    assert [(m["step"], m["loss/policy"]) for m in found] == [
        (0, 0.0),
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]
    assert records_lib.rollout_steps(tmp_path) == [0, 1, 2]
    assert records_lib.eval_steps(tmp_path) == [0, 1, 2]
    assert len(json.loads((tmp_path / "config.json").read_text())["starts"]) == 2

    with open_folder(tmp_path, resume_step=None):
        assert records_lib.read_metrics(tmp_path) == []
        assert records_lib.rollout_steps(tmp_path) == []


def test_a_killed_process_loses_no_finished_line(tmp_path):
    script = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(pathlib.Path(__file__).parents[2])!r})
        from tests.runs import test_folder as t
        folder = t.open_folder({str(tmp_path)!r})
        for step in range(100):
            folder.log(step, {{"loss/policy": step}})
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [m["step"] for m in records_lib.read_metrics(tmp_path)] == list(range(100))


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        records_lib.read_metrics(tmp_path)


def test_rollouts_are_read_back_without_padding(tmp_path):
    given = records(MASK)
    with open_folder(tmp_path) as folder:
        folder.save_rollouts(7, **given)
    found = records_lib.read_rollouts(tmp_path, 7)
    assert [len(row["token_strings"]) for row in found] == [3, 1, 0]
    for i, row in enumerate(found):
        assert row["problem_id"] == f"p{i}"
        assert row["completion"] == "a half character ?"
        for name in set(records_lib.PER_TOKEN) - {"token_strings"}:
            expected = given["per_token"][name][i][MASK[i]]
            np.testing.assert_array_equal(row[name], expected)
            assert row[name].dtype == expected.dtype
    with pytest.raises(ValueError, match=r"step=8: .* has the steps \[7\]"):
        records_lib.read_rollouts(tmp_path, 8)


def test_records_of_an_earlier_version_are_read(tmp_path):
    """They lack columns that were not recorded yet."""
    with open_folder(tmp_path) as folder:
        folder.save_rollouts(7, **records(MASK))
    (path,) = (tmp_path / "rollouts").glob("*.parquet")
    parquet.write_table(parquet.read_table(path).drop_columns(["cut_logit"]), path)
    for row in records_lib.read_rollouts(tmp_path, 7):
        assert row.keys() == set(records_lib.SCHEMA.names) - {"cut_logit"}


def test_incomplete_records_are_refused(tmp_path):
    with open_folder(tmp_path) as folder:
        bad = records(MASK)
        del bad["per_token"]["entropy"]
        with pytest.raises(ValueError, match=r"\['entropy'\] are missing or unknown"):
            folder.save_rollouts(1, **bad)
        bad = records(MASK)
        bad["per_token"]["token_strings"][0].append("one more")
        with pytest.raises(ValueError, match=r"token_strings has rows of \[4, 1, 0\]"):
            folder.save_rollouts(1, **bad)


def test_eval_results_histograms_and_tables(tmp_path):
    results = [{"id": "a", "scores": [0, 1]}, {"id": "b\ud800", "scores": [1, 1]}]
    with open_folder(tmp_path) as folder:
        folder.save_eval(4, results)
        histograms = {"entropy/tokens": np.array([[0.1, np.nan]]), "none": np.zeros(0)}
        folder.log_histograms(4, histograms)
        folder.log_table(4, "samples", ["reward", "text"], [[1.0, "a|b\nc"]])
    assert records_lib.read_eval(tmp_path, 4) == results
    _, tags = read_board(tmp_path)
    assert "entropy/tokens" in tags
    assert "none" not in tags
    assert any(tag.startswith("samples") for tag in tags)


def test_config_json_tells_what_ran(tmp_path):
    with open_folder(tmp_path, devices="8 × cpu"):
        pass
    saved = json.loads((tmp_path / "config.json").read_text())
    assert records_lib.read_config(tmp_path) == saved["config"]
    assert saved["config"]["algo"] == {"clip": {"low": 0.2}, "names": ["a", "b"]}
    (start,) = saved["starts"]
    assert start["versions"]["jax"].startswith("0.")
    assert start["devices"] == "8 × cpu"
    assert start["resume_step"] is None
    with pytest.raises(ValueError, match="give the folder of a run"):
        records_lib.read_config(tmp_path / "absent")


def test_resuming_with_another_config_is_refused_by_key(tmp_path):
    with open_folder(tmp_path):
        pass
    other = make_config(**{"algo.clip.low": 0.3, "mesh.data": 2})
    with pytest.raises(
        ValueError, match=r"algo\.clip\.low: was 0\.2, now 0\.3"
    ) as error:
        open_folder(tmp_path, resume_step=3, config=other)
    assert "mesh" not in str(error.value)

    longer = make_config(**{"num_steps": 20, "mesh.data": 2})
    with open_folder(tmp_path, resume_step=3, config=longer):
        pass
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["config"]["num_steps"] == 20
    assert saved["starts"][1]["changes"] == {
        "mesh.data": [-1, 2],
        "num_steps": [10, 20],
    }
    # Nothing of a run from its beginning is kept, so nothing can disagree with it.
    with open_folder(tmp_path, resume_step=None, config=other):
        pass


def test_a_path_may_be_written_in_another_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_folder(tmp_path, config=make_config(data_path="data/a")):
        pass
    whole = make_config(data_path=str(tmp_path / "data" / "a"))
    with open_folder(tmp_path, resume_step=3, config=whole):
        pass
    other = make_config(data_path=str(tmp_path / "data" / "b"))
    with pytest.raises(ValueError, match="data_path: was"):
        open_folder(tmp_path, resume_step=3, config=other)


def test_a_derived_setting_may_follow_what_may_change(tmp_path):
    """A schedule that lasts as long as the run survives a longer run; one that was
    given in steps is refused, as any other setting."""

    def settings(num_steps, decay):
        config = make_config(num_steps=num_steps, decay_steps=decay)
        return config, resolution.Derived("decay_steps", 0, decay, "num_steps")

    config, derived = settings(10, 8)
    with open_folder(tmp_path, config=config, derived=[derived]):
        pass
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["config"]["decay_steps"] == 8
    assert saved["derived"] == {"decay_steps": [0, "num_steps"]}
    config, derived = settings(20, 18)
    with pytest.raises(ValueError, match="decay_steps: was 8, now 18"):
        open_folder(tmp_path, resume_step=3, config=config)
    with open_folder(tmp_path, resume_step=3, config=config, derived=[derived]):
        pass


def test_a_run_of_an_earlier_version_is_read_in_todays_units():
    """Its warm-up and decay counted updates, of which a step here has 4."""
    old = presets.apply_method(defaults.default(), "dapo").to_dict()
    old["rollout"] |= {"batch_prompts": 32, "round_prompts": 32}
    old["learner"] |= {"minibatch_prompts": 16, "passes": 2}
    old["learner"] |= {"warmup_steps": 20, "decay_steps": 580}
    for section, key in (("learner", "schedule"), ("learner", "final_share")):
        del old[section][key]
    del old["settings_of"]
    found = upgrade.upgraded(old, 1)
    assert found["settings_of"] == "dapo"
    assert found["learner"]["schedule"] == "cosine"
    assert found["learner"]["warmup_steps"] == 5
    assert found["learner"]["decay_steps"] == 145
    old["learner"] |= {"warmup_steps": 10}  # no whole number of steps: named as it is
    assert upgrade.upgraded(old, 1)["learner"]["warmup_steps"] == 2.5


def test_other_processes_write_nothing(tmp_path):
    with open_folder(tmp_path / "none", writes=False) as folder:
        folder.log(1, {"a": 1})
        folder.log_histograms(1, {"a": np.ones(2)})
        folder.log_table(1, "a", ["x"], [])
        folder.save_rollouts(1, **records(MASK))
        folder.save_eval(1, [])
    assert not (tmp_path / "none").exists()
