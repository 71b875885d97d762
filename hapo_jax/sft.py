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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import nnx
from ml_collections import ConfigDict

from hapo_jax import assembly, cli, opening, tasks
from hapo_jax.algo import method as method_lib
from hapo_jax.algo import settings
from hapo_jax.config import check
from hapo_jax.learner import head, metrics, perf, train_step
from hapo_jax.learner import learn as learn_lib
from hapo_jax.learner import state as state_lib
from hapo_jax.model import huggingface, transformer, word_tokenizer
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import batch as batch_lib
from hapo_jax.rollout import prompts
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.runs import alarms
from hapo_jax.runs import folder as run_folder
from hapo_jax.runs import inputs as run_inputs
from hapo_jax.runs import records as run_records
from hapo_jax.runs.checkpoint import Checkpoints
from hapo_jax.system import interrupt, lock, watchdog
from hapo_jax.system.errors import Refused
from hapo_jax.tasks.problems import Demonstration

# A resumed run may set these anew: they do not change what its numbers mean.
MAY_CHANGE = (
    "num_steps",
    "mesh",
    "log",
    "checkpoint",
    "eval",
    *cli.CUTS,
)


def sft(config: ConfigDict, workdir: str) -> None:
    """Fine-tunes and exports; resumes if `workdir` has a checkpoint.

    Raises:
      Refused: the config, the model or the demonstrations cannot be used.
    """
    folder = pathlib.Path(workdir)
    resolved = check.check_sft(config, num_devices=jax.device_count())
    may_change = run_inputs.may_change(folder, MAY_CHANGE)
    run_folder.check_config(folder, resolved, may_change=may_change)
    cli.warn(resolved.config)
    config = resolved.config
    policy, params = _start(config, folder)
    opening.warn_of_prompts(config, policy)
    task, options = tasks.get(config.task.name), config.learner
    shown = {
        name: task.demonstrations(**config.task[name].to_dict())
        for name in ("train", "test")
    }
    tokens = {
        name: tokenise(found, config, policy, f"task.{name}")
        for name, found in shown.items()
    }
    train, test = tokens["train"], tokens["test"]
    inputs = run_inputs.of_sft(config, policy, shown, tokens)
    run_inputs.check(folder, inputs)
    optimizer = assembly.make_optimizer(config)
    method = likelihood(config.loss.to_dict())
    abstract = state_lib.abstract(policy, optimizer, method)
    learner = assembly.make_learner(
        options,
        policy,
        method,
        optimizer,
        longest=config.max_prompt_tokens + config.max_completion_tokens,
        minibatch_rows=options.batch_rows,
        recompute_old_logprobs=False,
        base_temperature=1.0,
    )
    with (
        lock.hold(folder),
        jax.set_mesh(policy.mesh),
        Checkpoints(
            str(folder / "checkpoints"), keep_latest=config.checkpoint.keep_latest
        ) as checkpoints,
        interrupt.Interrupt() as stop,
        watchdog.Watchdog(config.log.watchdog_s) as watch,
    ):
        stop.last = checkpoints.wait
        start = opening.start(workdir, checkpoints.steps(), config.num_steps)
        facts = opening.of_sft(resolved, policy, train, test)
        facts["devices"] += opening.cut(learner)
        opening.show(f"hapo-sft: {start}", facts)
        with stop.at_once("starting"):
            restored = checkpoints.restore_latest(state_lib.to_saved(abstract))
            first = restored.step if restored else 0
            state = (
                state_lib.from_saved(restored.state, abstract.frozen)
                if restored
                else state_lib.place(params, optimizer, method, abstract)
            )
        with run_folder.RunFolder(
            workdir,
            resolved,
            resume_step=restored and first,
            may_change=may_change,
            devices=cli.devices(),
            inputs=run_inputs.digest(inputs),
            give_up=lambda: stop.requested is not None,
        ) as run:
            run_inputs.note(folder, inputs, resumed=restored is not None)
            watched = alarms.Alarms(
                alarms.facts(config, policy),
                run_records.read_metrics(folder),
                every_steps=config.log.every_steps,
            )
            evaluate = functools.partial(
                _evaluate, learner, test, options.batch_rows, run, stop
            )
            if first and _is_evaluated(config, first) and not run.has(first, _HELD_OUT):
                evaluate(state.params, first)
            steps = tqdm.trange(
                first + 1,
                config.num_steps + 1,
                initial=first,
                total=config.num_steps,
                desc="sft",
                dynamic_ncols=True,
            )
            asked_to_stop = None
            for step in steps:
                index = prompts.take(
                    len(train.rewards),
                    config.seed,
                    (step - 1) * options.batch_rows,
                    options.batch_rows,
                )
                with contextlib.ExitStack() as urgent:
                    if step == first + 1:  # it compiles, and all before it is saved
                        urgent.enter_context(stop.at_once("in its first step"))
                    state, tally = _update(learner, state, batch_lib.rows(train, index))
                asked_to_stop = stop.requested
                evaluated = _is_evaluated(config, step)
                last = step == config.num_steps or asked_to_stop is not None
                if last or step % config.log.every_steps == 0:
                    cli.stop_if_diverged(state, step, options.max_skipped)
                    found = metrics.of_updates([jax.device_get(tally)])
                    kept = {k: found[k] for k in _METRICS if k in found}
                    kept |= perf.cuts(learner)
                    run.log(step, kept | watched.see(step, found))
                    steps.set_postfix(loss=f"{found.get('loss/policy', math.nan):.4f}")
                watch.beat()
                if last or evaluated or step % config.checkpoint.every_steps == 0:
                    cli.check_finite(state, step)
                    save = checkpoints.save
                    if last:
                        save = functools.partial(
                            checkpoints.save_surely,
                            give_up=lambda: stop.requested is not None,
                        )
                    save(step, state_lib.to_saved(state))
                if evaluated and not asked_to_stop:  # or else when the run goes on
                    evaluate(state.params, step)
                if last:
                    break
    if asked_to_stop:
        cli.say_stopped(asked_to_stop, step, workdir)
        return
    huggingface.save_params(
        folder / "hf",
        state.params,
        policy.config,
        dtype=jnp.float32,
        tokenizer=policy.tokenizer,
        source=config.model.path or None,
    )
    if told := watched.summary():
        print(told)
    print(f"wrote {folder / 'hf'}")


_METRICS = ("loss/policy", "grad/norm", "grad/skipped", "learner/learning_rate")
_HELD_OUT = "eval/loss"


def _is_evaluated(config: ConfigDict, step: int) -> bool:
    """Whether the policy after this step is evaluated."""
    every = config.eval.every_steps
    return step == config.num_steps or bool(every and step % every == 0)


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


def _evaluate(learner, test, batch_rows, run, stop, params, step: int) -> None:
    """Scores the held-out demonstrations, after the step was saved."""
    with cli.side_job(f"the evaluation at step {step}"):
        with stop.at_once(f"evaluating step {step}"):
            loss = held_out_loss(learner, params, test, batch_rows)
        run.log(step, {_HELD_OUT: loss})


def tokenise(
    demonstrations: Sequence[Demonstration],
    config: ConfigDict,
    policy: policy_lib.Policy,
    section: str = "task.train",
) -> RolloutBatch:
    """Demonstrations as a batch of completions, with zeros where nothing was sampled.

    Args:
      demonstrations: at least one.
      config, policy: of the run.
      section: of the config, where they come from, for messages.

    Raises:
      Refused: a prompt or completion is longer than the config allows, or a
        completion contains a word that the tokenizer does not know.
    """
    tokenizer, encode_prompt = policy.tokenizer, assembly.prompt_encoder(config, policy)
    P, T = config.max_prompt_tokens, config.max_completion_tokens
    n = len(demonstrations)
    if not n:
        raise Refused("there are no demonstrations; see task.train and task.test.")
    prompt_tokens = np.full((n, P), tokenizer.pad_id, np.int32)
    completion_tokens = np.full((n, T), tokenizer.pad_id, np.int32)
    prompt_lengths, lengths = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for i, example in enumerate(demonstrations):
        try:
            prompt = encode_prompt(example.prompt)
            completion = [*tokenizer.encode(example.completion), tokenizer.stop_ids[0]]
        except Refused as error:
            raise Refused(f"demonstration {i + 1} of {section}: {error}") from error
        if len(prompt) > P or len(completion) > T:
            raise Refused(
                f"demonstration {i + 1} of {section} has {len(prompt)} prompt and "
                f"{len(completion)} completion tokens, and max_prompt_tokens={P}, "
                f"max_completion_tokens={T}; raise them or shorten the data."
            )
        prompt_lengths[i], lengths[i] = len(prompt), len(completion)
        prompt_tokens[i, P - len(prompt) :] = prompt
        completion_tokens[i, : len(completion)] = completion
    unknown = tokenizer.backend.unk_token_id
    if unknown is not None and (completion_tokens == unknown).any():
        i = int((completion_tokens == unknown).any(1).argmax())
        raise Refused(
            f"demonstration {i + 1} of {section} has a word outside the vocabulary: "
            f"{demonstrations[i].completion!r}; add it to the tokenizer (task.words)."
        )
    return RolloutBatch.of_tokens(
        prompt_tokens=prompt_tokens,
        prompt_lengths=prompt_lengths,
        completion_tokens=completion_tokens,
        completion_mask=np.arange(T)[None] < lengths[:, None],
    )


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
    mesh = policy_lib.make_mesh(config)
    if config.model.path:
        policy = assembly.describe(config, mesh)
        return policy, policy.load()
    words = tasks.get(config.task.name).words(**config.task.words.to_dict())
    word_tokenizer.write(folder / "tokenizer", words)
    tokenizer = tokenizer_lib.load(folder / "tokenizer")
    model_config = ModelConfig.from_hf(
        {"vocab_size": tokenizer.vocab_size, **config.model.init.to_dict()},
        "model.init",
    )
    policy = policy_lib.make(model_config, tokenizer, "", config.model.dtype, mesh)

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
