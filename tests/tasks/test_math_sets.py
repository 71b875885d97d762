"""The mathematical sets by name: files in folders, and a hub that is pretended."""

import json
import pathlib

import huggingface_hub
import huggingface_hub.errors
import pytest

from hapo_jax.tasks import hub, math, math_sets
from tests.real_data import FOLDER as DATA

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402, behind the skip

SIZES = {
    ("gsm8k", "train"): 7_473,
    ("gsm8k", "test"): 1_319,
    ("math", "train"): 7_500,
    ("math500", "test"): 500,
    ("dapo_math_17k", "train"): 17_917,
    ("aime24", "test"): 30,
    ("aime25", "test"): 30,
    ("amc23", "test"): 40,
    ("amc22_23", "test"): 83,
    ("minerva", "test"): 272,
    ("olympiadbench", "test"): 675,
}
# What the hub's files look like: (file, row, gold answer).
HUB = {
    "gsm8k": (
        "main/test-00000-of-00001.parquet",
        {"question": "q", "answer": "so\n#### 1,234"},
        "1234",
    ),
    "math": (
        "data/test-00000-of-00001.parquet",
        {"problem": "q", "solution": "thus $\\boxed{\\frac{1}{2}}$", "level": "5"},
        "\\frac{1}{2}",
    ),
    "math500": (
        "test.jsonl",
        {"problem": "q", "answer": "2", "unique_id": "test/1", "level": 2},
        "2",
    ),
    "aime24": (
        "data/train-00000-of-00001.parquet",
        {"id": 60, "problem": "q", "answer": "025"},
        "025",
    ),
    "aime25": ("test.jsonl", {"id": "0", "problem": "q", "answer": "70"}, "70"),
    "amc23": (
        "test-00000-of-00001.parquet",
        {"question": "q", "answer": "27.0"},
        "27",
    ),
    "amc22_23": (
        "data/train-00000-of-00001.parquet",
        {"id": 0, "problem": "q", "answer": 142.0},
        "142",
    ),
    "minerva": ("test.jsonl", {"question": "q", "answer": "1.6"}, "1.6"),
    "olympiadbench": (
        "OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
        {"id": 1606, "question": "q", "final_answer": ["1", "$2$"]},
        "1, $2$",
    ),
    "dapo_math_17k": (
        "all/train-00000-of-00001.parquet",
        {"prompt": "q", "solution": "34", "data_source": "math_dapo"},
        "34",
    ),
}


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Puts files into a pretended hub, and records what is asked of it."""
    asked = []

    def download(repository, *, repo_type, allow_patterns):
        asked.append((repository, repo_type, allow_patterns))
        return str(tmp_path)

    def put(name, row):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith("parquet"):
            parquet.write_table(pyarrow.Table.from_pylist([row]), path)
        else:
            path.write_text(json.dumps(row) + "\n")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return put, asked


def test_every_set_has_an_example_of_its_rows():
    assert HUB.keys() == math_sets.SETS.keys()


@pytest.mark.parametrize("name", HUB)
def test_a_set_from_the_hub(pretend, name):
    put, asked = pretend
    file, row, gold = HUB[name]
    put(file, row)
    split = "train" if name == "dapo_math_17k" else "test"
    (problem,) = math.problems(split, path=name, prompt_template="Q: {problem}")
    assert problem.prompt == "Q: q" and problem.statement == "q"
    assert (math.unpack(problem.answer)[0], problem.source) == (gold, name)
    assert problem.id.startswith(f"{name}-")
    repository = "/".join(math_sets.SETS[name].hub[split].split("/")[:2])
    assert asked[0][:2] == (repository, "dataset")


def test_a_set_that_has_changed_on_the_hub(pretend):
    pretend[0]("test.jsonl", {"question": "q", "answer": "2"})
    with pytest.raises(ValueError, match="line 1: field 'problem' is missing among"):
        math.problems("test", path="math500", prompt_template="")


def test_a_file_on_the_hub(pretend):
    put, asked = pretend
    put("a.jsonl", {"problem": "q", "answer": "2", "id": "x"})
    (problem,) = math.problems(
        "test", path="hf://datasets/me/mine/a.jsonl", prompt_template=""
    )
    assert problem.id == "x" and asked == [("me/mine", "dataset", "a.jsonl")]
    put("data/train-00000-of-00002.parquet", {"question": "1?", "answer": "#### 1"})
    put("data/train-00001-of-00002.parquet", {"question": "2?", "answer": "#### 2"})
    put("data/test-00000-of-00001.parquet", {"question": "3?", "answer": "#### 3"})
    (
        pathlib.Path(
            huggingface_hub.snapshot_download("", repo_type="", allow_patterns="")
        )
        / "data"
        / "README.md"
    ).write_text("no data")
    found = {
        split: math.problems(
            split, path="hf://datasets/me/mine/data/*", prompt_template=""
        )
        for split in ("train", "test")
    }
    assert [p.answer for p in found["train"]] == ["1", "2"]
    assert [(p.answer, p.statement) for p in found["test"]] == [("3", "3?")]
    with pytest.raises(ValueError, match=r"matches \[\] and no data file"):
        hub.fetch("hf://datasets/me/mine/b*.jsonl")
    with pytest.raises(ValueError, match="must be of the form hf://datasets/owner/"):
        hub.fetch("hf://datasets/mine")


@pytest.mark.parametrize(
    "error",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("no network"),
        OSError("no network"),
        huggingface_hub.errors.HFValidationError("no network"),
    ],
)
def test_without_a_network(monkeypatch, error):
    def download(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match="cannot be fetched .*no network.* no network"):
        math.problems("test", path="math500", prompt_template="")


def test_a_folder_and_a_name(tmp_path):
    row = {"id": "a", "problem": "q", "answer": "2"}
    (tmp_path / "math500.jsonl").write_text(json.dumps(row))
    for path in (tmp_path / "math500", tmp_path / "math500.jsonl"):
        (problem,) = math.problems("test", path=path, prompt_template="")
        assert problem.id == "a"
    with pytest.raises(ValueError, match="no file .*aime24.jsonl"):
        math.problems("test", path=tmp_path / "aime24", prompt_template="")
    with pytest.raises(ValueError, match="'math500' has no split='train', only test"):
        math.problems("train", path=tmp_path / "math500", prompt_template="")


def test_numbers_of_minerva_may_be_rounded(tmp_path):
    row = {"id": "a", "problem": "q", "answer": "41.8"}
    for name, score in (("minerva", 1.0), ("math500", 0.0)):
        (tmp_path / math_sets.SETS[name].files["test"]).write_text(json.dumps(row))
        (problem,) = math.problems("test", path=tmp_path / name, prompt_template="")
        assert math.grade("Answer: 41.803", problem.answer).score == score


@pytest.mark.parametrize(("name", "split"), SIZES)
def test_the_sets_in_the_data_folder(name, split):
    if not (DATA / math_sets.SETS[name].files[split]).is_file():
        pytest.skip(f"no data in {DATA}")
    problems = math.problems(split, path=DATA / name, prompt_template="{problem}")
    assert len(problems) == SIZES[name, split]
    for problem in problems[:: len(problems) // 10]:  # the gold answer is right
        gold, *_ = math.unpack(problem.answer)
        assert math.grade(f"\\boxed{{{gold}}}", problem.answer).score == 1
