"""A run's checkpoints: written in the background, verified when read.

A checkpoint of step k holds the arrays of the training state, whatever the host carries
from step to step (`extra`: prompt cursor, surplus groups), and a record with shapes,
dtypes and a fingerprint per array. orbax writes them beside the running step and makes
the folder appear under its name only when it is complete.

What can happen to a folder afterwards (a full disk, a copy that stopped, a flipped bit)
shows when it is read: orbax notices missing pieces, the fingerprints notice changed
ones. `restore_latest` then goes back one checkpoint and says so. Fingerprints do not
depend on the sharding, so a checkpoint can be read onto any mesh.
"""

import contextlib
import errno
import json
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from hapo_jax.runs import fingerprint
from hapo_jax.runs import host_tree
from hapo_jax.system import errors, patience

FORMAT = 1  # of the record; a reader refuses one it does not know
_READ_PAUSES_S = (1.0, 5.0, 15.0)
# Error numbers that say that a file is not there, or not what it should be.
_OF_THE_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
_SCORES = "scores.json"  # beside the checkpoints: step → its score


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
      step: number of updates that the state has seen.
      state: the structure of the abstract state, arrays on the shardings it names.
      extra: what was given to `save`, tuples as lists.
    """

    step: int
    state: Any
    extra: Any


class _Broken(Exception):
    """The folder of a checkpoint does not hold what was saved there."""


class _Unreadable(Exception):
    """The disk does not give what the folder may well hold."""


class Score(NamedTuple):
    """How a checkpoint did in an evaluation.

    Attributes:
      metric: its name, such as `eval/avg@8`.
      value: higher is better.
      protocol: plain JSON, what the value depends on besides the policy; None where
        the version that saved it did not note that.
    """

    metric: str
    value: float
    protocol: Any

    def comparable(self, other: "Score") -> bool:
        """Whether the two values measure the same, as far as anyone knows."""
        return (self.metric, self.protocol) == (other.metric, other.protocol)


class _KeepBest(checkpoint_managers.PreservationPolicy):
    """orbax's BestN, over scores from our record rather than from its metrics file.

    orbax reads that file when the manager is made, and a broken one would keep the
    whole folder from opening. And it would compare scores that cannot be: here the
    best of each protocol are kept.
    """

    def __init__(self, count: int, scores: Mapping[int, Score]):
        self._count = count
        self._scores = scores  # by step, filled by the owner

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = [c.step for c in checkpoints]
        return [
            step in self._scores
            and step in ranking(self._scores, step, among=steps)[: self._count]
            for step in steps
        ]


def ranking(
    scores: Mapping[int, Score], step: int, *, among: Iterable[int]
) -> list[int]:
    """The steps whose scores compare with that of `step`, best first.

    Of equal values the newest comes first.

    Args:
      scores: by step.
      step: one of them.
      among: the steps that count.
    """
    alike = [s for s in among if s in scores and scores[s].comparable(scores[step])]
    return sorted(alike, key=lambda s: (scores[s].value, s), reverse=True)


class Checkpoints:
    """The checkpoints of one run: the newest `keep_latest` and the best `keep_best`.

    Scores rank among those of the same protocol alone, and the best of each are kept:
    a run that is resumed with another evaluation neither deletes what was best before
    nor measures itself by it.

    Owns the background writer: call `close` (or use `with`) before the process ends, or
    the last save may be lost. With several processes every one makes the same calls.
    """

    def __init__(
        self,
        directory: str,
        *,
        keep_latest: int,
        keep_best: int = 0,
        best_metric: str | None = None,
        read_only: bool = False,
    ):
        """Opens a folder of checkpoints.

        Args:
          directory: the folder; created if absent, unless `read_only`.
          keep_latest: how many of the newest to keep, at least 1. With 1 there is
            nothing to go back to if it breaks.
          keep_best: how many more to keep of each protocol, by `best_metric`; those
            without a score, or with one that is not finite, never count.
          best_metric: pattern of a metric's whole name, higher is better.
          read_only: neither write, nor delete, nor rename; for evaluation.

        Raises:
          ValueError: a count is out of range, `keep_best` without `best_metric`, or
            `read_only` and there is no such folder.
        """
        if keep_latest < 1 or keep_best < 0:
            raise ValueError(
                f"{keep_latest=} must be at least 1 and {keep_best=} at least 0."
            )
        if keep_best and not best_metric:
            raise ValueError(
                f"{keep_best=} needs best_metric, the name of a metric; or set it to 0."
            )
        self.directory = epath.Path(directory).resolve()
        if read_only and not self.directory.is_dir():
            raise errors.Refused(f"directory={self.directory} does not exist.")
        self._best_metric = best_metric
        self._read_only = read_only
        self._scores: dict[int, Score] = {}
        self._writing: int | None = None  # the step of the write that is under way
        self._failing_since: float | None = None  # the first write that failed
        self._failure: OSError | None = None  # the last one
        policies = [
            checkpoint_managers.LatestN(keep_latest),
            _KeepBest(keep_best, self._scores),
        ]
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_names=("state", "extra", "record"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            ),
        )
        for step in self.steps():
            try:
                record = self._read_record(step)
            except _Broken as reason:
                logging.warning("Checkpoint of step %d: %s", step, reason)
                continue
            # Only earlier versions kept scores there.
            self._note_score(step, record.get("metrics", {}), record.get("protocol"))
        self._read_scores()

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, ascending; some may prove broken."""
        return sorted(self._manager.all_steps())

    def scores(self) -> dict[int, Score]:
        """Those that count, by step, ascending."""
        return {s: self._scores[s] for s in self.steps() if s in self._scores}

    def best_step(self) -> int | None:
        """The step with the highest `best_metric` under the newest score's protocol.

        The newest of equals; None where no step has a score.
        """
        scores = self.scores()
        return ranking(scores, max(scores), among=scores)[0] if scores else None

    def save(
        self,
        step: int,
        state: Any,
        *,
        extra: Any = None,
    ) -> bool:
        """Starts writing a checkpoint; returns when the arrays have left the devices.

        The caller may donate `state` to the next step at once. Waits for the write
        before this one. Where that has failed, such as on a full disk, this one is
        tried in its place, until none has succeeded for 10 minutes.

        Args:
          step: number of updates that `state` has seen.
          state: any pytree of jax arrays (NNX state, optax state, NamedTuples), without
            PRNG keys: a key is derived from seed and step.
          extra: nested dict, list, tuple of numpy arrays, strings, numbers and None;
            shapes and lengths may differ at every save. The same on every process.

        Returns:
          False if there is a checkpoint of this step already; it is left as it is.

        Raises:
          ValueError: a leaf of `state` or `extra` is of another kind.
          DiskFailed: no checkpoint could be written for too long.
        """
        if step in self.steps():
            return False
        self._settle()
        arrays = _named_leaves(state)
        _check_arrays(arrays)
        packed = host_tree.pack(extra)
        content = {
            "format": FORMAT,
            "step": step,
            "arrays": _describe(arrays),
            "fingerprints": fingerprint.of_arrays(arrays),
            "extra_crc32": zlib.crc32(packed),
        }
        with self._tolerant(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(arrays),
                    extra=ocp.args.PyTreeSave({"packed": packed}),
                    record=ocp.args.JsonSave(
                        {"content": content, "crc32": _crc(content)}
                    ),
                ),
                # Which steps to save is decided by the caller. orbax's own rule would
                # refuse a step below one that it has seen.
                force=True,
            )
            self._writing = step
        return True

    def save_surely(
        self,
        step: int,
        state: Any,
        *,
        extra: Any = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """`save` of a last step: returns when it is on disk.

        Args:
          step, state, extra: see `save`.
          give_up: whether to wait no longer, see `patience.retry`.

        Raises:
          DiskFailed: it could not be written for 10 minutes.
        """

        def attempt():
            self.save(step, state, extra=extra)
            self._settle()
            if step not in self.steps():
                raise OSError(f"{self._failure}") from self._failure

        patience.retry(attempt, f"The checkpoint of step {step}", give_up=give_up)

    def score(
        self,
        step: int,
        metrics: Mapping[str, float],
        protocol: Mapping[str, Any] | None,
    ) -> None:
        """Notes how a step did, which counts from the next save on.

        Apart from the checkpoint, which is saved before it is evaluated: an evaluation
        that fails or is stopped must cost nothing.

        Args:
          step: one that was saved.
          metrics: what `best_metric` is looked up in.
          protocol: plain JSON, what that metric depends on besides the policy.
        """
        self._note_score(step, metrics, json.loads(json.dumps(protocol)))
        if jax.process_index() == 0:
            scores = {step: score._asdict() for step, score in self.scores().items()}
            path = self.directory / _SCORES
            temporary = self.directory / f".{_SCORES}"
            temporary.write_text(json.dumps(scores, indent=2))
            temporary.replace(path)

    def restore(
        self, step: int, abstract_state: Any, *, partial: bool = False
    ) -> Restored:
        """Reads the checkpoint of one step, bit for bit what was saved.

        Args:
          step: one of `steps()`.
          abstract_state: the structure to fill; every leaf has shape, dtype and
            sharding (`jax.ShapeDtypeStruct` or an array), and they need not be the
            shardings that were saved.
          partial: allow the checkpoint to hold more than `abstract_state` (to read
            parameters without the optimizer).

        Raises:
          Refused: no such step, it is broken, or it holds other arrays; the message
            names them.
        """
        if step not in self.steps():
            raise errors.Refused(
                f"{step=}: {self.directory} has checkpoints of {self.steps()}."
            )
        try:
            return self._read_patiently(step, abstract_state, partial=partial)
        except _Broken as reason:
            raise errors.Refused(
                f"{step=}: the checkpoint {self.directory / str(step)} is broken: "
                f"{reason}. Use another of {self.steps()}."
            ) from reason

    def restore_latest(
        self, abstract_state: Any, *, partial: bool = False
    ) -> Restored | None:
        """Reads the newest checkpoint that is whole, or returns None if there is none.

        Broken ones are named in the log. Unless `read_only` they are renamed to
        `<step>.broken` once an older one has been read: the run will save those steps
        again, and whoever cares can still look at them. One that the disk does not
        give is read again a few times, and never renamed: it may be whole.

        Args:
          abstract_state, partial: see `restore`.

        Raises:
          Refused: there are checkpoints but all are broken, or the newest whole one
            holds other arrays than `abstract_state`.
          DiskFailed: the disk does not give the newest; it is left as it is.
        """
        broken = {}
        for step in reversed(self.steps()):
            try:
                restored = self._read_patiently(step, abstract_state, partial=partial)
            except _Broken as reason:
                logging.warning(
                    "The checkpoint of step %d in %s is broken (%s); trying the one "
                    "before.",
                    step,
                    self.directory,
                    reason,
                )
                broken[step] = reason
                continue
            if broken and not self._read_only:
                self._set_aside(list(broken))
            return restored
        if broken:
            raise errors.Refused(
                f"All checkpoints in {self.directory} are broken: {broken}. Bring "
                "back a copy of one, or remove the folder to start the run anew."
            )
        return None

    def wait(self) -> None:
        """Returns when the last write is over, whether or not it succeeded."""
        self._settle()

    def close(self) -> None:
        """Waits for the last write and ends the background threads."""
        self._settle()
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _settle(self) -> None:
        """Waits for the write that is under way, and notes how it ended."""
        with self._tolerant(self._writing):
            self._manager.wait_until_finished()
            if self._writing in self.steps():
                self._failure = self._failing_since = None
        self._writing = None

    @contextlib.contextmanager
    def _tolerant(self, step: int | None) -> Iterator[None]:
        """Bears with a write that fails, for a while.

        Not among several processes: the others would wait for this one's part.
        """
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        # orbax and tensorstore raise OSError, ValueError and others for a bad disk.
        except Exception as error:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            line = str(error).partition("\n")[0][:500]
            self._failure = OSError(f"{type(error).__name__}: {line}")
            if jax.process_count() > 1:
                raise
            if now - self._failing_since > patience.PATIENCE_S:
                raise errors.DiskFailed(
                    f"No checkpoint could be written to {self.directory} for "
                    f"{patience.PATIENCE_S / 60:.0f} minutes: {line}. Those of the "
                    f"steps {self.steps()} are whole."
                ) from error
            logging.warning(
                "The checkpoint of step %s was not written (%s); those of the steps %s "
                "are whole, and the next one is tried.",
                step,
                line,
                self.steps(),
            )

    def _note_score(self, step: int, metrics: Mapping[str, float], protocol) -> None:
        """Keeps the score among some metrics, if there is one."""
        for name, value in metrics.items():
            if re.fullmatch(self._best_metric or "", name) and np.isfinite(value):
                self._scores[step] = Score(
                    metric=name, value=float(value), protocol=protocol
                )

    def _read_scores(self) -> None:
        """Those of `score`; a file that is damaged costs the ranking and no step."""
        path = self.directory / _SCORES
        if not path.exists():
            return
        try:
            for step, found in json.loads(path.read_text()).items():
                self._scores[int(step)] = Score(**found)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as e:
            logging.warning(
                "%s is damaged (%s); what was best before is not known.", path, e
            )

    def _read_patiently(
        self, step: int, abstract_state: Any, *, partial: bool
    ) -> Restored:
        """`_read`, again where the disk failed, or where what it gave is not right."""
        pauses = {_Unreadable: list(_READ_PAUSES_S), _Broken: [0.2]}
        while True:
            try:
                return self._read(step, abstract_state, partial=partial)
            except (_Unreadable, _Broken) as reason:
                if pauses[type(reason)]:
                    logging.warning("Step %d: %s; reading it again.", step, reason)
                    time.sleep(pauses[type(reason)].pop(0))
                elif isinstance(reason, _Broken):
                    raise
                else:
                    raise errors.DiskFailed(
                        f"The checkpoint {self.directory / str(step)} cannot be read: "
                        f"{reason}. It may be whole and is left as it is: try again "
                        "once the disk answers, or move it away to go on from the one "
                        "before."
                    ) from reason

    def _read(self, step: int, abstract_state: Any, *, partial: bool) -> Restored:
        """Reads and verifies one checkpoint; raises `_Broken` or Refused."""
        self.wait()
        record = self._read_record(step)
        abstract = _named_leaves(abstract_state)
        _check_match(record["arrays"], abstract, step=step, partial=partial)
        arrays = self._read_item(
            step,
            "state",
            ocp.PyTreeCheckpointHandler(),
            ocp.args.PyTreeRestore(
                abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            ),
        )
        wrong = [
            name
            for name, value in fingerprint.of_arrays(arrays).items()
            if value != record["fingerprints"][name]
        ]
        if wrong:
            raise _Broken(f"the values of {', '.join(wrong)} are not those saved")
        extra = self._read_item(
            step, "extra", ocp.PyTreeCheckpointHandler(), ocp.args.PyTreeRestore()
        )
        packed = np.asarray(extra["packed"])
        if zlib.crc32(packed) != record["extra_crc32"]:
            raise _Broken("what the host carried (extra) is not what was saved")
        leaves = [arrays[name] for name in abstract]
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
        return Restored(step=step, state=state, extra=host_tree.unpack(packed))

    def _read_record(self, step: int) -> dict[str, Any]:
        record = self._read_item(
            step, "record", ocp.JsonCheckpointHandler(), ocp.args.JsonRestore()
        )
        content = record.get("content") if isinstance(record, dict) else None
        if content is None or record.get("crc32") != _crc(content):
            raise _Broken("its record is damaged")
        if content["format"] != FORMAT or content["step"] != step:
            raise _Broken(
                f"its record is of step {content['step']} in format "
                f"{content['format']}, expected {step} in format {FORMAT}"
            )
        return content

    def _read_item(self, step: int, name: str, handler: Any, args: Any) -> Any:
        """Reads one item with orbax's handler; any way it can fail is `_Broken`.

        Not through the manager: its `restore` ends at a barrier, and a process that
        alone met the damage would leave the others waiting there.
        """
        found, reason = None, None
        try:
            found = handler.restore(self.directory / str(step) / name, args=args)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # About this machine, not about the files.
        # tensorstore and orbax raise OSError, ValueError, KeyError and plain Exception
        # for damaged files.
        except Exception as error:
            reason = error
        # All processes go back to an older checkpoint, or none.
        if not _on_all_processes(not _is_of_the_disk(reason)):
            raise _Unreadable(_line(name, reason)) from reason
        if not _on_all_processes(reason is None):
            raise _Broken(_line(name, reason)) from reason
        return found

    def _set_aside(self, steps: list[int]) -> None:
        """Renames broken checkpoints out of orbax's sight."""
        if jax.process_index() == 0:
            for step in steps:
                source = self.directory / str(step)
                target = self.directory / f"{step}.broken"
                if target.exists():
                    target.rmtree()
                source.rename(target)
                logging.warning("Renamed %s to %s.", source, target.name)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("hapo_jax: broken checkpoints renamed")
        self._manager.reload()


def _line(name: str, reason: Exception | None) -> str:
    """What kept an item from being read; tensorstore adds pages about where."""
    if reason is None:
        return f"another process cannot read its {name}"
    line = str(reason).partition("\n")[0][:500]
    return f"{name}: {type(reason).__name__}: {line}"


def _is_of_the_disk(reason: Exception | None) -> bool:
    """Whether an error is about the disk, and says nothing about the files."""
    code = getattr(reason, "errno", None)
    if found := re.search(r"os_error_code='(\d+)'", str(reason)):
        code = int(found[1])
    return code is not None and code not in _OF_THE_FILES


def _named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by dotted path, so that one format serves every kind of pytree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
    }
    if len(named) != len(leaves):
        raise ValueError("state: two leaves have the same dotted path; rename a key.")
    return named


def _check_arrays(arrays: Mapping[str, Any]) -> None:
    for name, x in arrays.items():
        if not isinstance(x, jax.Array) or jax.dtypes.issubdtype(
            x.dtype, jax.dtypes.prng_key
        ):
            raise ValueError(
                f"state: {name} is {getattr(x, 'dtype', type(x))}, and must be an "
                "array on a device and no PRNG key; host values go into `extra`."
            )


def _describe(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{jnp.dtype(x.dtype).name}{list(x.shape)}" for name, x in arrays.items()
    }


def _check_match(
    saved: Mapping[str, str], abstract: Mapping[str, Any], *, step: int, partial: bool
) -> None:
    """Refuses to fill a state with arrays that are not its own."""
    unplaced = [n for n, x in abstract.items() if getattr(x, "sharding", None) is None]
    if unplaced:
        raise ValueError(f"abstract_state: no sharding given for {unplaced}.")
    wanted = _describe(abstract)
    faults = [
        f"{name}: saved {saved.get(name, 'nothing')}, expected {want}"
        for name, want in wanted.items()
        if saved.get(name) != want
    ]
    if not partial:
        faults += [
            f"{name}: saved {saved[name]}, expected nothing"
            for name in saved
            if name not in wanted
        ]
    if faults:
        raise errors.Refused(
            f"The checkpoint of step {step} belongs to another model or optimizer:\n  "
            + "\n  ".join(faults)
            + "\nUse the config it was saved with, or another workdir."
        )


def _crc(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _on_all_processes(ok: bool) -> bool:
    if jax.process_count() == 1:
        return ok
    return bool(multihost_utils.process_allgather(np.asarray(ok)).all())
