"""Our learner as a worker of `train.py`: one update of given rows, or a whole step."""

import importlib.metadata
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import worker, workload
from benchmarks.ours import parts
from hapo_jax.config import defaults, presets
from hapo_jax.learner import head, metrics
from hapo_jax.learner import learn as learn_lib
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import sharding
from hapo_jax.rollout.batch import RolloutBatch, TokenRecord


def build(job: worker.Job) -> worker.Engine:
    """One learner per method over all devices, each from the same parameters."""
    shapes, work = job.load()
    policy = policy_lib.make(
        parts.model_config(shapes),
        parts.NumberTokenizer(work.pad_id),
        job.checkpoint,
        "float32",
        sharding.make_mesh(),
    )
    runs = {}
    for method in job.methods:
        config = config_of(method, job)
        if job.task == "update":
            update = _updater(config, policy, job.update())
            runs[method] = worker.updating(update, work)
        else:
            runs[method] = worker.generating(_stepper(config, policy, work), work)
    return worker.Engine(
        versions={"jax": importlib.metadata.version("jax")},
        runs=runs,
        warm_ups=2,  # the second step is the first with statistics
    )


def config_of(variant: str, job: worker.Job) -> ConfigDict:
    """The default config with the workload's sizes and the job's options.

    `variant` is a method, or METHOD/RATIO_OF.
    """
    _, work = job.load()
    method, _, ratio_of = variant.partition("/")
    update, config = job.update(), presets.apply_method(defaults.default(), method)
    config.algo.ratio_of = ratio_of or config.algo.ratio_of
    config.rollout.group_size = work.group_size
    config.rollout.max_prompt_tokens = work.prompts.shape[1]
    config.rollout.max_completion_tokens = work.max_tokens
    config.learner.minibatch_prompts = len(work.prompts)
    config.learner.warmup_steps = 0
    # The peers, who update once per batch, score nothing before it either.
    config.learner.recompute_old_logprobs = False
    for key in ("learning_rate", "b1", "b2", "eps", "weight_decay", "max_grad_norm"):
        config.learner[key] = getattr(update.adamw, key)
    config.algo.clip.low, config.algo.clip.high = update.clip_low, update.clip_high
    config.update_from_flattened_dict(job.options)
    return config


def _updater(
    config: ConfigDict, policy: policy_lib.Policy, update: workload.Update
) -> Callable[[], dict]:
    """A function that makes one update and says what came of it.

    Old scores are given, so each run is what `learn.learn` does behind scoring:
    planning, packing and moving the rows are part of it.
    """
    with jax.set_mesh(policy.mesh):
        run = parts.make_run(config, policy)
        learner, state = run.learner, run.first_state(policy.load())
        batch = batch_of(update, config.rollout.group_size)
        record = batch.record
        old = head.Scores(logprobs=record.base_logprobs, entropy=record.entropy)
        learnt, method_state = learn_lib.prepare(
            learner, batch, state.method_state, old
        )
    state = state._replace(method_state=method_state)
    trained = int(batch.completion_mask.sum())

    def make_update() -> dict:
        nonlocal state
        with jax.set_mesh(policy.mesh):
            minibatch, _ = learn_lib.make_minibatch(learner, learnt, 0)
            state, tally = learner.update(state, minibatch)
        jax.block_until_ready(state.params)
        measured = metrics.of_updates([tally])
        return {
            "loss": measured["loss/policy"],
            "grad_norm": measured["grad/norm"],
            "trained": trained,
        }

    return make_update


def batch_of(update: workload.Update, group_size: int) -> RolloutBatch:
    """The update's completions as a rollout hands them to the learner.

    Rewards are the advantages: with mean 0 and spread 1 in a group, normalising leaves
    them as they are. Entropies, which HAPO reads, are random; log-probs are the old
    ones, whatever they are of. Something was cut from every distribution.
    """
    B, P = update.prompts.shape
    entropy = np.random.default_rng(0).uniform(0.5, 1, update.mask.shape)
    return RolloutBatch.of_tokens(
        prompt_tokens=update.prompts,
        prompt_lengths=np.full(B, P, np.int32),
        completion_tokens=update.completions,
        completion_mask=update.mask,
        group_size=group_size,
    )._replace(
        record=TokenRecord(
            entropy=(-update.old_logprobs * entropy).astype(np.float32),
            temperature=np.ones(update.mask.shape, np.float32),
            cut_logit=np.full(update.mask.shape, -5, np.float32),
            behavior_logprobs=update.old_logprobs,
            base_logprobs=update.old_logprobs,
        ),
        rewards=update.advantages,
    )


def _stepper(
    config: ConfigDict, policy: policy_lib.Policy, work: workload.Work
) -> Callable[[int], np.ndarray]:
    """A function from a seed to the completions' lengths of a whole step."""
    with jax.set_mesh(policy.mesh):
        step = parts.make_step(config, policy, policy.load(), work.prompts)

    def lengths(seed: int) -> np.ndarray:
        with jax.set_mesh(policy.mesh):
            return step(seed).batch.lengths

    return lengths


if __name__ == "__main__":
    worker.serve(build)
