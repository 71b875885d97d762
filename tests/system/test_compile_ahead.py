"""Programs that threads compile: reused, waited for, and never in the way."""

import logging
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import monitoring

from hapo_jax.model import sharding
from hapo_jax.system import compile_ahead

SHAPE = (8, 8)


@pytest.fixture
def compiled():
    """Names of the functions that are compiled, in their order."""
    found = []

    def note(name, seconds, **labels):
        if name.endswith("backend_compile_duration"):
            found.append(labels.get("fun_name"))

    monitoring.register_event_duration_secs_listener(note)
    yield found
    monitoring.unregister_event_duration_listener(note)


@pytest.fixture
def mesh(devices):
    return sharding.make_mesh(devices=devices[:1])


def program(mesh, function):
    whole = sharding.replicated(mesh)
    jitted = jax.jit(function, in_shardings=(whole,), out_shardings=whole)
    shape = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=whole)
    return compile_ahead.Program(
        "sines", compile_ahead.Jitted(jitted), (shape,), mesh
    ), jax.device_put(np.ones(SHAPE, np.float32), whole)


def test_a_call_uses_what_a_thread_has_compiled(mesh, compiled):
    started, traced = threading.Event(), []

    def sines(x):
        traced.append(threading.current_thread().name)
        started.set()
        return jnp.sin(x) @ x

    one, x = program(mesh, sines)
    with compile_ahead.Ahead() as ahead, jax.set_mesh(mesh):
        ahead.compile([one])
        assert started.wait(30)
        got = one.function(x)  # waits, and does not compile a second time
        np.testing.assert_allclose(got, np.sin(1) * 8 * np.ones(SHAPE), rtol=1e-6)
    assert len(traced) == 1
    assert traced[0].startswith("compile")
    assert [name for name in compiled if "sines" in str(name)] == ["jit(sines)"]


def test_what_fails_in_a_thread_is_said_and_fails_where_it_is_needed(mesh, caplog):
    def sines(x):
        raise FloatingPointError("no sines today")

    one, x = program(mesh, sines)
    with caplog.at_level(logging.WARNING), compile_ahead.Ahead() as ahead:
        ahead.compile([one])
        with pytest.raises(FloatingPointError, match="no sines"), jax.set_mesh(mesh):
            one.function(x)
    said = caplog.text
    assert "Compiling sines ahead failed (FloatingPointError: no sines today)" in said


def test_a_call_does_not_wait_for_what_no_thread_has_begun(mesh):
    one, x = program(mesh, jnp.cos)
    with compile_ahead.Ahead() as ahead:
        blocked = threading.Event()
        threads = ahead._pool._max_workers
        for _ in range(threads):
            ahead._pool.submit(blocked.wait, 60)
        ahead.compile([one])
        try:
            with jax.set_mesh(mesh):
                np.testing.assert_allclose(one.function(x), np.cos(1.0), rtol=1e-6)
        finally:
            blocked.set()


def test_leaving_drops_what_has_not_begun(mesh):
    traced = []
    one, _ = program(mesh, lambda x: traced.append(1) or x)
    blocked = threading.Event()
    with compile_ahead.Ahead() as ahead:
        for _ in range(ahead._pool._max_workers):
            ahead._pool.submit(blocked.wait, 60)
        ahead.compile([one])
    blocked.set()
    ahead._pool.shutdown(wait=True)
    assert not traced


LEAVES = """
import threading
from hapo_jax.system import compile_ahead
with compile_ahead.Ahead() as ahead:
    begun = threading.Event()
    ahead._pool.submit(lambda: begun.set() or threading.Event().wait())
    begun.wait()
print("said")
compile_ahead.leave(3)
"""


def test_who_cannot_wait_for_a_thread_leaves():
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (3, "said\n")
