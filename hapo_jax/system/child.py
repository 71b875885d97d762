"""Child processes that run a module of this package, all started in one way.

A child hears of its parent by a channel, a descriptor that it inherits. Needs no JAX.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import BinaryIO

import hapo_jax

# The folder that this very package lies in, for a child's PYTHONPATH.
ROOT = str(pathlib.Path(hapo_jax.__file__).resolve().parents[1])
_TAIL_BYTES = 4_000


def start(
    module: str,
    channel: int,
    *arguments: object,
    env: Mapping[str, str],
    stdout: BinaryIO | int = subprocess.DEVNULL,
    stderr: BinaryIO | int | None = None,
) -> subprocess.Popen:
    """Starts `python -m MODULE CHANNEL ARGUMENTS`, and does not wait for it.

    Args:
      module: of this package.
      channel: a descriptor; the caller closes its own copy of it.
      *arguments: what else the module is told.
      env: all that it sees of the environment.
      stdout, stderr: where it writes; by default nowhere, and where the parent does.
    """
    return subprocess.Popen(
        # -P keeps the working directory off the path: a `math.py` there must not be
        # imported.
        [sys.executable, "-P", "-m", module, str(channel), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=[channel],
        env=env,
        # A signal to the terminal's or the job's process group (Ctrl-C, Ctrl-Z, the end
        # of a job) is for the parent alone.
        start_new_session=True,
    )


def tail(file: BinaryIO) -> str:
    """The end of what a process has written into a file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    return file.read().decode(errors="replace")
