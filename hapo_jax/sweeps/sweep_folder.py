"""A sweep's folder: `sweep.json`, and a run's folder and log for every variant.

    DIR/sweep.json           what was asked for
    DIR/NAME/                the run, as hapo-train leaves it
    DIR/NAME.log             what it printed, all starts of it

Whether a variant is finished is read off its run, so a sweep that was killed, or whose
runs went elsewhere, loses nothing and believes nothing that is not there.
"""

import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hapo_jax.runs import changes as changes_lib
from hapo_jax.runs import records
from hapo_jax.sweeps.variants import Experiment, Variant
from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused

FILE = "sweep.json"
_FORMAT = 1
_TAIL_LINES = 15


class Sweep(NamedTuple):
    """A sweep and where it is.

    Attributes:
      folder: of the sweep.
      experiment: what all variants have in common.
      variants: in the order in which they are to run.
    """

    folder: pathlib.Path
    experiment: Experiment
    variants: list[Variant]

    def run_folder(self, variant: Variant) -> pathlib.Path:
        """Of a variant's run."""
        return self.folder / variant.name

    def log(self, variant: Variant) -> pathlib.Path:
        """Of what a variant's run prints."""
        return self.folder / f"{variant.name}.log"

    def command(self, variant: Variant) -> list[str]:
        """The flags of hapo-train for a variant."""
        flags = self.experiment.flags(variant.changes)
        return [*flags, f"--workdir={self.run_folder(variant)}"]

    def tail(self, variant: Variant) -> str:
        """The last lines of a variant's log."""
        try:
            data = self.log(variant).read_bytes()[-20_000:]
        except FileNotFoundError:
            return ""
        # A progress bar's states are parted by carriage returns; the last one stays.
        lines = data.decode(errors="replace").replace("\r\n", "\n").split("\n")
        lines = [line.rpartition("\r")[2] for line in lines]
        return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:])


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
      step: its last one; 0 before the first.
      share: of its work, in [0, 1].
      finished: whether it has reached its end, evaluation and all.
      seconds: that its steps have taken.
      metrics: the last value of each.
    """

    step: int
    share: float
    finished: bool
    seconds: float
    metrics: dict[str, float]


def progress(folder: pathlib.Path) -> Progress:
    """How far the run of a folder is; nowhere, where there is none."""
    if not (folder / records.CONFIG).exists():
        return Progress(0, 0.0, False, 0.0, {})
    config = records.read_config(folder)
    lines = records.read_metrics(folder)
    metrics: dict[str, float] = {}
    for line in lines:
        metrics |= line
    step = max((line["step"] for line in lines), default=0)
    tokens, limit = metrics.get("ledger/total_sampled_tokens", 0.0), 0
    share = step / config["num_steps"]
    if limit := config.get("max_sampled_tokens", 0):
        share = max(share, tokens / limit)
    last = next((line for line in lines if line["step"] == step), {})
    evaluated = any(key.startswith("eval/") for key in last)
    return Progress(
        step=step,
        share=min(share, 1.0),
        finished=share >= 1 and evaluated,
        seconds=metrics.get("time/total", math.nan),
        metrics=metrics,
    )


def write(sweep: Sweep) -> list[Variant]:
    """Notes what is asked for, beside what was asked for before.

    Returns:
      All variants of the folder, the earlier ones first.

    Raises:
      Refused: the folder's sweep is of another file, or has a variant of the same name
        that changes other settings.
    """
    before = read(sweep.folder) if (sweep.folder / FILE).exists() else None
    known = {v.name: v for v in before.variants} if before else {}
    if before:
        _check_same(before, sweep)
    for variant in sweep.variants:
        if variant.name not in known:
            continue
        there = known[variant.name].changes
        differing = changes_lib.between(_plain(there), _plain(variant.changes))
        if differing:
            told = "; ".join(map(str, differing))
            raise Refused(
                f"{sweep.folder / variant.name} is of a variant with other settings "
                f"({told}); give this one another name, or the sweep another --workdir."
            )
    together = known | {v.name: v for v in sweep.variants}
    content = {
        "format": _FORMAT,
        "file": sweep.experiment.file,
        "arguments": list(sweep.experiment.arguments),
        "overrides": [list(pair) for pair in sweep.experiment.overrides],
        "variants": [
            {"name": v.name, "group": v.group, "changes": v.changes}
            for v in together.values()
        ],
    }
    sweep.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    records.replace(sweep.folder / FILE, text.encode())
    return [*together.values()]


def read(folder: str | pathlib.Path) -> Sweep:
    """The sweep of a folder.

    Raises:
      Refused: there is none.
    """
    folder = pathlib.Path(folder)
    path = folder / FILE
    if not path.exists():
        raise Refused(f"{folder} holds no sweep: {path} does not exist.")
    found = user_files.read_object(path)
    if found.get("format") != _FORMAT:
        raise Refused(f"{path} is of another version (format {found.get('format')}).")
    experiment = Experiment(
        file=found["file"],
        arguments=tuple(found["arguments"]),
        overrides=tuple((key, value) for key, value in found["overrides"]),
    )
    variants = [Variant(**variant) for variant in found["variants"]]
    return Sweep(folder=folder, experiment=experiment, variants=variants)


def runs(folder: str | pathlib.Path) -> Iterator[tuple[Variant, pathlib.Path]]:
    """The variants of a sweep's folder that have a run, and where."""
    sweep = read(folder)
    for variant in sweep.variants:
        if (sweep.run_folder(variant) / records.CONFIG).exists():
            yield variant, sweep.run_folder(variant)


def _check_same(before: Sweep, now: Sweep) -> None:
    a, b = before.experiment, now.experiment
    differing = changes_lib.between(_fields(a), _fields(b))
    if differing:
        told = "; ".join(map(str, differing))
        raise Refused(
            f"{now.folder} holds a sweep of another experiment ({told}); use another "
            "--workdir."
        )


def _fields(experiment: Experiment) -> dict[str, Any]:
    return {
        "file": experiment.file,
        "argument": ",".join(experiment.arguments),
        **{f"--config.{key}": value for key, value in experiment.overrides},
    }


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return json.loads(json.dumps(changes))


def chosen(variants: Sequence[Variant], only: str) -> list[Variant]:
    """The variants that --only names: whole names, groups, or parts with * and ?.

    Raises:
      Refused: a name fits no variant.
    """
    import fnmatch

    if not only:
        return [*variants]
    found: dict[str, Variant] = {}
    for pattern in only.split(","):
        fits = [
            v
            for v in variants
            if fnmatch.fnmatchcase(v.name, pattern)
            or fnmatch.fnmatchcase(v.group, pattern)
        ]
        if not fits:
            names = ", ".join(v.name for v in variants)
            raise Refused(f"--only={only}: {pattern!r} fits no variant of {names}.")
        found |= {v.name: v for v in fits}
    return [v for v in variants if v.name in found]
