"""Every method trains the demo's policy on Countdown, goes on from a checkpoint, and
is replayed from its record.

What a method makes of rewards is tested with its formula; here it meets the sampler,
the learner and the checkpoints, with all the state that it keeps.
"""

import functools

import jax
import numpy as np
import pytest

from configs import countdown
from hapo_jax import assembly, replay, train
from hapo_jax.algo import methods
from hapo_jax.config import arguments, resolution
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.model import sharding
from hapo_jax.rollout import collect as collect_lib
from hapo_jax.rollout import generate as generate_lib
from hapo_jax.rollout import prompts as prompts_lib
from hapo_jax.runs import batches
from hapo_jax.runs.checkpoint import Checkpoints
from tests.algo import test_relations
from tests.test_plain import Inline

NUM_STEPS = 12


def config(name):
    """The demo with few and short completions."""
    c = countdown.get_config(f"method={name}").copy_and_resolve_references()
    with c.unlocked():
        c.num_steps = NUM_STEPS
        c.rollout.batch_prompts = 4
        c.rollout.group_size = 4
        c.rollout.max_completion_tokens = 24
        c.learner.minibatch_prompts = 2
        c.learner.warmup_steps = 2
        for key, value in methods.METHODS[name].given.items():
            arguments.override(c, key, str(value))
        for key, value in test_relations.GIVEN.get(name, {}).items():
            c.algo[key] = value
        c.task.demonstrations.size = c.task.demonstrations.num_problems = 100
        c.task.demonstrations.max_attempts = 3  # which are 20 tokens
    return resolution.resolve(c).config


@functools.cache
def policy_and_prompts():
    """On one device; of all methods."""
    c = config("hapo")
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    policy = assembly.describe(c, mesh)
    return policy, assembly.make_prompts(c, policy, c.task.train)


SHARED = {}  # programs that sample, and what brings parameters to them: compiled once


def sampling_of(run):
    """(generator, to_sampler) of a run; those of runs that sample alike are one."""
    c, prompts = run.config, run.prompts
    key = c.rollout.greedy_baseline, str(c.algo.temperature.to_dict())
    if not c.algo.temperature.strength:
        key = key[:1]
    if key not in SHARED:
        programs = assembly.make_programs(run, run.draws)
        generator = assembly.make_generator(run, programs, prompts, Inline())
        SHARED[key] = generator, run.to_sampler
    return SHARED[key]


class Trainer:
    """A method with the programs that it runs."""

    def __init__(self, name):
        self.config = config(name)
        policy, prompts = policy_and_prompts()
        method = assembly.make_method(self.config, num_prompts=len(prompts))
        # What the sampler recorded spares a program, where that is enough.
        scored = bool(method.old_outputs) or method.has_critic
        with self.config.unlocked():
            self.config.learner.recompute_old_logprobs = scored
        shown = None
        if self.config.algo.demonstrations.share:
            section = "task.demonstrations"
            shown = assembly.make_demonstrations(self.config, policy, section)
        self.run = assembly.Run(
            config=self.config,
            policy=policy,
            method=method,
            optimizer=assembly.make_optimizer(self.config),
            prompts=prompts,
            demonstrations=shown,
        )
        self.generator, self.to_sampler = sampling_of(self.run)
        self.reference = self.run.load_reference()

    def train(self, state, stream, steps, watch=0):
        """State, stream and metrics after these steps, `watch` of which is recorded."""
        r, found = self.config.rollout, []
        for step in steps:
            draw = functools.partial(
                generate_lib.generate,
                self.generator,
                self.to_sampler(state.params),
                state.method_state,
                base_temperatures=[r.base_temperature] * r.group_size,
                step=step,
                greedy_baseline=r.greedy_baseline,
            )
            batch, stream, metrics = collect_lib.collect(
                stream,
                lambda ids, first, draw=draw: draw(prompt_ids=ids, first_sample=first),
                functools.partial(prompts_lib.take, len(self.run.prompts), 0),
                batch_prompts=r.batch_prompts,
                round_prompts=r.round_prompts,
                group_size=r.group_size,
                dynamic_sampling=r.dynamic_sampling,
                max_rounds=r.max_rounds,
            )
            batch, metrics = train.put_beside(
                self.run, batch, metrics, draw, step=step, entropy=stream.entropy
            )
            state, learnt, learning = learn_lib.learn(
                self.run.learner,
                state,
                batch,
                passes=self.run.work.passes,
                reference_params=self.reference,
                watch=step == watch,
            )
            found.append(metrics | learning)
            if step == watch:
                self.recorded = batches.of_step(
                    step,
                    learnt,
                    minibatch_rows=self.run.learner.minibatch_rows,
                    phases=self.run.learner.phases,
                    num_prompts=len(self.run.prompts),
                )
        return state, stream, found


# Compiling takes 9 s of a method. These have state, passes, numbers of the old policy,
# a critic or completions that no other has; `make test-long` trains the rest as well.
ALWAYS = {
    *("hapo", "gspo", "adaptive_entropy", "dcpo", "stare", "lopti", "otb", "ppo"),
    *("remax", "aepo", "chord"),
}


def marked(name):
    mark = pytest.mark.slow if name in ALWAYS else pytest.mark.long
    return pytest.param(name, marks=mark)


@pytest.mark.parametrize("name", [marked(name) for name in methods.METHODS])
def test_a_method_trains_and_goes_on_from_a_checkpoint(name, tmp_path):
    trainer = Trainer(name)
    run, half = trainer.run, NUM_STEPS // 2
    with jax.set_mesh(run.policy.mesh):
        before = jax.device_get(run.policy.load())
        state = run.first_state(run.policy.load())
        stream = collect_lib.StreamState()
        steps = range(1, half + 1)
        state, stream, first = trainer.train(state, stream, steps, watch=half)
        with Checkpoints(str(tmp_path), keep_latest=1) as checkpoints:
            checkpoints.save(half, state_lib.to_saved(state), extra=stream.to_plain())
            checkpoints.wait()
            restored = checkpoints.restore_latest(state_lib.to_saved(run.abstract))
        rest = range(half + 1, NUM_STEPS + 1)
        state, _, second = trainer.train(state, stream, rest)
        again, _, repeated = trainer.train(
            state_lib.from_saved(restored.state, run.abstract.frozen),
            collect_lib.StreamState.from_plain(restored.extra),
            rest,
        )
        state, again = jax.device_get((state, again))

    for metrics in first + second:
        for key, value in metrics.items():
            assert np.isfinite(value), key
        assert metrics["grad/skipped"] == 0
    for leaf in jax.tree.leaves((state.trainable, state.method_state)):
        assert np.isfinite(leaf).all()
    moved = jax.tree.map(lambda a, b: np.any(a != b), before, state.params)
    assert any(jax.tree.leaves(moved)), "nothing was learnt"
    jax.tree.map(np.testing.assert_array_equal, again, state)

    def untimed(metrics):
        return {k: v for k, v in metrics.items() if not k.startswith("time/")}

    assert list(map(untimed, repeated)) == list(map(untimed, second))

    again = replay.of_record(trainer.recorded, trainer.config)
    assert (
        again.metrics.keys() >= {"loss/policy", "stats/max_score"} and not again.fresh
    )
    for key, value in again.metrics.items():
        np.testing.assert_allclose(value, first[-1][key], rtol=1e-5, atol=1e-6)
