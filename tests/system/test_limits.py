"""Limits of a process are known at the start, and said there."""

import resource
import subprocess
import sys

import pytest

PREPARE = """
import logging, resource
logging.basicConfig(level="INFO")
from hapo_jax.system import limits
try:
    limits.prepare()
except ValueError as error:
    print("refused:", error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(resource.getrlimit(resource.RLIMIT_CPU)[0])
"""


def prepare(**changes):
    """Output of a process that begins under some limits."""

    def limit():
        for name, value in changes.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), value)

    done = subprocess.run(
        [sys.executable, "-c", PREPARE],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_more_files_are_taken_where_they_may_be():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    assert prepare(NOFILE=(100, hard)).split()[0] == str(most)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"NOFILE": (40, 40)}, "may open 40 files (ulimit -n)"),
        ({"AS": (2**31, 2**31)}, "may use 2.0 GiB of addresses (ulimit -v)"),
    ],
)
def test_too_little_is_refused(changes, words):
    out = prepare(**changes)
    assert out.startswith("refused:") and words in out and "raise the limit" in out


def test_processor_time_leaves_some_to_save():
    out = prepare(CPU=(1000, 1000))
    assert out.splitlines()[1] == "940"
    assert "may use 940 s of processor time" in out
