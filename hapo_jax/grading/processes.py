"""What the kernel says about a process: is it stopped, and who are its children?

Linux alone; elsewhere nothing is known, and every function says so by an empty answer.
"""

import os
import pathlib
import signal

# Stops that a terminal or a batch system asks for, and ends when it likes.
_JOB_CONTROL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_EXIT_CODE = 49  # of the fields behind the name; while stopped, by which signal


def is_stopped(process: int) -> bool:
    """Whether it has been stopped by SIGSTOP, and not by Ctrl-Z or its like.

    Where the kernel does not say which signal it was (before Linux 6.7), a stop of a
    process that belongs to a terminal counts as Ctrl-Z.
    """
    fields = _stat(process)
    if fields[:1] != ["T"]:
        return False
    by = int(fields[_EXIT_CODE]) if len(fields) > _EXIT_CODE else 0
    if by:
        return by not in _JOB_CONTROL
    terminal = fields[4]
    return terminal == "0"


def children(process: int) -> list[int]:
    """Process ids of its children, of all its threads."""
    found: list[int] = []
    for path in pathlib.Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # it has just ended
            continue
    return found


def with_descendants(processes: list[int]) -> list[int]:
    """Processes, their children, and so on."""
    found, new = list(processes), list(processes)
    while new:
        new = [child for process in new for child in children(process)]
        found += new
    return found


def resume(process: int) -> bool:
    """Lets a stopped process go on; False if that is not allowed or it has ended."""
    try:
        os.kill(process, signal.SIGCONT)
    except OSError:
        return False
    return True


def _stat(process: int) -> list[str]:
    """The fields of /proc/ID/stat behind the name; empty if there is no process."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()
