"""A sweep's folder can be extended, and says how far its runs are."""

import pytest

from hapo_jax.sweeps import sweep_folder, variants
from hapo_jax.sweeps.sweep_folder import Sweep
from hapo_jax.sweeps.variants import Experiment
from hapo_jax.system.errors import Refused
from tests import made_runs


def sweep(path, *changes, file="configs/countdown.py"):
    return Sweep(
        folder=path,
        experiment=Experiment(file=file),
        variants=[variants.variant(c) for c in changes],
    )


def test_extending_keeps_what_is_there(tmp_path):
    sweep_folder.write(sweep(tmp_path, {"seed": 0}))
    sweep_folder.write(sweep(tmp_path, {"seed": 1}, {"seed": 0}))
    names = [v.name for v in sweep_folder.read(tmp_path).variants]
    assert names == ["base+seed=0", "base+seed=1"]


def test_another_meaning_of_a_name_is_refused(tmp_path):
    one = sweep(tmp_path)._replace(variants=[variants.variant({"a": 1}, "x")])
    other = sweep(tmp_path)._replace(variants=[variants.variant({"a": 2}, "x")])
    sweep_folder.write(one)
    with pytest.raises(Refused, match="a: was 1, now 2"):
        sweep_folder.write(other)
    with pytest.raises(Refused, match="another experiment .file: was"):
        sweep_folder.write(sweep(tmp_path, {"seed": 0}, file="other.py"))


def test_progress_is_read_off_the_run(tmp_path):
    assert sweep_folder.progress(tmp_path / "none").share == 0
    run = made_runs.make(tmp_path / "run", evaluations={4: {"p": [1.0, 0.0]}})
    found = sweep_folder.progress(run)
    assert (found.step, found.share, found.finished) == (4, 1.0, True)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    found = sweep_folder.progress(run)
    assert (found.step, found.share, found.finished) == (3, 0.75, False)


def test_a_run_that_owes_its_evaluation_is_not_finished(tmp_path):
    run = made_runs.make(tmp_path / "run", evaluations={2: {"p": [1.0]}})
    text = (run / "metrics.jsonl").read_text()
    cut = text[: text.index(', "eval/avg@1"')] + "}\n"
    (run / "metrics.jsonl").write_text(cut)
    assert (
        sweep_folder.progress(run).share == 1
        and not sweep_folder.progress(run).finished
    )


def test_variants_are_chosen_by_name_group_or_pattern():
    made = [variants.variant({":method": m, "seed": s}) for m in "ab" for s in (0, 1)]
    names = lambda only: [v.name for v in sweep_folder.chosen(made, only)]  # noqa: E731
    assert names("method=a") == ["method=a+seed=0", "method=a+seed=1"]
    assert names("*seed=1,method=a+seed=0") == [
        *("method=a+seed=0", "method=a+seed=1", "method=b+seed=1"),
    ]
    with pytest.raises(Refused, match="'c' fits no variant"):
        names("c")
