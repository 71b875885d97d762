"""A run's numbers on Weights & Biases, with the keys of metrics.jsonl.

Needs the extra `wandb`. Without a network, WANDB_MODE=offline keeps them in the run's
folder, and `wandb sync` sends them later.
"""

import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

_ID = "wandb_id"  # a file: a resumed run goes on under its number


class WandbBoard:
    """One run there. Methods may raise what wandb does, and can be called again."""

    def __init__(self, folder: pathlib.Path, project: str, config: Mapping[str, Any]):
        """Starts nothing yet.

        Args:
          folder: of the run.
          project: that it belongs to.
          config: of the run, nested dicts.
        """
        self._folder, self._project, self._config = folder, project, config
        self._run: Any = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one number per key."""
        self._log(step, dict(values))

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Adds one histogram per key."""
        import wandb

        self._log(step, {key: wandb.Histogram(value) for key, value in values.items()})

    def text(self, step: int, tag: str, text: str) -> None:
        """Adds a table that is given in Markdown."""
        import wandb

        head, _, *rows = [
            [cell.strip() for cell in line.strip("| ").split(" | ")]
            for line in text.splitlines()
        ]
        rows = [row for row in rows if len(row) == len(head)]
        self._log(step, {tag: wandb.Table(columns=head, data=rows)})

    def close(self) -> None:
        """Ends the run there, if it has begun."""
        if self._run is not None:
            self._run.finish()

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if self._run is None:
            self._run = self._start()
        self._run.log({"step": step} | values)

    def _start(self) -> Any:
        import wandb

        path = self._folder / _ID
        if not path.exists():
            path.write_text(secrets.token_hex(4))
        run = wandb.init(
            project=self._project,
            id=path.read_text().strip(),
            name=self._folder.name,
            dir=str(self._folder),
            config=dict(self._config),
            resume="allow",
        )
        # A resumed run repeats steps, and wandb's own count only grows.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run
