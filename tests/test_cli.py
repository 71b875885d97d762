"""Bad input is told from faults of the program by the type of what is raised."""

import numpy as np
import pytest

from hapo_jax import cli
from hapo_jax.config import arguments, check, defaults
from hapo_jax.rollout import memory
from hapo_jax.system import errors


def bad_config():
    config = defaults.default()
    config.rollout.group_size = -1
    check.check_alone(config)


def shapes():
    np.ones(3) + np.ones(4)


def unpack():
    first, second = (np.ones(1),)
    return first, second


def below():
    """A fault behind a refusal that is being made."""
    try:
        unpack()
    except errors.Refused:
        raise AssertionError("it is no refusal") from None


@pytest.fixture
def end(monkeypatch):
    """(status, exception that is not caught) of a program."""
    monkeypatch.setattr(cli.app, "run", lambda main, **_: main(["program"]))
    monkeypatch.setattr(cli.streams, "install", lambda: None)
    monkeypatch.setattr(cli.limits, "prepare", lambda: None)

    def run(main):
        try:
            cli.start(lambda _: main())
        except SystemExit as error:
            return error.code, None
        except Exception as error:
            return 1, error
        return 0, None

    return run


def test_a_refusal_is_a_message_and_status_2(end, capsys):
    assert end(bad_config) == (2, None)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "rollout.group_size=-1" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("fault", [shapes, unpack, below])
def test_a_fault_keeps_its_traceback(end, fault):
    """Whichever file it is raised in, C code included."""
    status, error = end(fault)
    assert status == 1 and type(error) is ValueError
    assert error.__traceback__ is not None
    assert cli._status(error) == 1


def test_a_run_that_failed_is_a_message_and_status_1(end, capsys):
    def fail():
        raise errors.DiskFailed("the disk is full; make room")

    assert end(fail) == (1, None)
    assert capsys.readouterr().err == "error: the disk is full; make room\n"


def test_memory_that_is_too_small_is_a_refusal():
    assert issubclass(memory.DoesNotFit, errors.Refused)


@pytest.mark.parametrize("name", ["gsm8k"])
def test_an_experiment_file_refuses_its_argument(name):
    with pytest.raises(errors.Refused, match="prompt='none' must be one of"):
        arguments.load(f"configs/{name}.py:data=x,prompt=none")


def test_processes_tell_each_other_by_the_same_types():
    assert cli._status(errors.Refused("no")) == 2
    assert cli._status(ValueError("shapes")) == 1
