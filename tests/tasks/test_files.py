"""Which files a path means: patterns, folders, splits and shards."""

import pathlib

import pytest

from hapo_jax.tasks import files


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder


def found(path, split=""):
    return [p.name for p in files.find(path, split)]


def test_a_folder_a_pattern_and_a_list(tmp_path):
    make(tmp_path, "part-10.jsonl", "part-2.jsonl", "README.md", ".x.jsonl", "b/c.json")
    make(tmp_path, "state.json", "dataset_info.json", "_cache.jsonl")
    both = ["part-2.jsonl", "part-10.jsonl"]
    assert found(tmp_path) == both  # in the order of their numbers
    assert found(f"{tmp_path}/*") == both
    assert found(f"{tmp_path}/part-?.jsonl") == both[:1]
    assert found(f"{tmp_path}/**/c*") == ["c.json"]
    assert found(f"{tmp_path}/{both[1]}, {tmp_path}/b") == ["part-10.jsonl", "c.json"]
    assert files.name(files.find(tmp_path)) == tmp_path.name
    assert files.name(files.find(tmp_path / both[0])) == "part-2"


def test_a_name_that_looks_like_a_pattern(tmp_path):
    make(tmp_path, "a[1],b*.jsonl")
    assert found(tmp_path / "a[1],b*.jsonl") == ["a[1],b*.jsonl"]


def test_splits_by_their_names(tmp_path):
    train = [f"train-0000{i}-of-00002.parquet" for i in range(2)]
    make(tmp_path, *train, "validation-00000-of-00001.parquet")
    assert found(tmp_path, "train") == train
    # Where there is no test split, the validation's.
    assert found(tmp_path, "test") == ["validation-00000-of-00001.parquet"]
    make(tmp_path, "test-00000-of-00001.parquet")
    assert found(f"{tmp_path}/*", "test") == ["test-00000-of-00001.parquet"]
    # A pattern of one split means what it says.
    assert found(f"{tmp_path}/train*", "test") == train
    make(tmp_path / "b", "dev.jsonl", "val.jsonl")
    with pytest.raises(
        ValueError, match="the splits dev, val and none of split='train"
    ):
        files.find(tmp_path / "b", "train")


def test_folders_of_splits(tmp_path):
    """As `datasets` saves them."""
    name = "data-00000-of-00001.arrow"
    make(tmp_path, "dataset_dict.json", f"train/{name}", "train/state.json")
    make(tmp_path, f"validation/{name}")
    assert files.find(tmp_path, "train") == (tmp_path / "train" / name,)
    assert files.find(tmp_path, "test") == (tmp_path / "validation" / name,)
    with pytest.raises(ValueError, match="there are some in .*train, .*validation"):
        files.find(tmp_path)


def test_a_missing_shard_is_refused(tmp_path):
    make(tmp_path, *(f"train-0000{i}-of-00004.jsonl" for i in (0, 3)))
    with pytest.raises(
        ValueError, match=r"2 of 4 shards; missing: .*-00001-of-.* and 1"
    ):
        files.find(tmp_path)
    # Named one by one they are what is wanted.
    assert found(tmp_path / "train-00003-of-00004.jsonl")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.jsonl", r"there is no file .*did you mean 'note.jsonl'\?"),
        ("note", "there is no file or folder 'note'"),
        ("a.xlsx", "must end in one of .jsonl, .ndjson, .json, .csv"),
        ("a.parquet.gz", "must end in one of"),
        ("*.txt", "the pattern .* matches nothing and no data file"),
        ("mixed", "several kinds: .*say which by a pattern"),
        ("empty", "holds no data files. Data files end in"),
        ("outer", "holds no data files; there are some in .*inner"),
        ("note.jsonl,note.jsonl", "names .* twice"),
        ("x" * 300 + ".jsonl", "has too long a name"),
    ],
)
def test_refusals(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "note.jsonl", "mixed/a.jsonl", "mixed/b.csv", "outer/inner/a.csv")
    pathlib.Path("empty").mkdir()
    with pytest.raises(ValueError, match=message):
        files.find(path)


def test_short_names_are_no_patterns():
    names = [
        "data/*.parquet",
        "data/",
        "data",
        "x/data.v2/train-*",
        "hf://datasets/o/data/*",
    ]
    assert {files.short(name) for name in names} == {"data"}
    assert files.short("*.csv") == "files"
    assert files.short("a/mine.jsonl.gz,b.jsonl") == "mine"
