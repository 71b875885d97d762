"""Is a folder one that a run can live in? Asked before anything is compiled."""

import os
import pathlib

from hapo_jax.system.errors import Refused


def check(flag: str, path: str | None, *, writes: bool) -> None:
    """Refuses a folder that cannot be used, by what is wrong with it.

    Args:
      flag: the flag that names it.
      path: what the flag says; None and "" are not looked at.
      writes: whether the program makes the folder and writes to it.

    Raises:
      Refused: names flag, path, rule and remedy.
    """
    if not path:
        return
    reason = _reason(path, writes)
    if reason:
        raise Refused(f"--{flag}={path!r} {reason}")


def _reason(path: str, writes: bool) -> str:
    """What is wrong with a path, or an empty string."""
    if "://" in path:
        return (
            "must be a folder: mount the bucket (launch/on_worker.sh does it with "
            "gcsfuse), and give its path."
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8, which the files of checkpoints need; rename the folder."
    folder = pathlib.Path(path)
    try:
        if folder.is_symlink() and not folder.exists():
            return f"is a link to {os.readlink(folder)}, which does not exist."
        if folder.exists() and not folder.is_dir():
            return "is a file; give a folder."
        whole = folder.resolve()
        existing = next(p for p in (whole, *whole.parents) if os.path.lexists(p))
        if not existing.is_dir():
            return f"lies below {existing}, which is no folder."
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return f"cannot be reached: {error}."
    if not writes:
        return ""
    if wrong := [c for c in "[\\" if c in str(whole)]:
        return (
            f"is {whole} in full, with {wrong[0]!r} in it, which libraries of "
            "checkpoints take for a pattern; rename that folder."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"cannot be written: {existing} is read-only for this user."
    return ""
