"""The results of `hapo-eval` in a folder, and how an interrupted one goes on.

  <set>.settings.json   what its numbers depend on
  <set>.jsonl           one line per problem, with all completions; the state of an
                        evaluation that was stopped
  results.json          the figures of every set that is complete

A line is written as its problem is done, so a kill costs the problems in flight; one
cut in half is drawn again. Draws do not depend on what else is drawn: the scores are
those of an evaluation that never stopped, and entropy is but for its last bits.
"""

import json
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from hapo_jax.runs import changes
from hapo_jax.runs import records as records_lib
from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused

_log = logging.getLogger(__name__)

RESULTS = "results.json"
# In the settings: what was read → path → checksum, to say which file has changed.
FILES = "files"


def settings_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the settings of a set lie."""
    return folder / f"{name}.settings.json"


def records_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the records of a set lie."""
    return folder / f"{name}.jsonl"


def resume(
    folder: pathlib.Path, name: str, settings: Mapping[str, Any], ids: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """The records of a set that are there already, by problem id.

    Makes the folder, notes the settings, and removes a line that was cut in half.

    Args:
      folder: of the results.
      name: of the set.
      settings: plain JSON; what the numbers depend on, and `FILES`.
      ids: of the problems that are to be evaluated.

    Raises:
      Refused: the folder holds records under other settings, or broken ones.
    """
    path = settings_path(folder, name)
    settings = json.loads(json.dumps(settings))
    if path.exists():
        saved = user_files.read_object(path)
        # Of an earlier version; what it did not note is taken for equal, and noted now.
        unknown = sorted(settings.keys() - saved.keys())
        found = changes.between(saved, settings, ignore=(FILES, *unknown))
        if found:
            listing = "\n".join(f"  {c}" for c in found)
            files = records_lib.changed_files(
                *(s.get(FILES, {}) for s in (saved, settings))
            )
            raise Refused(
                f"{folder} holds an evaluation of {name} with other settings:"
                f"\n{listing}\n{files}\nGive another --out, or "
                f"remove {path} and {records_path(folder, name).name}."
            )
        if unknown:
            _log.warning(
                "%s was begun by a version that did not note %s: it cannot be told "
                "whether they are the same. From now on it can.",
                path,
                ", ".join(unknown),
            )
    elif (folder / RESULTS).exists():
        # Figures of records that were removed; an evaluation that stops leaves none.
        results = read_results(folder)
        results.pop(name, None)
        _write_results(folder, results)
    wanted = set(ids)
    lines = records_lib.read_lines(records_path(folder, name)) if path.exists() else []
    found = {line["id"]: line for line in lines if line["id"] in wanted}
    # Anew, so that what is appended does not join a half line.
    records_lib.write_lines(records_path(folder, name), found.values())
    records_lib.replace(path, (json.dumps(settings, indent=2) + "\n").encode())
    return found


def finish(
    folder: pathlib.Path,
    name: str,
    records: Iterable[Mapping[str, Any]],
    figures: Mapping[str, Any],
) -> None:
    """Writes the records of a complete set in order, and its figures."""
    records_lib.write_lines(records_path(folder, name), records)
    results = read_results(folder) if (folder / RESULTS).exists() else {}
    _write_results(folder, results | {name: figures})


def _write_results(folder: pathlib.Path, results: Mapping[str, Any]) -> None:
    text = json.dumps(results, indent=2, sort_keys=True) + "\n"
    records_lib.replace(folder / RESULTS, text.encode())


def read_results(folder: pathlib.Path) -> dict[str, Any]:
    """Set → its figures.

    Raises:
      Refused: the folder holds no complete evaluation.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise Refused(
            f"{path} does not exist; give a folder in which hapo-eval has finished."
        )
    return user_files.read_object(path)


def read_set(
    folder: pathlib.Path, name: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(settings, records by problem id) of a complete set."""
    settings = user_files.read_object(settings_path(folder, name))
    records = records_lib.read_lines(records_path(folder, name))
    return settings, {record["id"]: record for record in records}
