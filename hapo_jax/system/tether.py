"""Runs a command on some of the cores, and tells it to stop when its parent is gone.

    python -m hapo_jax.system.tether PARENT CORES COMMAND …

PARENT is the number of the process that starts it, CORES are joined by commas, or
empty for all. The command takes this process's place, so its number and its status are
those that the parent sees. Imports nothing that takes time.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # see <linux/prctl.h>


def main(argv: list[str]) -> None:
    """See the module's docstring."""
    parent, cores, *command = argv
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if sys.platform == "linux":
        # It outlives what follows.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the process that started this one is gone.")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
