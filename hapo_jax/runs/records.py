"""The records in a run's folder: their columns, their files, and how to read them.

For notebooks and scripts; needs no JAX. `folder.py` writes what this reads.
"""

import contextlib
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from hapo_jax.config import upgrade
from hapo_jax.system import user_files
from hapo_jax.system import patience
from hapo_jax.system.errors import Refused

CONFIG = "config.json"
# Of config.json. 1: warmup_steps and decay_steps counted optimizer updates.
FORMAT = 3
METRICS = "metrics.jsonl"
BEGUN = ".begun"  # ends the name of a file that is being written
ROLLOUTS = "rollouts"
BATCHES = "batches"
EVAL = "eval"
ORDER = "order.jsonl"

# The columns of a record. Lists have one element per token of the completion.
PER_COMPLETION = {
    "problem_id": pa.string(),
    "group": pa.int32(),  # equal within a group
    "prompt": pa.string(),
    "completion": pa.string(),
    "score": pa.float32(),  # what the verifier said
    "reward": pa.float32(),  # score plus penalties
    "truncated": pa.bool_(),  # stopped by the token limit
}
PER_TOKEN = {
    "tokens": pa.int32(),
    "token_strings": pa.string(),
    "entropy": pa.float32(),  # nats, of the untempered distribution, when it was drawn
    "old_entropy": pa.float32(),  # of the policy before the update
    "entropy_score": pa.float32(),  # in [-1, 1]; 0 where no stage reads it
    "temperature": pa.float32(),  # at which the token was drawn
    # Logits below this, relative to the largest, could not be drawn; -1e30: all could.
    "cut_logit": pa.float32(),
    "behavior_logprobs": pa.float32(),  # under the distribution drawn from
    "old_logprobs": pa.float32(),  # before the update, of what algo.ratio_of says
    "logprobs": pa.float32(),  # after the update, likewise
    "ratio": pa.float32(),  # exp(logprobs - old_logprobs)
    "importance_weight": pa.float32(),  # 1 where there is none
    "base_advantages": pa.float32(),  # before redistribution
    "advantages": pa.float32(),
    "loss": pa.float32(),  # before aggregation
    "counted": pa.bool_(),  # in the loss's denominator
    "clip_low": pa.float32(),  # the ratio counts in [1 - clip_low, 1 + clip_high]
    "clip_high": pa.float32(),
    "clipped_low": pa.bool_(),  # which clip fired
    "clipped_high": pa.bool_(),
    "dual_clipped": pa.bool_(),
}
SCHEMA = pa.schema(
    [
        *PER_COMPLETION.items(),
        *((name, pa.list_(kind)) for name, kind in PER_TOKEN.items()),
    ]
)


def read_config(workdir: str | pathlib.Path) -> dict[str, Any]:
    """The run's resolved config as nested dicts, tuples as lists.

    One of an earlier format is given in today's keys and units.

    Raises:
      Refused: the folder holds no run.
    """
    run = _read_run(workdir)
    return upgrade.upgraded(run["config"], run["format"])


def read_derived(workdir: str | pathlib.Path) -> set[str]:
    """The keys of the run's config that were left open and follow from others."""
    return set(_read_run(workdir)["derived"])


def read_starts(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The record of every start of the run, oldest first."""
    return _read_run(workdir)["starts"]


def _read_run(workdir: str | pathlib.Path) -> dict[str, Any]:
    """What config.json holds: `config`, `starts`, `derived` and `format`."""
    path = pathlib.Path(workdir) / CONFIG
    if not path.exists():
        raise Refused(f"{path} does not exist; give the folder of a run.")
    try:
        run = {"format": 1, "derived": {}, "starts": []} | user_files.read_object(path)
        kinds = {"config": dict, "derived": dict, "starts": list, "format": int}
        for key, kind in kinds.items():
            if not isinstance(run.get(key), kind):
                raise Refused(f"{path}: {key!r} is missing, or not as a run has it.")
    except Refused as error:
        raise Refused(
            f"{error} To let the run go on with the config that is given, uncompared, "
            f"remove {path}."
        ) from None
    return run


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, float]]:
    """The metrics by step, ascending: one dict per step with its `step`.

    Values that were not finite are nan. A torn last line, of a run that was killed, is
    left out.

    Raises:
      Refused: another line is broken.
    """
    steps: dict[int, dict[str, float]] = {}
    for line in read_metric_lines(workdir):
        values = {k: math.nan if v is None else v for k, v in line.items()}
        steps.setdefault(line["step"], {}).update(values)
    return [steps[step] for step in sorted(steps)]


def read_metric_lines(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The lines of the metrics as they are written, each with its `step`.

    Raises:
      Refused: a line is broken.
    """
    path = pathlib.Path(workdir) / METRICS
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if type(line.get("step")) is not int:
            raise Refused(f"{path}, line {number}: it has no step; remove it.")
    return lines


def rollout_steps(workdir: str | pathlib.Path) -> list[int]:
    """The steps that `read_rollouts` can read, ascending."""
    return sorted(steps_in(pathlib.Path(workdir) / ROLLOUTS, ".parquet"))


def read_rollouts(workdir: str | pathlib.Path, step: int) -> list[dict[str, Any]]:
    """The records of one step, one dict per completion, columns as in `SCHEMA`.

    Columns of `PER_TOKEN` are arrays of that completion's length (`token_strings`: a
    list). What an earlier version did not record is absent.
    """
    table = _read_table(workdir, step)
    numeric = (PER_TOKEN.keys() - {"token_strings"}) & set(table.column_names)
    rows = table.drop_columns(sorted(numeric)).to_pylist()
    for name in numeric:
        column = table[name].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        ends = np.cumsum(column.value_lengths().to_numpy())
        kind = PER_TOKEN[name].to_pandas_dtype()
        for row, part in zip(rows, np.split(values, ends[:-1])):
            row[name] = np.array(part, kind)
    return rows


def rollout_sizes(
    workdir: str | pathlib.Path, step: int
) -> list[tuple[int, int]]:
    """(group, tokens) of each completion of one step, in the order of its records."""
    table = _read_table(workdir, step, ["group", "tokens"])
    lengths = table["tokens"].combine_chunks().value_lengths()
    return [*zip(table["group"].to_pylist(), lengths.to_pylist())]


def _read_table(
    workdir: str | pathlib.Path, step: int, columns: Sequence[str] | None = None
) -> pa.Table:
    path = _existing(pathlib.Path(workdir) / ROLLOUTS, step, ".parquet")
    try:
        return parquet.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise Refused(f"{path} is broken ({error}); remove it.") from None


def eval_steps(workdir: str | pathlib.Path) -> list[int]:
    """The steps that `read_eval` can read, ascending."""
    return sorted(steps_in(pathlib.Path(workdir) / EVAL, ".jsonl"))


def read_eval(workdir: str | pathlib.Path, step: int) -> list[dict[str, Any]]:
    """The results of one evaluation, one dict per problem."""
    return read_lines(_existing(pathlib.Path(workdir) / EVAL, step, ".jsonl"))


def rollouts_to_bytes(
    *,
    completion_mask: np.ndarray,
    per_completion: Mapping[str, Sequence[Any] | np.ndarray],
    per_token: Mapping[str, Sequence[Sequence[Any]] | np.ndarray],
) -> bytes:
    """A Parquet file of records, see `RunFolder.save_rollouts`.

    Parquet rather than JSON: float32 stays exact in 4 bytes, and columns of tokens
    compress well.
    """
    for given, known in ((per_completion, PER_COMPLETION), (per_token, PER_TOKEN)):
        if set(given) != set(known):
            raise Refused(
                f"columns {sorted(set(given) ^ set(known))} are missing or unknown; "
                f"give exactly {list(known)}."
            )
    mask = np.asarray(completion_mask, bool)
    columns = {name: _strings(values) for name, values in per_completion.items()}
    for name, values in per_token.items():
        columns[name] = [
            _strings(row[m] if isinstance(row, np.ndarray) else row)
            for row, m in zip(values, mask, strict=True)
        ]
        lengths = [len(row) for row in columns[name]]
        if lengths != mask.sum(axis=1).tolist():
            raise Refused(
                f"{name} has rows of {lengths} tokens, and completion_mask of "
                f"{mask.sum(axis=1).tolist()}."
            )
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def _strings(values: Sequence[Any] | np.ndarray) -> list[Any]:
    """A list whose strings are valid UTF-8; a token alone may be half a character."""
    return [
        v.encode("utf-8", "replace").decode() if isinstance(v, str) else v
        for v in (values.tolist() if isinstance(values, np.ndarray) else values)
    ]


def write_lines(path: pathlib.Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSONL file, whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, "".join(json.dumps(o) + "\n" for o in objects).encode())


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Objects of a JSONL file; none if there is no file.

    Drops a torn last line, and the zero bytes that a machine leaves behind that lost
    power while it wrote.

    Raises:
      Refused: another line is broken, or it is no file; names file and line.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise Refused(f"{path} must be a file; move what is there away.")
    data = path.read_bytes().rstrip(b"\0")
    *lines, torn = data.split(b"\n")
    if torn:
        lines.append(torn)
    objects = []
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            if not isinstance(found, dict):
                raise Refused("it is no object")
        except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
            if number == len(lines) and line == torn:
                break
            raise Refused(f"{path}, line {number}: {error}; remove it.") from None
        objects.append(found)
    return objects


def step_path(folder: pathlib.Path, step: int, suffix: str) -> pathlib.Path:
    """Where the file of one step lies; names sort by step."""
    return folder / f"step_{step:08d}{suffix}"


def steps_in(folder: pathlib.Path, suffix: str) -> dict[int, pathlib.Path]:
    """The files that `step_path` named, by step; others are none of ours."""
    found = {}
    for path in folder.glob(f"step_*{suffix}"):
        number = path.name.removeprefix("step_").removesuffix(suffix)
        if number.isdecimal() and path == step_path(folder, int(number), suffix):
            found[int(number)] = path
    return found


def replace(path: pathlib.Path, data: bytes) -> None:
    """Writes beside the file and renames: a reader sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{BEGUN}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class Appender:
    """Adds lines to a JSONL file, each whole and on its way to the disk, or not at all.

    A line that a full disk cuts off is taken back and tried again; only a kill leaves
    half a line, at the end, which `read_lines` drops.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file = path.open("ab", buffering=0)

    def add(
        self,
        line: Mapping[str, Any],
        *,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Adds a line; waits where the disk fails, see `patience.retry`."""
        data = (json.dumps(line) + "\n").encode()
        patience.retry(lambda: self._append(data), str(self._path), give_up=give_up)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "Appender":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _append(self, data: bytes) -> None:
        end, written = os.fstat(self._file.fileno()).st_size, 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            raise


def changed_files(
    old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]
) -> str:
    """A sentence about the files that differ.

    Args:
      old, new: what is read from them → path → checksum; what only `old` has is not
        looked at.
    """
    changed = []
    for part, files in new.items():
        before = old.get(part, {})
        changed += [path for path in files if files[path] != before.get(path)]
        changed += [f"{path} (gone)" for path in before if path not in files]
    if changed:
        return f"Changed files: {', '.join(dict.fromkeys(changed))}."
    return (
        "None of its files has changed, but what is made of them: by another version "
        "of the program, or a chat template that is not the same twice."
    )


def _existing(folder: pathlib.Path, step: int, suffix: str) -> pathlib.Path:
    found = steps_in(folder, suffix)
    if step not in found:
        raise Refused(f"{step=}: {folder} has the steps {sorted(found)}.")
    return found[step]
