"""Running the tests' programs as an ordinary user, when root runs the tests."""

import functools
import os
import subprocess
import sys

from hapo_jax.tasks.sandbox import confine

NOBODY = 65534


def start(module: str, argument: str, *, root: bool, path: str) -> subprocess.Popen:
    """Starts `python -m module argument`.

    Raises:
      LookupError: this user cannot be had here; says why.
    """
    ours = os.getuid() == 0
    if root and not ours:
        raise LookupError("the tests are not run by root")
    if root and not confine.own_users():
        raise LookupError("root may not become any user here")
    become = {} if root or not ours else _become()
    python = sys.executable if root or not ours else _python(path)
    return subprocess.Popen(
        [python, "-P", "-m", module, argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "TMPDIR": "/tmp"},
        **become,
    )


def _become() -> dict:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@functools.cache
def _python(path: str) -> str:
    """A Python that an ordinary user may start, and which finds the package."""
    code = "import sys, hapo_jax.tasks.sandbox.host\nassert sys.version_info >= (3, 11)"
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-P", "-c", code],
                capture_output=True,
                check=False,
                cwd="/",
                env={"PYTHONPATH": path},
                **_become(),
            )
        except OSError:  # it lies where this user may not look
            continue
        if done.returncode == 0:
            return python
    raise LookupError("no Python of 3.11 or newer that an ordinary user could start")
