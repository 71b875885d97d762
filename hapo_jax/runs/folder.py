"""A run's folder: the config, the numbers of every step, and records to look at.

  config.json      the resolved config, and for every start of the run: versions, git
                   commit, devices, and what of the config had changed
  inputs.json      belongs to `inputs.py`
  metrics.jsonl    one line per step, flat `area/name` keys
  tensorboard/     the same numbers, histograms, tables of completions
  wandb/           Weights & Biases' copy of them, with log.wandb
  rollouts/        step_<k>.parquet: per-token records of some groups
  batches/         step_<k>.parquet: whole batches, see `batches.py`
  eval/            step_<k>.jsonl: one line per problem
  order.jsonl      what data.order sorts training problems by, if it sorts them
  checkpoints/, hf/   belong to `learner/checkpoint.py` and `model/huggingface.py`

`records.py` knows the formats and reads them back. A resumed run continues these
files as if it had never stopped: what lies beyond the restored step is removed, since
those steps come again.
"""

import datetime
import functools
import json
import logging
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple, Self

import ml_collections
import numpy as np

from hapo_jax.runs import board, changes, wandb_board
from hapo_jax.runs import records as records_lib
from hapo_jax.config import defaults, resolution
from hapo_jax.system import patience, side
from hapo_jax.system.errors import Refused

_log = logging.getLogger(__name__)

_PART = ".part"  # suffix of the records of an evaluation that is under way

PACKAGES = ("hapo_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Home(NamedTuple):
    """The folder that a run will live in, and as what.

    Attributes:
      workdir: the folder; it may be new.
      resolved: the config, and what of it was derived.
      may_change: keys, or whole sections, that a resumed run may set anew because they
        do not change what its numbers mean (`num_steps`, `mesh`, `log`).
    """

    workdir: str | pathlib.Path
    resolved: resolution.Resolved
    may_change: Collection[str]


class RunFolder:
    """Writes a run's folder; owns its open files. Close it, or use `with`.

    Steps count updates: step k is about the k-th update, step 0 about the policy that
    the run started from.
    """

    def __init__(
        self,
        home: Home,
        *,
        resume_step: int | None,
        writes: bool = True,
        devices: str = "",
        inputs: Mapping[str, str] | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ):
        """Opens the folder at the step where the run goes on.

        Args:
          home: the folder, which is made if absent, and the config.
          resume_step: the restored step; what the folder has of later steps is removed.
            None for a run from its beginning: then of all steps.
          writes: False on all processes but one; then no method does anything.
          devices: in words, for the record.
          inputs: what this start reads, a checksum each, for the record.
          give_up: whether to wait no longer for a disk that fails; see `patience.py`.

        Raises:
          Refused: another key differs from the config that the run has had so far.
        """
        self.path = pathlib.Path(home.workdir)
        self._writes = writes
        if not writes:
            return
        with patience.once(str(self.path)):
            self._open(home, resume_step, devices, inputs or {})
        self._give_up = give_up
        self._metrics = records_lib.Appender(self.path / records_lib.METRICS)
        self._side = side.Side()
        first = 0 if resume_step is None else resume_step + 1
        self._boards = _boards(self.path, home.resolved.config, first)

    def _open(self, home: Home, resume_step, devices, inputs) -> None:
        """Makes what is missing, and removes what a resumed run makes anew."""
        for folder in (records_lib.ROLLOUTS, records_lib.EVAL):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        changed = []
        if resume_step is not None:
            changed = check_config(home)
            for change in changed:
                _log.info("Resumed with %s.", change)
        _write_config(self.path, home.resolved, resume_step, changed, devices, inputs)
        last = -1 if resume_step is None else resume_step
        _remove_leftovers(self.path)
        _rewind(self.path, last)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line, on disk when this returns, and the scalars.

        Args:
          step: see the class. A second line of a step adds to the first.
          metrics: flat `area/name` keys, Python, NumPy or fetched JAX scalars.
        """
        if not self._writes:
            return
        numbers = {key: _number(value) for key, value in metrics.items()}
        if self._side.dropped:
            numbers["run/outputs_dropped"] = self._side.dropped.total()
        self._metrics.add({"step": int(step)} | numbers, give_up=self._give_up)
        finite = {key: value for key, value in numbers.items() if value is not None}
        self._show("scalars", step, finite)

    def _show(self, kind: str, *arguments: Any) -> None:
        """Has every board draw something."""
        for name, shown in self._boards.items():
            self._side.do(name, functools.partial(getattr(shown, kind), *arguments))

    def log_histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Draws histograms of finite values of any shape; empty arrays are left out."""
        if not self._writes:
            return
        found = {}
        for key, value in values.items():
            flat = np.asarray(value, np.float64).ravel()
            flat = flat[np.isfinite(flat)]
            if flat.size:
                found[key] = flat
        self._show("histograms", step, found)

    def log_table(
        self, step: int, key: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> None:
        """Shows a table of text, such as sampled completions."""
        if not self._writes:
            return
        lines = [header, ["---"] * len(header), *rows]
        text = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
        self._show("text", step, key, text)

    def save_rollouts(
        self,
        step: int,
        *,
        completion_mask: np.ndarray,
        per_completion: Mapping[str, Sequence[Any] | np.ndarray],
        per_token: Mapping[str, Sequence[Sequence[Any]] | np.ndarray],
    ) -> None:
        """Writes the records of b completions of one step; padding is left out.

        Args:
          step: the update that these completions were sampled for.
          completion_mask: [b, T] bool.
          per_completion: b values for every name in `records.PER_COMPLETION`.
          per_token: [b, T] values for every name in `records.PER_TOKEN`;
            `token_strings` are b lists without padding.

        Raises:
          Refused: a column is missing, unknown or of another length.
        """
        if not self._writes:
            return
        data = records_lib.rollouts_to_bytes(
            completion_mask=completion_mask,
            per_completion=per_completion,
            per_token=per_token,
        )
        self._keep(records_lib.ROLLOUTS, step, data)

    def save_batch(self, step: int, data: bytes) -> None:
        """Writes the file that `batches.py` makes of a step."""
        if self._writes:
            (self.path / records_lib.BATCHES).mkdir(exist_ok=True)
            self._keep(records_lib.BATCHES, step, data)

    def _keep(self, folder: str, step: int, data: bytes) -> None:
        """Has the Parquet file of a step written, beside the training."""
        path = records_lib.step_path(self.path / folder, step, ".parquet")
        self._side.do(folder, functools.partial(records_lib.replace, path, data))

    def keep_eval(self, step: int, record: Mapping[str, Any]) -> None:
        """Adds a record to those of an evaluation that is under way."""
        if not self._writes:
            return
        path = records_lib.step_path(self.path / records_lib.EVAL, step, _PART)
        with records_lib.Appender(path) as file:
            file.add(record, give_up=self._give_up)

    def eval_records(self, step: int) -> list[dict[str, Any]]:
        """What evaluations of a step have left, whether or not they came to an end."""
        if not self._writes:
            return []
        folder = self.path / records_lib.EVAL
        whole, part = (
            records_lib.step_path(folder, step, suffix) for suffix in (".jsonl", _PART)
        )
        begun = records_lib.read_lines(part)
        if part.exists():  # anew, so that what is added does not join a half line
            records_lib.write_lines(part, begun)
        return records_lib.read_lines(whole) + begun

    def keep_order(self, record: Mapping[str, Any]) -> None:
        """Adds what the order of a training problem follows from."""
        if self._writes:
            with records_lib.Appender(self.path / records_lib.ORDER) as file:
                file.add(record, give_up=self._give_up)

    def order_records(self) -> list[dict[str, Any]]:
        """What `keep_order` was given."""
        if not self._writes:
            return []
        path = self.path / records_lib.ORDER
        found = records_lib.read_lines(path)
        if path.exists():  # anew, so that what is added does not join a half line
            records_lib.write_lines(path, found)
        return found

    def has(self, step: int, key: str) -> bool:
        """Whether a metric of this step is there."""
        return any(
            key in line and line["step"] == step
            for line in records_lib.read_metric_lines(self.path)
        )

    def save_eval(self, step: int, results: Iterable[Mapping[str, Any]]) -> None:
        """Writes the results of an evaluation, one JSON object per problem."""
        if not self._writes:
            return
        folder = self.path / records_lib.EVAL
        path, results = records_lib.step_path(folder, step, ".jsonl"), list(results)
        patience.retry(
            lambda: records_lib.write_lines(path, results),
            str(path),
            give_up=self._give_up,
        )
        records_lib.step_path(folder, step, _PART).unlink(missing_ok=True)

    def settle(self) -> None:
        """Waits until what was given to be written is, for a few seconds at most."""
        if self._writes:
            self._side.settle()

    def close(self) -> None:
        """Writes what waits and closes the files."""
        if self._writes:
            self._metrics.close()
            self._show("close")
            self._side.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _boards(
    folder: pathlib.Path, config: ml_collections.ConfigDict, first_step: int
) -> dict[str, board.Board | wandb_board.WandbBoard]:
    """What draws a run's numbers, by name."""
    found = {}
    if config.log.tensorboard:
        found["tensorboard"] = board.Board(folder / "tensorboard", first_step)
    if config.log.wandb:
        found["wandb"] = wandb_board.WandbBoard(
            folder, config.log.wandb, _plain(config)
        )
    return found


def check_config(home: Home) -> list[changes.Change]:
    """Compares a config with the one that a folder's run has had so far.

    Call it before restoring a checkpoint: half a run under each of two settings is
    neither, and a mistyped `--workdir` would mix two experiments.

    Args:
      home: the run's folder, without whose config.json everything agrees, and the
        config.

    Returns:
      The differences: all of them within `home.may_change`, or in settings that follow from
      such, then as now.

    Raises:
      Refused: a difference outside `home.may_change`.
    """
    workdir, resolved, may_change = home.workdir, home.resolved, home.may_change
    path = pathlib.Path(workdir) / records_lib.CONFIG
    if not path.exists():
        return []
    given = _flatten(_plain(resolved.config))
    # What an earlier version did not know has its default, which does what that did.
    default = _flatten(_plain(defaults.default_like(resolved.config)))
    saved = {key: default[key] for key in given.keys() & default.keys()}
    saved |= _flatten(records_lib.read_config(workdir))
    follow = {d.key for d in resolved.derived} & records_lib.read_derived(workdir)
    found = [c for c in changes.between(saved, given) if not _same_place(*c)]
    refused = [
        c
        for c in found
        if c.key not in follow
        and not any(c.key == k or c.key.startswith(f"{k}.") for k in may_change)
    ]
    if refused:
        listing = "\n".join(f"  {c}" for c in refused)
        raise Refused(
            f"workdir={str(workdir)!r} holds a run with another config:\n{listing}\n"
            "Use a new workdir, or give the run's own values. If the run shall go on "
            f"with the new ones, write them into {path}."
        )
    return found


def _same_place(key: str, a: Any, b: Any) -> bool:
    """Whether two values are one path, written in two ways."""
    if not key.endswith("path") or not all(isinstance(x, str) and x for x in (a, b)):
        return False
    return os.path.realpath(a) == os.path.realpath(b)


def _remove_leftovers(path: pathlib.Path) -> None:
    """Removes what writers that were killed have begun; only they are named so."""
    inside = (records_lib.ROLLOUTS, records_lib.BATCHES, records_lib.EVAL)
    for folder in (path, *(path / name for name in inside)):
        for file in folder.glob(f".*{records_lib.BEGUN}"):
            file.unlink(missing_ok=True)


def _rewind(path: pathlib.Path, last: int) -> None:
    """Removes what the folder has about steps behind `last`."""
    kept = [
        line for line in records_lib.read_metric_lines(path) if line["step"] <= last
    ]
    records_lib.write_lines(path / records_lib.METRICS, kept)
    for folder, suffix in (
        (records_lib.ROLLOUTS, ".parquet"),
        (records_lib.BATCHES, ".parquet"),
        (records_lib.EVAL, ".jsonl"),
        (records_lib.EVAL, _PART),
    ):
        for step, file in records_lib.steps_in(path / folder, suffix).items():
            # A part of step 0 is of the policy that every start begins with.
            if step > last and (suffix, step) != (_PART, 0):
                file.unlink()


def _write_config(
    path: pathlib.Path,
    resolved: resolution.Resolved,
    resume_step: int | None,
    changed: Sequence[changes.Change],
    devices: str,
    inputs: Mapping[str, str],
) -> None:
    """Writes config.json; a resumed run keeps the record of its earlier starts."""
    starts = []
    if resume_step is not None and (path / records_lib.CONFIG).exists():
        starts = records_lib.read_starts(path)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    starts.append(
        {
            "time": now,
            "resume_step": resume_step,
            "command": sys.argv,
            "git": _git(),
            "python": sys.version.split()[0],
            "versions": {name: _version(name) for name in PACKAGES},
            "devices": devices,
            "inputs": dict(inputs),
            "changes": {c.key: [c.saved, c.given] for c in changed},
        }
    )
    run = {
        "format": records_lib.FORMAT,
        "config": _plain(resolved.config),
        "derived": {d.key: [d.given, d.rule] for d in resolved.derived},
        "starts": starts,
    }
    text = json.dumps(run, indent=2) + "\n"
    records_lib.replace(path / records_lib.CONFIG, text.encode())


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as JSON has it: references resolved, tuples as lists."""
    return json.loads(json.dumps(config.to_dict()))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _git() -> dict[str, Any] | None:
    """Commit of the clone that the package is imported from, None outside a clone."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # Of a package installed into some other project's folder, git would name that
        # project's commit.
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "uncommitted_changes": bool(changed)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _number(value: Any) -> int | float | None:
    """A JSON number; None for what JSON has no number for (inf, nan)."""
    value = np.asarray(value).item()
    if isinstance(value, bool | int):
        return int(value)
    return float(value) if math.isfinite(value) else None


def _cell(value: Any) -> str:
    """Text that cannot end its cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", "<br>")
