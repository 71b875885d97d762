"""Every setting has a declared choice, range or type, and values beyond are refused."""

import math

import pytest

from hapo_jax import tasks
from hapo_jax.algo import settings
from hapo_jax.algo.ranges import Range
from hapo_jax.config import check, defaults, dotted, ranges
from hapo_jax.system.errors import Refused
from tests.config.test_check import load

HUGE = {int: 10**23, float: 1e300}
SFT = defaults.default_sft()
RL = defaults.default()


def experiment(key):
    """A config that can run and has the key."""
    config = load("countdown" if dotted.has(RL, key) else "countdown_sft")
    return config.unlock() or config


def refused(key, value):
    """Whether the check refuses a value, by the name of its key."""
    config = experiment(key)
    section, _, name = key.rpartition(".")
    holder = dotted.get(config, section) if section else config
    del holder[name]  # or ml_collections would compare types
    holder[name] = value
    try:
        check.check_alone(config)
    except Refused as error:
        assert f"{key}=" in str(error), error
        return True
    return False


def test_every_setting_is_declared():
    for default in (RL, SFT):
        for key in dotted.keys(default):
            value = dotted.get(default, key)
            if key.startswith("algo."):
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            assert number == (key in ranges.RANGES), key
    known = {*dotted.keys(RL), *dotted.keys(SFT)}
    assert known >= ranges.RANGES.keys() | ranges.CHOICES.keys()
    of_algo = {key for key in dotted.keys(RL) if key.startswith("algo.")}
    assert of_algo == settings.LEGAL.keys() | {f"algo.{n}" for n in settings.STAGES}


@pytest.mark.parametrize("key", ranges.RANGES)
def test_a_number_beyond_its_range_is_refused(key):
    numbers = ranges.RANGES[key]
    kind = int if numbers.whole else float
    for value in (math.nan, math.inf, -math.inf, HUGE[kind], "1", None, True):
        assert refused(key, value), value
    for value in (kind(0), kind(-1)):
        assert refused(key, value) != numbers.holds(value), value
    assert not refused(key, numbers.high if not numbers.below else numbers.low)


# What 0 means for each of these stands in config.py.
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("num_steps", 0),
        ("rollout.base_temperature", 1e-30),
        ("learner.b1", 1.0),
        ("learner.b2", 2.0),
        ("learner.eps", 0.0),
        ("learner.learning_rate", 0.0),
        ("learner.learning_rate", 1e6),
        ("learner.max_grad_norm", 0.0),
        ("grading.timeout_s", 1e-9),
        ("grading.memory_gib", 0.01),
        ("grading.memory_gib", 1e30),
        ("model.stop_tokens", "a"),
        ("model.path", None),
        ("learner.packing", 1),
        ("task.train", 3),
    ],
)
def test_values_that_break_a_run_later_are_refused(key, value):
    assert refused(key, value)


@pytest.mark.parametrize("key", settings.LEGAL)
def test_a_setting_of_algo_beyond_its_range_is_refused(key):
    legal = settings.LEGAL[key]
    values = [math.nan, math.inf, -math.inf, 1e30, -1.0, "1", None]
    if isinstance(legal, Range):
        values += [True] + [0.0] * (not legal.holds(0.0))
    for value in values:
        section = settings.defaults()
        *parts, last = key.split(".")[1:]
        holder = section[parts[0]] if parts else section
        holder[last] = value
        with pytest.raises(ValueError, match=key):
            settings.of(section)


@pytest.mark.parametrize("name", ["countdown", "gsm8k", "logic", "mbpp"])
def test_options_of_tasks_are_checked_by_type_and_range(name):
    config = load(name)
    with config.unlocked():
        for key, value in config.task.train.to_dict().items():
            bad = (5, None) if isinstance(value, str) else ("x", math.nan, 10**23, None)
            for wrong in bad:
                del config.task.train[key]
                config.task.train[key] = wrong
                with pytest.raises(ValueError, match=f"task.train.{key}="):
                    check.check_alone(config)
            del config.task.train[key]
            config.task.train[key] = value
        config.task.train.sizes = 5
        with pytest.raises(ValueError, match="task.train.sizes is no option"):
            check.check_alone(config)
        del config.task.train.sizes
        del config.task.train.split
        with pytest.raises(ValueError, match="task.train.split is missing"):
            check.check_alone(config)


def test_every_number_among_the_options_of_tasks_has_a_range():
    for task in tasks.TASKS:
        for reads in ("problems", "demonstrations"):
            function = getattr(tasks.get(task), reads, None)
            for name, parameter in check.options_of(function).items():
                if parameter.annotation in (int, float):
                    assert name in ranges.OPTIONS, (task, name)
