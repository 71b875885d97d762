"""Tunix's GRPO learner as a worker of `train.py`: one actor update, or whole steps.

The loss, the trainer's loop and its gradient accumulation are Tunix's. It pads every
completion to the longest that is allowed, and takes the mean of the micro-batches'
token means, which is DAPO's loss only where they have equally many tokens.
"""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from benchmarks import worker, workload
from benchmarks.peers import loop, tunix


def build(job: worker.Job) -> worker.Engine:
    """A cluster of one actor, and a GRPO learner around it."""
    _, work = job.load()
    build_run = {"update": _updating, "step": _stepping}[job.task]
    return worker.Engine(
        versions={
            name: importlib.metadata.version(name) for name in ("google-tunix", "jax")
        },
        runs={"": build_run(job, work)},
        warm_ups=2,  # its second step compiles once more
    )


def _updating(job: worker.Job, work: workload.Work) -> worker.Run:
    """Updates of the actor from examples that are given."""
    update = job.update()
    cluster, _ = _learner(job, rewards=None)
    trainer = cluster.actor_trainer

    def run() -> dict:
        examples = [_example(update, rows) for rows in update.micro_batches]
        cluster.update_actor(examples, None)
        jax.block_until_ready(nnx.state(trainer.model))
        # Kept by the trainer until the next update: a token mean per micro-batch.
        means = np.asarray(trainer._prev_buffered_train_metrics.losses)
        tokens = [int(example.completion_mask.sum()) for example in examples]
        return {
            "loss": float(np.average(means, weights=tokens)),
            "trained": sum(tokens),
        }

    return worker.updating(run, work)


def _example(update: workload.Update, rows: slice) -> grpo_learner.TrainExample:
    """A micro-batch."""
    prompts = jnp.asarray(update.prompts[rows])
    return grpo_learner.TrainExample(
        prompt_ids=prompts,
        prompt_mask=jnp.ones_like(prompts, bool),
        completion_ids=jnp.asarray(update.completions[rows]),
        completion_mask=jnp.asarray(update.mask[rows]),
        advantages=jnp.asarray(update.advantages[rows]),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.asarray(update.old_logprobs[rows]),
    )


def _stepping(job: worker.Job, work: workload.Work) -> worker.Run:
    """Steps of `GRPOLearner.train`, which asks for prompts when a step begins."""
    seen = []

    def rewards(prompts, completions, **kwargs) -> list[float]:
        seen.extend(len(text.split()) for text in completions)
        return [workload.reward(text) for text in completions]

    _, learner = _learner(job, rewards=rewards)
    prompts = np.array([" ".join(map(str, prompt)) for prompt in work.prompts])

    def batches(pause):
        yield {"prompts": prompts}
        while True:
            pause()
            yield {"prompts": prompts}

    stepwise = loop.Stepwise(lambda pause: learner.train(batches(pause)))

    def lengths(seed: int) -> list[int]:
        del seed  # Tunix goes on with its own
        seen.clear()
        stepwise.step()
        return seen

    return worker.generating(lengths, work)


def _learner(job: worker.Job, *, rewards):
    """(cluster, learner) on one device, with the workload's settings."""
    shapes, work = job.load()
    update, prompt_tokens = job.update(), work.prompts.shape[1]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    num_prompts, never = len(work.prompts), 10**9
    cluster = rl_cluster.RLCluster(
        actor=tunix.load_model(shapes, job.checkpoint, mesh),
        reference=None,
        tokenizer=tunix.NumberTokenizer(work),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(
                (
                    rl_cluster.Role.ACTOR,
                    rl_cluster.Role.REFERENCE,
                    rl_cluster.Role.ROLLOUT,
                ),
                mesh,
            ),
            rollout_engine="vanilla",
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=_optimizer(update.adamw),
                eval_every_n_steps=never,
                max_steps=never,
                mini_batch_size=num_prompts,
                train_micro_batch_size=update.micro_rows // work.group_size,
                rollout_micro_batch_size=num_prompts,
                compute_logps_micro_batch_size=num_prompts,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=work.max_tokens,
                max_prompt_length=prompt_tokens,
                kv_cache_size=prompt_tokens + work.max_tokens,
                temperature=1.0,
                top_p=1.0,
                top_k=None,
                eos_tokens=[shapes.vocab],  # no such token: nothing stops
                return_logprobs=True,
            ),
        ),
    )
    algorithm = grpo_learner.GRPOConfig(
        num_generations=work.group_size,
        num_iterations=1,
        beta=0.0,
        epsilon=update.clip_low,
        loss_agg_mode="token-mean",
    )
    # Read by the loss, though it is no field of this config in 0.1.7.
    algorithm.epsilon_high = update.clip_high
    learner = grpo_learner.GRPOLearner(
        rl_cluster=cluster,
        reward_fns=rewards or (lambda prompts, completions, **kwargs: []),
        algo_config=algorithm,
    )
    return cluster, learner


def _optimizer(adamw: workload.AdamW) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(adamw.max_grad_norm),
        optax.adamw(
            adamw.learning_rate,
            b1=adamw.b1,
            b2=adamw.b2,
            eps=adamw.eps,
            weight_decay=adamw.weight_decay,
        ),
    )


if __name__ == "__main__":
    worker.serve(build)
