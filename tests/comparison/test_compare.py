"""Comparisons of runs made by hand, whose answers are known."""

import csv
import json

import numpy as np
import pytest

from hapo_jax.comparison import compare, page, program, runs
from hapo_jax.runs import inputs
from hapo_jax.system.errors import Refused
from tests import made_runs

# {problem: scores} by method, seed and step. Method b is better by 0.25 on the first
# problem at the end, at every seed, and by nothing on the second.
START = {"p": [0.0, 0.0, 1.0, 0.0], "q": [1.0, 1.0, 0.0, 0.0]}


def scores(p, q):
    return {"p": [1.0] * p + [0.0] * (4 - p), "q": [1.0] * q + [0.0] * (4 - q)}


@pytest.fixture
def folders(tmp_path):
    made = []
    for seed, (p, q) in enumerate([(1, 2), (2, 3), (1, 3), (2, 2), (1, 2)]):
        for method, gain in (("dapo", 0), ("b", 1)):
            made.append(
                made_runs.make(
                    tmp_path / f"{method}-{seed}",
                    seed=seed,
                    method=method,
                    evaluations={0: START, 2: scores(4, 4), 4: scores(p + gain, q)},
                    tokens=100 * (1 + gain),
                )
            )
    return made


def lines_of(folders, **options):
    found = runs.read(folders, metric="eval/avg@4", **options)
    return found, compare.compare(found)


def test_differences_are_paired_by_seed_and_problem(folders):
    _, (base, b) = lines_of(folders)
    assert (base.variant, base.verdict, b.variant) == ("dapo", "the baseline", "b")
    assert base.final.mean == pytest.approx((3 + 5 + 4 + 4 + 3) / 5 / 8)
    assert b.gains["final"].mean == pytest.approx(0.125)
    assert b.gains["final"].num_problems == 2 and b.gains["final"].num_seeds == 5
    # Every seed agrees, and the two problems do not: two problems are few.
    assert b.verdict == "within noise" and b.gains["final"].low < 0
    # The best evaluation is the one in between, which all have alike.
    assert base.best.mean == b.best.mean == 1
    assert b.gains["best"].mean == 0


def test_the_area_is_over_the_axis(folders):
    _, (base, b) = lines_of(folders)
    start, end = 3 / 8, base.final.mean
    assert base.area.mean == pytest.approx(((start + 1) / 2 + (1 + end) / 2) / 2)
    assert b.gains["area"].mean == pytest.approx(0.125 / 4)


def test_areas_end_with_the_shorter_run(folders):
    found, (base, b) = lines_of(folders, over="sampled_tokens")
    # dapo ends at 400 tokens, where b has its second evaluation.
    start, end = 3 / 8, base.final.mean
    expected = (start + 1) / 2 - ((start + 1) / 2 + (1 + end) / 2) / 2
    assert b.gains["area"].mean == pytest.approx(expected)
    notes = "\n".join(page.notes([base, b], found))
    assert "in sampled tokens: dapo 400, b 800;" in notes
    lines_of(folders, over="seconds")


def test_a_cut_area_is_interpolated():
    curve = runs.Curve(
        steps=np.arange(2),
        axis=np.array([0.0, 4.0]),
        values=np.array([[0.0, 1.0], [4.0, 1.0]]),
        problems=("p", "q"),
    )
    np.testing.assert_allclose(compare.measure(curve, "area"), [2, 1])
    np.testing.assert_allclose(compare.measure(curve, "area", 1.0), [0.5, 1])


def test_another_last_step_is_not_paired_over_steps(tmp_path):
    a = made_runs.make(tmp_path / "a", method="dapo", evaluations={2: START})
    b = made_runs.make(tmp_path / "b", method="b", evaluations={4: START})
    with pytest.raises(Refused, match="one ends at step 2 and the other at 4"):
        lines_of([a, b])


def test_other_training_rows_are_not_paired(tmp_path):
    pair = []
    for name, crc in (("dapo", 1), ("b", 2)):
        at = made_runs.make(tmp_path / name, method=name, evaluations={2: START})
        rows = {"task.train": {"crc rows": crc, "crc problems": crc}, "files": {}}
        (at / inputs.NAME).write_text(json.dumps(rows))
        assert inputs.read(at)["task.train"] == rows["task.train"]
        pair.append(at)
    with pytest.raises(Refused, match="task.train: other problems"):
        lines_of(pair)


def test_a_variant_is_what_one_asks_for(folders):
    found, lines = lines_of([f for f in folders if "dapo" in f.name], by="seed")
    assert [*found.groups] == ["0", "1", "2", "3", "4"]
    assert {line.verdict for line in lines[1:]} == {"no seed in common"}
    with pytest.raises(Refused, match="--by=algo.clip_high: .* no such setting"):
        lines_of(folders, by="algo.clip_high")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("task.train", {"size": 3}), "task.train.*was"),
        (("model.path", "elsewhere"), "model.path: was '', now 'elsewhere'"),
    ],
)
def test_what_cannot_be_paired_is_refused(tmp_path, change, words):
    evaluations = {2: START}
    a = made_runs.make(tmp_path / "a", method="dapo", evaluations=evaluations)
    b = made_runs.make(
        tmp_path / "b", method="b", evaluations=evaluations, changes=[change]
    )
    with pytest.raises(Refused, match=words):
        lines_of([a, b])


def test_other_problems_are_not_paired(tmp_path):
    a = made_runs.make(tmp_path / "a", method="dapo", evaluations={2: START})
    other = {"p": START["p"], "r": START["q"]}
    b = made_runs.make(tmp_path / "b", method="b", evaluations={2: other})
    with pytest.raises(Refused, match="evaluated on other problems"):
        lines_of([a, b])


def test_what_there_is_not_is_named(folders, tmp_path):
    with pytest.raises(Refused, match="has none .did you mean 'eval/avg@4'"):
        runs.read(folders, metric="eval/avg@8")
    with pytest.raises(Refused, match="no run and of no sweep"):
        runs.read([tmp_path / "nothing"], metric="eval/avg@4")
    found = runs.read(folders, metric="eval/avg@4")
    with pytest.raises(Refused, match="--baseline=dap: .*did you mean 'dapo'"):
        compare.compare(found, "dap")
    with pytest.raises(Refused, match="are both dapo with seed 0"):
        runs.read([folders[0], folders[0]], metric="eval/avg@4")


def test_an_unfinished_run_is_left_out_and_told(folders):
    path = folders[0] / "metrics.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:3]) + "\n")
    found, lines = lines_of(folders)
    assert 0 not in found.groups["dapo"]
    notes = "\n".join(page.notes(lines, found))
    assert f"left out: {folders[0]}: at step 2, not at its end" in notes
    assert "b: the baseline has no seed 0." in notes


def test_the_program_writes_tables_and_a_picture(folders, tmp_path, capsys):
    out = tmp_path / "out"
    program.main([*map(str, folders)], metric="eval/avg@4", out=str(out))
    said = capsys.readouterr().out
    assert "within noise" in said and "the baseline" in said
    assert "47.5 [" in said  # dapo's final accuracy in per cent
    assert (out / "curves.png").stat().st_size > 10_000
    assert (out / "table.md").read_text().startswith("| variant | seeds | final, % |")
    with (out / "seeds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert {row["final"] for row in rows if row["variant"] == "dapo"} == {
        *("0.375", "0.625", "0.5"),
    }
