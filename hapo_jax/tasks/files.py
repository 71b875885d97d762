"""Which files a path means: one, several joined by commas, a folder's, a pattern's.

    data/train.jsonl.gz
    data/train-*.parquet
    data/mine                   the data files that lie in this folder, or in its
                                folder of the split
    data/a.jsonl,data/b.jsonl

Where the files of a folder or a pattern are named after splits (`train-00000-of-00002`,
`test.jsonl`), those of the split that is asked for are taken. `readers.py` reads them.
"""

import difflib
import errno
import glob
import os
import pathlib
import re
import stat
from collections.abc import Sequence
from typing import NamedTuple

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow", ".parquet")
PACKINGS = (".gz", ".zst")
_UNPACKED = (".arrow", ".parquet")  # which are packed inside
# What libraries write beside data.
_NO_DATA = {
    "state.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "config.json",
    "package.json",
}
_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "validation", "valid", "val", "dev"),
}
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>.*)")
_GLOB = re.compile(r"[*?\[]")


class Kind(NamedTuple):
    """Attributes:
    stem: the file's name without its endings.
    kind: one of `KINDS`.
    packing: one of `PACKINGS`, or "".
    """

    stem: str
    kind: str
    packing: str


def kind(path: pathlib.Path) -> Kind | None:
    """What a file's name says that it is; None if it is no data file."""
    name, packing = path.name, ""
    for ending in PACKINGS:
        if name.lower().endswith(ending):
            name, packing = name[: -len(ending)], ending
    for ending in KINDS:
        if name.lower().endswith(ending) and not (packing and ending in _UNPACKED):
            return Kind(name[: -len(ending)], ending, packing)
    return None


def endings() -> str:
    """The endings of data files, for messages."""
    return f"{', '.join(KINDS)} (text also with {' or '.join(PACKINGS)})"


def name(paths: Sequence[pathlib.Path]) -> str:
    """What a set of problems that lies in these files is called.

    gsm8k_train for data/gsm8k_train.jsonl.gz; mine for several files in data/mine.
    """
    if len(paths) == 1:
        found = kind(paths[0])
        return found.stem if found else paths[0].stem
    return paths[0].absolute().parent.name or "data"


def short(path: str | pathlib.Path) -> str:
    """A name for what a path means, without looking at the disk; never a pattern."""
    text = str(path).split(",")[0]
    while text and (_GLOB.search(pathlib.PurePath(text).name)):
        text = str(pathlib.PurePath(text).parent)
        if text == ".":
            return "files"
    return pathlib.PurePath(text).name.split(".")[0] or "files"


def find(path: str | pathlib.Path, split: str = "") -> tuple[pathlib.Path, ...]:
    """The files that a path means, in the order of their names; numbers in them count.

    Args:
      path: see above.
      split: "train" or "test"; or "", which takes all.

    Raises:
      Refused: there are none, they are of several kinds, shards are missing, or none
        is of the split.
    """
    text = str(path)
    whole = pathlib.Path(text)
    with user_files.refusing(whole):
        there, folder = os.path.lexists(whole), _is_folder(whole)
    if there and not folder:
        return (_checked(whole),)
    if folder:
        # `datasets` saves each split in a folder of its own.
        for word in _SPLITS.get(split, ()):
            if (whole / word).is_dir() and not any(map(_holds_data, whole.iterdir())):
                return find(whole / word)
        return chosen(_inside(whole), text, split)
    if _GLOB.search(text):
        matches = [pathlib.Path(p) for p in glob.glob(text, recursive=True)]
        found = [p for p in matches if p.is_file() and _holds_data(p)]
        if not found:
            raise Refused(
                f"the pattern {text!r} matches {_few(matches)} and no data file; data "
                f"files end in {endings()}."
            )
        return chosen(found, text, split)
    if "," in text:
        parts = [part.strip() for part in text.split(",")]
        found = [file for part in parts if part for file in find(part, split)]
        if twice := {str(file) for file in found if found.count(file) > 1}:
            raise Refused(f"{text!r} names {', '.join(sorted(twice))} twice.")
        return tuple(found)
    if whole.suffix:
        _checked(whole)
    what = "file" if whole.suffix else "file or folder"
    raise Refused(
        f"there is no {what} {text!r}{_near(whole)}; correct the path, which is "
        f"relative to the current folder {str(pathlib.Path.cwd())!r} unless it starts "
        "with '/'."
    )


def chosen(
    found: Sequence[pathlib.Path], text: str, split: str
) -> tuple[pathlib.Path, ...]:
    """Of the files that a folder or a pattern holds, those that are meant.

    Args:
      found: at least one data file.
      text: the path that was given, for messages.
      split: see `find`.
    """
    found = _of_split(sorted(found, key=_in_order), text, split)
    kinds = sorted({kind(file)[1] for file in found})
    if len(kinds) > 1:
        raise Refused(
            f"{text!r} holds data files of several kinds: {_few(found)}; say which by "
            f"a pattern, such as {str(found[0].parent / ('*' + kinds[0]))!r}."
        )
    shards: dict[tuple[str, ...], set[int]] = {}
    for file in found:
        if match := _SHARD.fullmatch(file.name):
            key = (str(file.parent), match["stem"], match["rest"], match["count"])
            shards.setdefault(key, set()).add(int(match["number"]))
    for (folder, stem, rest, count), numbers in shards.items():
        missing = sorted(set(range(int(count))) - numbers)
        if missing:
            file = f"{stem}-{missing[0]:05d}-of-{count}{rest}"
            raise Refused(
                f"{text!r} has {len(numbers)} of {int(count)} shards; missing: "
                f"{pathlib.Path(folder) / file} and {len(missing) - 1} more. Fetch "
                "them, or name the files one by one, joined by commas."
            )
    return tuple(found)


def _of_split(found: list[pathlib.Path], text: str, split: str) -> list[pathlib.Path]:
    """Those that are named after the split, where files are named after several."""
    labels = {file: _label(file) for file in found}
    if split not in _SPLITS or len(set(labels.values()) - {""}) < 2:
        return found
    for word in _SPLITS[split]:
        taken = [file for file in found if labels[file] == word]
        if taken:
            return taken
    raise Refused(
        f"{text!r} holds files of the splits {', '.join(sorted(set(labels.values())))}"
        f" and none of {split=}; name the files by a pattern."
    )


def _label(file: pathlib.Path) -> str:
    """The split that a file is named after, or an empty string."""
    words = re.split(r"[^a-z]+", kind(file).stem.lower())
    known = [word for names in _SPLITS.values() for word in names]
    return next((word for word in words if word in known), "")


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    """The data files directly in a folder.

    Raises:
      Refused: there are none.
    """
    entries = sorted(folder.iterdir())
    found = [file for file in entries if file.is_file() and _holds_data(file)]
    if found:
        return found
    below = sorted({file.parent for file in folder.rglob("*") if _holds_data(file)})
    hint = f"; there are some in {_few(below)}" if below else ""
    raise Refused(
        f"the folder {str(folder)!r} holds no data files{hint}. Data files end in "
        f"{endings()}; give their folder, a file or a pattern."
    )


def _holds_data(file: pathlib.Path) -> bool:
    hidden = file.name.startswith((".", "_"))
    return not hidden and file.name not in _NO_DATA and kind(file) is not None


def _checked(path: pathlib.Path) -> pathlib.Path:
    if kind(path) is None:
        raise Refused(
            f"{str(path)!r} must end in one of {endings()}; convert or rename it."
        )
    return path


def _is_folder(path: pathlib.Path) -> bool:
    """As `Path.is_dir`, but a fault other than that there is nothing is one."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG and _GLOB.search(str(path)):
            return False
        raise


def _near(path: pathlib.Path) -> str:
    """A hint at a file of a similar name, or an empty string."""
    try:
        names = [file.name for file in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _in_order(path: pathlib.Path) -> list:
    """part-2 before part-10."""
    parts = re.split(r"(\d+)", str(path))
    return [int(p) if i % 2 else p for i, p in enumerate(parts)]


def _few(paths: Sequence[pathlib.Path]) -> str:
    names = [str(path) for path in paths[:3]]
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return (", ".join(names) or "nothing") + more
