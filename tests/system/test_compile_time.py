"""Time that goes to compilers is what this thread waits for, once."""

import threading

import jax
import jax.numpy as jnp
import pytest

from hapo_jax.system import compile_ahead, compile_time


@pytest.fixture
def compiling(monkeypatch):
    """An open scope, and a clock that a test sets."""
    clock = [100.0]
    monkeypatch.setattr(compile_time.time, "monotonic", lambda: clock[0])
    with compile_time.CompileTime() as made:
        made.clock = clock
        yield made


def report(compiling, end, seconds, event="/jax/core/compile/backend"):
    compiling.clock[0] = end
    jax.monitoring.record_event_duration_secs(event, seconds)


def test_spans_are_added_and_those_within_others_counted_once(compiling):
    report(compiling, 101.0, 1.0)
    report(compiling, 103.0, 0.5)
    report(compiling, 104.0, 2.0)  # the one before was a part of it
    report(compiling, 105.0, 0.5, "/jax/another/event")
    assert compiling.take() == pytest.approx(3.0)
    assert compiling.take() == 0


def test_another_thread_counts_where_it_is_waited_for(compiling):
    thread = threading.Thread(target=report, args=(compiling, 110.0, 9.0))
    thread.start()
    thread.join()
    assert compiling.take() == 0
    compiling.clock[0] = 112.0
    compile_time.note_wait(began=110.5)
    assert compiling.take() == pytest.approx(1.5)


def test_what_jax_compiles_is_heard_until_the_scope_ends():
    def double(x):
        return 2 * x

    with compile_time.CompileTime() as made:
        jax.jit(double)(jnp.ones(3)).block_until_ready()
        first = made.take()
        jax.jit(double)(jnp.ones(3)).block_until_ready()
        assert made.take() == 0
    assert first > 0
    jax.jit(lambda x: 3 * x)(jnp.ones(3)).block_until_ready()
    assert made.take() == 0


def test_a_call_that_waits_for_a_thread_is_heard():
    waits = threading.Event()

    def slow(x):
        waits.wait(10)  # while it is traced, in the thread that compiles
        return x + 1

    function = compile_ahead.Jitted(jax.jit(slow))
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    program = compile_ahead.Program("slow", function, (jnp.ones(3),), mesh)
    with jax.set_mesh(mesh), compile_ahead.Ahead() as ahead:
        with compile_time.CompileTime() as made:
            ahead.compile([program])
            threading.Timer(0.5, waits.set).start()
            function(jnp.ones(3))
            assert made.take() >= 0.3
