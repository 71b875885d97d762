"""Every cell of the table of promises, tried; docs and first line say the same."""

import json
import pathlib
import sys

import pytest

import hapo_jax
from hapo_jax.tasks import code
from hapo_jax.tasks.sandbox import confine, host, landlock, promises, trials
from tests.tasks.sandbox import breaches, ordinary

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="confines on Linux alone"),
    pytest.mark.slow,
]
ROOT = pathlib.Path(hapo_jax.__file__).resolve().parents[1]
# Each column of the table by its first version; what is newer is left unused.
MODES = [["namespaces", 0], *(["landlock", first] for first, _ in promises.VERSIONS)]
IDS = [f"{way}-{version}" if version else way for way, version in MODES]
USERS = {"root": True, "ordinary": False}


@pytest.fixture(scope="module")
def tried():
    """User → what got through in each mode, or why that user or mode cannot be had."""
    started, found = {}, {}
    for user, root in USERS.items():
        module = "tests.tasks.sandbox.try_breaches"
        try:
            started[user] = ordinary.start(
                module, json.dumps(MODES), root=root, path=str(ROOT)
            )
        except LookupError as error:
            found[user] = str(error)
    for user, process in started.items():
        said, complained = process.communicate(timeout=300)
        assert process.returncode == 0, complained
        found[user] = json.loads(said)
    return found


def of(tried, user, place):
    if isinstance(tried[user], str):
        pytest.skip(tried[user])
    way, version = (*MODES, ["layers", 0])[place]
    if isinstance(tried[user][place], str):
        pytest.skip(f"{way} does not work here: {tried[user][place]}")
    if version > _newest():
        pytest.skip(f"the kernel has Landlock of version {_newest()}")
    return tried[user][place]


def _newest():
    try:
        return landlock.version()
    except OSError:
        return 0


def test_there_are_enough_breaches_of_each_promise():
    assert len(breaches.BREACHES) >= 60
    assert {b.promise for b in breaches.BREACHES.values()} == set(promises.PROMISES)
    for name, breach in breaches.BREACHES.items():
        compile(breach.program, name, "exec")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("place", range(len(MODES)), ids=IDS)
def test_what_is_promised_is_kept_and_what_is_not_is_not(tried, user, place):
    through = of(tried, user, place)
    way, version = MODES[place]
    cells = {
        name: promises.cell(name, way, version, root=USERS[user])
        for name in promises.PROMISES
    }
    broken = {
        name for name in through if cells[breaches.BREACHES[name].promise] != "no"
    }
    assert not broken
    # A cell that says less than is true would be no better.
    shown = {breaches.BREACHES[name].promise for name in through}
    assert shown == {name for name, said in cells.items() if said == "no"}


@pytest.mark.parametrize("user", USERS)
def test_the_kernel_keeps_by_itself_what_is_not_left_to_the_filter(tried, user):
    """Landlock without the filter; without namespaces either."""
    layers = of(tried, user, len(MODES))
    if not layers:
        pytest.skip("the kernel has no Landlock")
    for version, refused in layers.items():
        for name in ("reads", "writes", "truncation", "signals", "abstract", "network"):
            cell = promises.cell(name, "landlock", int(version), root=USERS[user])
            assert (cell == "yes") == (name in refused), (version, name)
        assert "memory" in refused


def test_where_no_way_works_nothing_runs(monkeypatch):
    monkeypatch.setattr(confine, "WAYS", {})
    code._box.cache_clear()
    tests = [{"type": "stdin", "input": "", "output": "through"}]
    limits = {"test_s": 1.0, "total_s": 1.0, "memory_mib": 256}
    spec = {"tests": tests, "entry_point": "", "prelude": "", "harness": "", **limits}
    for breach in breaches.BREACHES.values():
        with pytest.raises(RuntimeError, match="cannot be confined.*so none is run"):
            code.grade(breach.program, json.dumps(spec))


def test_as_root_each_program_is_a_user_of_its_own():
    if not confine.own_users():
        pytest.skip("the tests are not run by root that may become any user")
    users = []
    try:
        box = host.Sandbox("landlock")
    except RuntimeError as error:
        pytest.skip(str(error))
    with box:
        for _ in range(3):
            assert trials.on_input(
                box,
                "import os\nassert os.getuid() == os.geteuid() == os.getgid()\n"
                "assert not os.getgroups()\nprint(os.getuid())",
                data="",
                accept=lambda text: users.append(int(text)) is None,
                limits=confine.Limits(),
            ).passed
    assert len(set(users)) == 3
    assert min(users) > 2**30


def test_the_docs_show_the_table():
    text = (ROOT / "docs" / "sandbox.md").read_text()
    assert promises.table() in text
    for name in ("namespaces", "Landlock"):
        assert name in text


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize(("way", "version"), MODES, ids=IDS)
def test_the_first_line_names_what_is_not_promised(way, version, root):
    said = promises.describe(way, version, root=root)
    promised, _, not_promised = said.partition("Not promised")
    for name, promise in promises.PROMISES.items():
        cell = promises.cell(name, way, version, root=root)
        assert (promise.text in not_promised) == (cell == "no")
        assert (promise.text in promised) == (cell == "filter")


def test_the_line_is_that_of_the_sandbox_in_force():
    with host.best() as box:
        said = promises.describe(box.way, box.landlock, root=confine.own_users())
        assert host.describe(box) == said
