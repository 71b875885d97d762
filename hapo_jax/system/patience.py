"""Tries again where a disk fails for a while: for what must not be lost."""

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hapo_jax.system import errors

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE_S = 600.0
_PAUSES_S = (0.2, 1.0, 5.0)  # the last again and again
_SAY_EVERY_S = 60.0

# What no waiting mends.
_FINAL = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)


@contextlib.contextmanager
def once(what: str) -> Iterator[None]:
    """Names what an OSError inside is about: at the start a run does not wait."""
    try:
        yield
    except OSError as error:
        raise errors.DiskFailed(f"{what} cannot be written: {error}.") from error


def retry(
    function: Callable[[], Result],
    what: str,
    *,
    give_up: Callable[[], bool] = lambda: False,
) -> Result:
    """What `function` returns; after an OSError it is called again, for 10 minutes.

    Args:
      function: leaves no half of its work behind when it raises.
      what: for the messages, such as "metrics.jsonl".
      give_up: whether to wait no longer, such as when the process was asked to stop.

    Raises:
      DiskFailed: patience is at an end.
    """
    started = said = None
    attempt = 0
    while True:
        try:
            result = function()
        except OSError as error:
            now = time.monotonic()
            started = now if started is None else started
            if error.errno in _FINAL or give_up() or now - started > PATIENCE_S:
                raise errors.DiskFailed(
                    f"{what} could not be written for {now - started:.0f} s: {error}. "
                    "What was saved before is whole: mend the disk and run the same "
                    "command again."
                ) from error
            if said is None or now - said > _SAY_EVERY_S:
                said = now
                _log.warning(
                    "%s cannot be written (%s); trying again for %.0f minutes.",
                    what,
                    error,
                    (PATIENCE_S - (now - started)) / 60,
                )
            time.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1
        else:
            if said is not None:
                _log.warning("%s could be written again.", what)
            return result
