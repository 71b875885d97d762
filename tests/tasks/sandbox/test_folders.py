"""Where Python may be installed: anywhere, also in the machine's temporary folder."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

import pytest

import hapo_jax
from hapo_jax.tasks.sandbox import confine, host, trials

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="confines on Linux alone"
)
ROOT = pathlib.Path(hapo_jax.__file__).resolve().parents[1]
# What it finds, and what it can do there.
PROGRAM = """
import colorsys, os, tempfile, zoneinfo
import hapo_jax_test_library as library
open("x", "w").write("1")
assert tempfile.gettempdir() == os.getcwd() == "/tmp"
with tempfile.NamedTemporaryFile("w") as file: file.write("2")
try:
    open(library.__file__, "a")
except OSError:
    print(library.VALUE, open("x").read())
"""
SCRIPT = f"""
import json, sys
from hapo_jax.tasks.sandbox import host, trials
ways = {{}}
with host.best() as box:
    for _ in range(2):
        said = []
        trial = trials.on_input(
            box, {PROGRAM!r}, data="", limits=host.Limits(),
            accept=lambda text: said.append(text) is None,
        )
    print(json.dumps([sys.prefix, box.way, box.passed_over, trial, said]))
"""


@pytest.mark.parametrize(
    ("above", "folder"),
    [("/tmp", ""), ("/tmp", "tmp"), ("/tmp", "lib/x"), ("/dev/shm", "dev/null")],
)
def test_an_environment_below_a_temporary_folder_changes_nothing(above, folder):
    """Not even one that is named like a folder of ours."""
    if not os.access(above, os.W_OK):
        pytest.skip(f"{above} cannot be written")
    with host.best() as box:
        if box.way != "namespaces":
            pytest.skip("namespaces do not work here")
    with tempfile.TemporaryDirectory(dir=above) as parent:
        environment = pathlib.Path(parent, folder)
        venv.create(environment, symlinks=True)
        (library,) = environment.glob("lib/python*/site-packages")
        (library / "hapo_jax_test_library.py").write_text("VALUE = 7")
        done = subprocess.run(
            [environment / "bin" / "python", "-P", "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            cwd=parent,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    prefix, way, passed_over, trial, said = json.loads(done.stdout)
    assert prefix == str(environment)
    assert (way, passed_over) == ("namespaces", {})
    assert trials.Trial(*trial) == trials.Trial(True)
    assert said == ["7 1\n"]


def test_links_among_the_systems_folders_are_followed(monkeypatch):
    """`/lib` is a link on most systems; Python below it would be found twice."""
    if not os.path.islink("/lib"):
        pytest.skip("/lib is no link here")
    assert confine._without_link("/lib/x") == os.path.realpath("/lib") + "/x"
    assert confine._without_link("/library") == "/library"
    monkeypatch.setattr(sys, "base_prefix", "/")
    folders = confine._library_folders()
    assert "/lib" not in folders
    assert "/usr" in folders


def test_a_fallback_says_why_once(monkeypatch, caplog):
    """And nothing is said where the best way works."""
    original = host._try

    def refuse(box):
        if box.way == "namespaces":
            raise RuntimeError("no namespaces here")
        original(box)

    monkeypatch.setattr(host, "_said", set())
    monkeypatch.setattr(host, "_try", refuse)
    try:
        box = host.best()
    except RuntimeError as error:
        pytest.skip(str(error))
    with box:
        assert box.way == "landlock"
        for _ in range(2):
            host.say_once(host.why_weaker(box), 30)
    assert caplog.text.count("no namespaces here") == 1
    assert "confined by landlock, since namespaces did not work" in caplog.text
    with host.Sandbox("landlock") as box:
        assert host.why_weaker(box) == ""
