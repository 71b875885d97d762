"""Supervised fine-tuning on demonstrations: the warm start of an RL run.

    hapo-sft --config=configs/countdown_sft.py --workdir=runs/warm

Trains with the learner of RL and imitation as its method, and leaves a
Hugging Face folder in <workdir>/hf for `model.path` of an RL config. Without
`model.path` it makes a new, small model with one token per word of the task.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from hapo_jax import assembly, cli, opening, tasks
from hapo_jax import session as session_lib
from hapo_jax.algo import method as method_lib
from hapo_jax.algo import settings
from hapo_jax.config import check
from hapo_jax.learner import head, metrics, perf, train_step
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner.state import TrainState
from hapo_jax.model import huggingface, transformer, word_tokenizer
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import prompts
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.runs import inputs as inputs_lib
from hapo_jax.session import Launch, Session
from hapo_jax.system.interrupt import Interrupt
from hapo_jax.system.watchdog import Watchdog


def sft(config: ConfigDict, workdir: str) -> None:
    """Fine-tunes and exports; resumes if `workdir` has a checkpoint.

    Raises:
      Refused: the config, the model or the demonstrations cannot be used.
    """
    launch, params, (train, test) = _check(config, workdir)
    run, config = launch.run, launch.run.config
    rows, every_steps = config.learner.batch_rows, config.log.every_steps
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(run.policy.mesh))
        session, start = stack.enter_context(
            session_lib.start(
                launch,
                lambda: params,
                stop=Interrupt(),
                watch=Watchdog(config.log.watchdog_s),
                looks_every=every_steps,
            )
        )
        state = start.state
        evaluate = functools.partial(_evaluate, session, test)
        if session.owes_evaluation(_HELD_OUT):
            evaluate(state, session.first)
        asked, steps = None, session.steps("sft")
        for step in steps:
            index = prompts.take(
                len(train.rewards), config.seed, (step - 1) * rows, rows
            )
            with session.urgent(step):
                state, tally = _update(run.learner, state, batch_lib.rows(train, index))
            asked = session.stop.agree()
            if session.is_last(step, asked) or step % every_steps == 0:
                session_lib.stop_if_diverged(state, step, config.learner.max_skipped)
                found = metrics.of_updates([jax.device_get(tally)])
                kept = {k: found[k] for k in _METRICS if k in found}
                kept |= perf.cuts(run.learner)
                session.files.log(step, kept | session.raised(step, found))
                steps.set_postfix(loss=f"{found.get('loss/policy', math.nan):.4f}")
            if session.end_step(step, state, asked=asked, evaluate=evaluate):
                break
    if asked:
        session.say_stopped(asked, step)
    else:
        _finish(session, state)


def _check(
    config: ConfigDict, workdir: str
) -> tuple[Launch, nnx.State, tuple[RolloutBatch, RolloutBatch]]:
    """Everything that can be refused is refused here.

    Returns:
      What the run is launched with, the parameters that it begins with, and the
      demonstrations to train on and to evaluate by.
    """
    folder = pathlib.Path(workdir)
    resolved = check.check_sft(config, num_devices=jax.device_count())
    home = session_lib.check_home(workdir, resolved, session_lib.MAY_CHANGE)
    config = resolved.config
    policy, params = _start(config, folder)
    found = {
        name: assembly.make_demonstrations(config, policy, f"task.{name}")
        for name in ("train", "test")
    }
    tokens = {name: shown.rows for name, shown in found.items()}
    inputs = inputs_lib.of_sft(config, policy, found)
    inputs_lib.check(folder, inputs)
    run = assembly.of_policy(config, policy, likelihood(config.loss.to_dict()))
    facts = opening.of_sft(run, resolved, tokens["train"], tokens["test"])
    facts["devices"] += opening.cut(run.learner)
    launch = Launch(run=run, home=home, inputs=inputs, title="hapo-sft", facts=facts)
    return launch, params, (tokens["train"], tokens["test"])


def _finish(session: Session, state: TrainState) -> None:
    """What a run that has come to its end says and leaves."""
    folder, policy = pathlib.Path(session.workdir) / "hf", session.run.policy
    huggingface.save_params(
        folder,
        state.params,
        policy.config,
        dtype=jnp.float32,
        tokenizer=policy.tokenizer,
        source=policy.source or None,
    )
    if told := session.alarms.summary():
        print(told)
    print(f"wrote {folder}")


_METRICS = ("loss/policy", "grad/norm", "grad/skipped", "learner/learning_rate")
_HELD_OUT = "eval/loss"


def likelihood(loss: Mapping[str, Any]) -> method_lib.Method:
    """Imitation as a method, so that SFT and RL share one update.

    The mean over tokens of a loss of `algo/supervised.py`; no reward is read.

    Args:
      loss: its name and its options.
    """
    return method_lib.make(
        dataclasses.replace(
            settings.Settings(),
            advantage={"name": "ones"},
            token_group=settings.TokenGroup(strength=0.0),
            redistribution=settings.Redistribution(strength=0.0),
            clip=settings.Clip(strength=0.0),
            entropy=settings.Entropy(source="current"),
            surrogate=loss,
        )
    )


def _update(learner: train_step.Learner, state, chosen: RolloutBatch):
    """One update on a batch of demonstrations: the new state, and its tally."""
    record = chosen.record  # not read
    old = head.Scores(logprobs=record.base_logprobs, entropy=record.entropy)
    learnt, _ = learn_lib.prepare(learner, chosen, state.method_state, old)
    minibatch, _ = learn_lib.make_minibatch(learner, learnt, 0)
    return learner.update(state, minibatch)


def _evaluate(
    session: Session, test: RolloutBatch, state: TrainState, step: int
) -> None:
    """Scores the held-out demonstrations, after the step was saved."""
    run = session.run
    with session_lib.side_job(f"the evaluation at step {step}"):
        with session.stop.at_once(f"evaluating step {step}"):
            rows = run.work.batch_rows
            loss = held_out_loss(run.learner, state.params, test, rows)
        session.files.log(step, {_HELD_OUT: loss})


def held_out_loss(
    learner: train_step.Learner, params, test: RolloutBatch, batch_rows: int
) -> float:
    """Mean negative log-prob per token of `test`, nats; every token weighs alike."""
    total = count = 0.0
    for start in range(0, len(test.rewards), batch_rows):
        batch = batch_lib.rows(test, slice(start, start + batch_rows))
        # Empty rows fill the last batch up: one program scores all.
        batch = batch_lib.pad_rows(batch, batch_rows)
        (scores,) = learn_lib.score(learner, [params], batch)
        total -= scores.logprobs[batch.completion_mask].sum()
        count += batch.completion_mask.sum()
    return total / count


def _start(
    config: ConfigDict, folder: pathlib.Path
) -> tuple[policy_lib.Policy, nnx.State]:
    """The policy to fine-tune: of `model.path`, or a new one."""
    if config.model.path:
        policy = assembly.describe(config)
        return policy, policy.load()
    words = tasks.get(config.task.name).words(**config.task.words.to_dict())
    word_tokenizer.write(folder / "tokenizer", words)
    tokenizer = tokenizer_lib.load(folder / "tokenizer")
    model_config = ModelConfig.from_hf(
        {"vocab_size": tokenizer.vocab_size, **config.model.init.to_dict()},
        "model.init",
    )
    mesh = policy_lib.make_mesh(config)
    policy = policy_lib.make(model_config, tokenizer, "", config.model.dtype, mesh)
    assembly.warn_of_prompts(config, policy)

    def init(key):
        model = transformer.Transformer(model_config, rngs=nnx.Rngs(key))
        return nnx.state(model, nnx.Param)

    init = jax.jit(init, out_shardings=policy.train_shardings)
    return policy, init(jax.random.key(config.seed))


def run() -> None:
    """The program `hapo-sft`."""
    cli.run(sft)


if __name__ == "__main__":
    run()
