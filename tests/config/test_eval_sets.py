"""`--sets`: names, folders, files, and what is refused."""

import json

import pytest

from hapo_jax import assembly, tasks
from hapo_jax.config import defaults, eval_sets, presets
from tests import real_data


def config(task="math", **options):
    c = defaults.default()
    c.task.name = task
    c.task.test = {"split": "test", "path": "own.jsonl", **options}
    return c.lock()


def test_without_sets_the_configs_own_problems_are_evaluated():
    (own,) = eval_sets.parse("", config(grading="dapo"))
    assert own.task == "math" and own.name == "test"
    assert own.options == {"split": "test", "path": "own.jsonl", "grading": "dapo"}


def test_names_folders_and_files():
    c = config(prompt_template="Q {problem}", grading="hapo")
    found = eval_sets.parse(
        "aime24, D/math500 ,kk,humaneval,test,math:x/mine.jsonl.gz", c, data="F"
    )
    assert [(s.name, s.task, s.options["path"]) for s in found] == [
        ("aime24", "math", "F/aime24"),
        ("math500", "math", "D/math500"),
        ("kk", "logic", "F/kk_test.jsonl"),
        ("humaneval", "code", "F/humaneval.jsonl"),
        ("test", "math", "own.jsonl"),
        ("mine", "math", "x/mine.jsonl.gz"),
    ]
    # The config's task asks and grades as the config says, the others as the table.
    for s in found:
        assert (s.options.get("grading") == "hapo") == (s.task == "math")
        assert (s.options["prompt_template"][:2] == "Q ") == (s.task == "math")
    (hub,) = eval_sets.parse("aime24", c)
    assert hub.options["path"] == "aime24"
    # HumanEval is a prompt of its own, whatever a config of MBPP asks.
    (own,) = eval_sets.parse("D/humaneval", config("code", prompt_template="MBPP"))
    assert own.options["prompt_template"].startswith("Complete")
    # Limits are those of the official harness, whatever training allows.
    limits = dict(test_s=1.0, total_s=2.0, memory_mib=99)
    found = eval_sets.parse(
        "humaneval,livecodebench", config("code", **limits), data="F"
    )
    assert [s.options["test_s"] for s in found] == [3.0, 6.0]


def test_files_of_a_pattern_have_the_name_of_their_folder():
    own = config(columns="problem=ask", prompt_template="")
    found = eval_sets.parse("math:D/*.parquet,math:E/,math:hf://a/b/c/x*,D/aime24", own)
    assert [s.name for s in found] == ["D", "E", "c", "aime24"]
    assert found[0].options["path"] == "D/*.parquet"
    # Fields of the config's own files; those of a known set are known.
    assert ["columns" in s.options for s in found] == [True, True, True, False]


def test_the_pool_waits_as_long_as_programs_may_run():
    c = config("code", total_s=20.0)
    sets = eval_sets.parse("livecodebench,math500", c, data="F")
    with c.unlocked():
        c.grading.workers = 1
    with assembly.make_pool(c, sets) as pool:
        waits = {task: pool._timeouts_s[task] for task in ("code", "math")}
    assert waits["code"] > 60 and waits["math"] == c.grading.timeout_s
    with assembly.make_pool(c) as pool:
        assert 20 < pool._timeouts_s["code"] < 60


def test_a_new_task_reads_files_as_its_config_says(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "sums", "nowhere")
    (found,) = eval_sets.parse("sums:x/mine.jsonl", config("sums", digits=2))
    assert (found.name, found.task) == ("mine", "sums")
    assert found.options == {"split": "test", "path": "x/mine.jsonl", "digits": 2}
    with pytest.raises(ValueError, match="with a config of that task"):
        eval_sets.parse("sums:x/mine.jsonl", config("math"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("mth500", "did you mean 'math500'"),
        ("mine.jsonl", "as in math:mine.jsonl"),
        ("humaneval", "--data=DATA"),
        ("math500,D/math500", "twice"),
        ("countdown:x", "as test"),
        ("mth:x.jsonl", "did you mean .math."),
    ],
)
def test_what_cannot_be_evaluated_is_refused(sets, message):
    with pytest.raises(ValueError, match=message):
        eval_sets.parse(sets, config())


def test_a_preset_sets_the_protocol():
    c = presets.apply_preset(defaults.default(), "hapo")
    assert (c.eval.temperature, c.eval.top_p, c.eval.k) == (0.5, 0.7, 8)
    c = presets.apply_preset(defaults.default(), "dapo")
    assert (c.eval.temperature, c.eval.top_p, c.eval.k) == (1.0, 0.7, 32)
    with pytest.raises(ValueError, match="did you mean 'dapo'"):
        presets.apply_preset(c, "dappo")


def test_leaked_problems_are_those_of_the_flag_file_beside_the_set(tmp_path):
    (bare,) = eval_sets.parse(f"{tmp_path}/amc23", config())
    assert eval_sets.overlapping_ids(bare) == set()
    path = tmp_path / "dapo_math_17k_flags.json"
    path.write_text(json.dumps({"eval_overlap": [{"train": "t", "eval": "amc23-1"}]}))
    amc, aime = eval_sets.parse("amc23,aime24", config(), data=str(tmp_path))
    assert eval_sets.overlapping_ids(amc) == {"amc23-1"}
    assert eval_sets.overlapping_ids(aime) == set()
    path.write_text("{}")
    with pytest.raises(ValueError, match="must be a flag file with eval_overlap"):
        eval_sets.overlapping_ids(amc)


@pytest.mark.skipif(
    not (real_data.FOLDER / "amc23.jsonl").is_file(),
    reason="no data folder; set HAPO_DATA_DIR",
)
def test_every_set_by_name_can_be_read_from_the_data_folder():
    sizes = {}
    for name in eval_sets.SETS:
        if name in ("math", "dapo_math_17k"):  # training sets, without a test file
            continue
        (found,) = eval_sets.parse(name, config(), data=str(real_data.FOLDER))
        options = {k: v for k, v in found.options.items() if k != "split"}
        problems = tasks.get(found.task).problems("test", **options)
        sizes[name] = len(problems)
        if name == "amc23":
            leaked = {p.id for p in problems} & eval_sets.overlapping_ids(found)
            assert len(leaked) == 21
    assert sizes["amc23"] == 40 and sizes["math500"] == 500 and sizes["aime24"] == 30
    assert sizes["humaneval"] == 164 and sizes["mbpp"] == 500
