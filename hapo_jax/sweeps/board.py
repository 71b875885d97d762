"""The one view of a sweep: a table that updates, or plain lines without a terminal."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from hapo_jax.sweeps import local, sweep_folder
from hapo_jax.sweeps.local import Job
from hapo_jax.sweeps.sweep_folder import Progress, Sweep

_DRAW_S = 2.0
_SAY_S = 60.0  # between two lines without a terminal
_STYLES = {
    local.RUNNING: "bold",
    local.ELSEWHERE: "bold",
    local.FINISHED: "green",
    local.FAILED: "red",
}
_ROWS = 40  # a taller table would leave the screen


@contextlib.contextmanager
def shown(
    sweep: Sweep, metric: str, num_places: int
) -> Iterator[Callable[[Sequence[Job]], None]]:
    """A function that is told how all jobs stand, as often as one likes.

    Args:
      sweep: whose jobs they are.
      metric: that is shown of each run; its last value.
      num_places: jobs at a time, for the time that is left.
    """
    console = Console()
    reader = _Reader(sweep)
    if not console.is_terminal:
        yield _Lines(reader, metric, num_places).see
        return
    drawn = 0.0
    with Live(console=console, auto_refresh=False) as live:

        def see(jobs: Sequence[Job], *, now: bool = False) -> None:
            nonlocal drawn
            if now or time.monotonic() - drawn > _DRAW_S:
                drawn = time.monotonic()
                live.update(_table(jobs, reader, metric, num_places), refresh=True)

        last: Sequence[Job] = ()

        def tell(jobs: Sequence[Job]) -> None:
            nonlocal last
            last = jobs
            see(jobs)

        try:
            yield tell
        finally:
            see(last, now=True)


class _Reader:
    """Reads how far runs are, and those that stand still only once."""

    def __init__(self, sweep: Sweep):
        self._sweep = sweep
        self._known: dict[str, Progress] = {}

    def progress(self, job: Job) -> Progress:
        name, moves = job.variant.name, job.state in (local.RUNNING, local.ELSEWHERE)
        key = f"{name} {job.state}"
        if moves or key not in self._known:
            at = self._sweep.run_folder(job.variant)
            self._known[key] = sweep_folder.progress(at)
        return self._known[key]


class _Lines:
    """Says what changes, and once a minute how all stands."""

    def __init__(self, reader: _Reader, metric: str, num_places: int):
        self._reader, self._metric, self._places = reader, metric, num_places
        self._states: dict[str, str] = {}
        self._said = time.monotonic()

    def see(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            name = job.variant.name
            if self._states.get(name, local.WAITING) != job.state:
                value = self._reader.progress(job).metrics.get(self._metric)
                more = "" if value is None else f", {self._metric} {value:.4g}"
                print(f"{name}: {job.state}{more}", flush=True)
            self._states[name] = job.state
        if time.monotonic() - self._said > _SAY_S:
            self._said = time.monotonic()
            print(summary(jobs, self._reader.progress, self._places), flush=True)


def _table(jobs: Sequence[Job], reader: _Reader, metric: str, num_places: int) -> Table:
    table = Table(
        title=summary(jobs, reader.progress, num_places),
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
    )
    table.add_column("variant", overflow="fold")
    table.add_column("state")
    for heading in ("step", "done", "left", metric):
        table.add_column(heading, justify="right")
    order = {local.RUNNING: 0, local.ELSEWHERE: 0, local.FAILED: 1, local.WAITING: 2}
    rows = sorted(jobs, key=lambda job: order.get(job.state, 3))
    for job in rows[:_ROWS]:
        found = reader.progress(job)
        value = found.metrics.get(metric)
        table.add_row(
            job.variant.name,
            job.state,
            str(found.step),
            f"{100 * found.share:.0f} %",
            duration(left(job, found)),
            "" if value is None else f"{value:.4g}",
            style=_STYLES.get(job.state, ""),
        )
    if len(rows) > _ROWS:
        table.add_row(f"and {len(rows) - _ROWS} more")
    return table


def left(job: Job, found: Progress) -> float:
    """Seconds that a running job still takes, at its pace so far; NaN: unknown."""
    if job.state != local.RUNNING or job.began is None:
        return math.nan
    done = found.share - job.first_share
    if done <= 0:
        return math.nan
    return (time.monotonic() - job.began) * (1 - found.share) / done


def summary(
    jobs: Sequence[Job], progress: Callable[[Job], Progress], num_places: int
) -> str:
    """How many jobs are in which state, and how long all take."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.state] = counts.get(job.state, 0) + 1
    told = ", ".join(f"{n} {state}" for state, n in counts.items())
    rates, owed = [], 0.0
    for job in jobs:
        if job.state in (local.FINISHED, local.FAILED):
            continue
        found = progress(job)
        owed += 1 - found.share
        done = found.share - job.first_share
        if job.state == local.RUNNING and done > 0:
            rates.append(done / (time.monotonic() - job.began))
    if not rates or not owed:
        return told
    pace = sum(rates) / len(rates) * min(num_places, len(jobs))
    return f"{told}; about {duration(owed / pace)} left"


def duration(seconds: float) -> str:
    """In words, by the two largest units."""
    if not math.isfinite(seconds):
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def failures(jobs: Sequence[Job], sweep: Sweep) -> str:
    """The last lines of what failed jobs have printed."""
    parts = []
    for job in jobs:
        if job.state == local.FAILED:
            log = sweep.log(job.variant)
            parts.append(f"{job.variant.name} failed (status {job.status}); {log}:")
            parts += [f"  {line}" for line in sweep.tail(job.variant).split("\n")]
    return "\n".join(parts)
