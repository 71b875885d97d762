"""Limits that a process was started under (`ulimit`): known at the start, said there.

Met later, they end a process inside a library that does not say what has happened.
"""

import logging
import resource

from hapo_jax.system.errors import Refused

_log = logging.getLogger(__name__)

# Measured with the demo on two cores: it runs with 40 files and 5.7 GiB of addresses;
# with 24 files, or 3.8 GiB, it dies while it saves.
_FEWEST_FILES = 64
_WANTED_FILES = 4096
_LEAST_ADDRESSES = 5_500 * 2**20
# Of processor time, between the signal that says that it is over and the end.
_TO_SAVE_S = 60


def prepare() -> None:
    """Raises limits where it may, and refuses those under which nothing can run.

    Raises:
      Refused: too few files, or too small an address space.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < _FEWEST_FILES:
        raise Refused(
            f"this process may open {most} files (ulimit -n), and needs at least "
            f"{_FEWEST_FILES}; raise the limit."
        )
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_ADDRESSES:
        raise Refused(
            f"this process may use {soft / 2**30:.1f} GiB of addresses (ulimit -v), "
            f"and needs {_LEAST_ADDRESSES / 2**30:.1f} GiB, of which it only reserves "
            "most; raise the limit, or bound memory by a container in its place."
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and soft > hard - _TO_SAVE_S > 0:
        # SIGXCPU comes at the soft limit, and at the hard one the end.
        soft = hard - _TO_SAVE_S
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    _log.warning(
        "This process may use %d s of processor time (ulimit -t); then it saves and "
        "ends, as at a signal.",
        soft,
    )
