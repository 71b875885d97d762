"""What a program says before it begins: all that shows that the right thing will run.

One block, a line per matter: what is trained on what, how prompts look, how they are
graded, what a step is, where it runs and where it goes on. `train.py`, `evaluate.py`
and `sft.py` show one each; what departs from the usual are warnings of their own.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from hapo_jax import tasks
from hapo_jax.algo import settings
from hapo_jax.assembly import Run
from hapo_jax.config import check, presets, resolution
from hapo_jax.config.eval_sets import EvalSet
from hapo_jax.learner import train_step
from hapo_jax.model.policy import Policy
from hapo_jax.rollout import memory
from hapo_jax.rollout.batch import RolloutBatch
from hapo_jax.rollout.prompts import PromptSet
from hapo_jax.runs import batches
from hapo_jax.system import distributed

_log = logging.getLogger("hapo_jax")

_PROMPT_SHOWN = (120, 80)  # characters of its beginning and end
_LAST_TOKENS = 8
_LABEL = 14  # columns

Facts = dict[str, str]


def show(title: str, facts: Facts) -> None:
    """Shows the block, in process 0; a fact without words is left out."""
    if distributed.is_first():
        lines = [f"  {name:<{_LABEL}}{words}" for name, words in facts.items() if words]
        _log.info("%s", "\n".join([title, *lines]))


def of_run(
    run: Run,
    resolved: resolution.Resolved,
    given: ConfigDict,
    held_out: Sequence[tuple[EvalSet, PromptSet]],
) -> Facts:
    """The facts of hapo-train.

    Args:
      run: with its problems.
      resolved: its config, and what of it was derived.
      given: the config before that, to be compared with its method.
      held_out: the evaluation's sets, see `sampling.read_sets`.
    """
    policy, prompts = run.policy, run.prompts
    c, r = run.config, run.config.rollout
    data = f"{len(prompts)} problems of {c.task.name}: {_options(c.task.train)}"
    if prompts.num_overlong:
        done = "left out" if r.overlong_prompts == "drop" else "cut"
        data += f"; {prompts.num_overlong} too long ones {done}"
    rounds = f"in rounds of {r.round_prompts} prompts, at most {r.max_rounds}, until "
    rounds += f"{r.batch_prompts} groups have right and wrong ones"
    cuts = {"top-k": (r.top_k, 0), "top-p": (r.top_p, 1), "min-p": (r.min_p, 0)}
    cut = "".join(f", {name} {v:g}" for name, (v, off) in cuts.items() if v != off)
    return {
        "model": _model(policy),
        "prompts": _prompts(c, policy, r.max_prompt_tokens),
        "first prompt": _first(policy, prompts.tokens[0]),
        "data": data,
        "grading": _grading(
            c,
            [
                (c.task.name, c.task.train),
                *((s.task, s.options) for s, _ in held_out),
            ],
        ),
        "method": _method(c, given),
        "step": f"{r.batch_prompts} prompts × {r.group_size} completions "
        f"{_ends(policy, r.max_completion_tokens)}, at temperature "
        f"{r.base_temperature:g}{cut}" + (f", {rounds}" if r.dynamic_sampling else ""),
        "learning": f"{run.work.updates} updates per step, of "
        f"{c.learner.minibatch_prompts} prompts each; {_schedule(c)}"
        if run.work.updates
        else "none (learner.passes=0): the policy stays as it is",
        **_imitated(run),
        "derived": _derived(resolved),
        "evaluation": _evaluation(c, held_out) if held_out else "",
        **_records(run),
        "devices": _devices(policy),
    }


def _records(run: Run) -> Facts:
    """What records of whole batches may take; nothing without them."""
    c, work = run.config, run.work
    if c.log.record_groups != "all":
        return {}
    gib = batches.largest(c, completions=work.batch_rows, phases=run.method.phases)
    return {
        "records": f"all groups of every {c.log.record_every_steps} steps, {gib:.2g} "
        f"GiB at most before compression (limit {c.log.record_gib:g}, log.record_gib)"
    }


def of_evaluation(run: Run, held_out: Sequence[tuple[EvalSet, PromptSet]]) -> Facts:
    """The facts of hapo-eval; see `of_run`."""
    config, policy, r = run.config, run.policy, run.config.rollout
    return {
        "model": _model(policy),
        "prompts": _prompts(config, policy, r.max_prompt_tokens),
        "first prompt": _first(policy, held_out[0][1].tokens[0]),
        "sets": _sets(config, held_out),
        "drawn": f"{_drawn(config)}, {_ends(policy, r.max_completion_tokens)}",
        "grading": _grading(
            config, [(s.task, s.options) for s, _ in held_out], reward=False
        ),
        "devices": _devices(policy),
    }


def of_sft(
    run: Run,
    resolved: resolution.Resolved,
    train: RolloutBatch,
    test: RolloutBatch,
) -> Facts:
    """The facts of hapo-sft.

    Args:
      run, resolved: as in `of_run`.
      train, test: the demonstrations, from `sft.tokenise`.
    """
    c, policy = run.config, run.policy
    every = f"every {c.eval.every_steps} steps and " if c.eval.every_steps else ""
    prompt = train.prompt_tokens[0][-train.prompt_lengths[0] :]
    completion = train.completion_tokens[0][train.completion_mask[0]]
    completion = policy.tokenizer.decode(completion, keep_special=True)
    return {
        "model": _model(policy),
        "prompts": _prompts(c, policy, c.max_prompt_tokens),
        "first prompt": _first(policy, prompt),
        "completed by": f"{_cut(completion)}; at most {c.max_completion_tokens} tokens",
        "data": f"{len(train.rewards)} demonstrations of {c.task.name}: "
        f"{_options(c.task.train)}",
        "learning": f"{_loss(c.loss)}, {c.learner.batch_rows} demonstrations per "
        f"update; {_schedule(c)}",
        "derived": _derived(resolved),
        "evaluation": f"{len(test.rewards)} demonstrations ({_options(c.task.test)}), "
        f"{every}at the end",
        "devices": _devices(policy),
    }


def start(
    workdir: str, saved: Sequence[int], num_steps: int, max_sampled_tokens: int = 0
) -> str:
    """Where a run goes on, for its title.

    Args:
      workdir: the run's folder.
      saved: steps that there are checkpoints of, ascending.
      num_steps, max_sampled_tokens: of the config.
    """
    end = f"{num_steps}"
    if max_sampled_tokens:
        end += f", or until {max_sampled_tokens:,} tokens are sampled"
    if not saved:
        return f"{workdir} is new; steps 1 to {end}"
    return f"{workdir} goes on behind step {saved[-1]}, to step {end}"


def leaks(found: Mapping[str, int]) -> str:
    """What `data_checks.report` has found, for a run's data."""
    return (
        f"; {found['data/overlap'] or 'none'} of {found['data/test_problems']} "
        "evaluation problems among them"
    )


def _model(policy: Policy) -> str:
    number = sum(math.prod(x.shape) for x in jax.tree.leaves(policy.abstract_params))
    units = ((1, ""), (1e3, " k"), (1e6, " M"), (1e9, " B"))
    unit, name = max((unit, name) for unit, name in units if unit <= number)
    return (
        f"{policy.config.model_type}, {number / unit:.3g}{name} parameters, computes "
        f"in {policy.dtype.name}, from {policy.source or 'random weights'}"
    )


def _prompts(config: ConfigDict, policy: Policy, max_tokens: int) -> str:
    mode = policy.tokenizer.prompt_mode(config.task.chat_template)
    text = f"{'by the chat template' if mode.chat else 'plain text'} ({mode.why})"
    if config.task.template_options:
        text += f" with {_pairs(config.task.template_options)}"
    if config.task.system_prompt:
        text += f", system prompt {_cut(config.task.system_prompt)}"
    return f"{text}, at most {max_tokens} tokens"


def _first(policy: Policy, tokens: np.ndarray) -> str:
    """A prompt as the policy gets it, and its last tokens one by one."""
    tokenizer = policy.tokenizer
    last = " ".join(map(repr, tokenizer.pieces(tokens[-_LAST_TOKENS:])))
    text = tokenizer.decode(tokens, keep_special=True)
    return f"{_cut(text)}; its last tokens: {last}"


def _ends(policy: Policy, max_tokens: int) -> str:
    """How a completion ends."""
    stops = map(repr, policy.tokenizer.pieces(policy.tokenizer.stop_ids))
    return f"until {' or '.join(stops)} or {max_tokens} tokens"


def _grading(
    config: ConfigDict,
    sets: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    reward: bool = True,
) -> str:
    """By which tasks, (name, options) each, and how rewards follow."""
    ways = [name + _way(name, options) for name, options in sets]
    parts, w = [", ".join(dict.fromkeys(ways))], config.reward
    if reward:
        parts.append(f"reward {w.correct:g} if right, {w.wrong:g} if wrong")
        if w.format_weight:
            parts.append(f"{w.format_weight:g} for an answer that can be read")
        if w.overlong_buffer_tokens:
            parts.append(
                f"up to -{w.overlong_factor:g} over the last "
                f"{w.overlong_buffer_tokens} tokens"
            )
    parts.append(f"at most {config.grading.timeout_s:g} s each")
    names = dict.fromkeys(name for name, _ in sets)
    confined = [getattr(tasks.get(name), "confinement", None) for name in names]
    parts += [words().rstrip(".") for words in confined if words]
    return "; ".join(parts)


def _way(task: str, options: Mapping[str, Any]) -> str:
    """By which of a task's gradings, where it has several."""
    known = check.options_of(tasks.get(task).problems).get("grading")
    return f" ({options.get('grading', known.default)})" if known else ""


def _method(config: ConfigDict, given: ConfigDict) -> str:
    a = config.algo
    text = (
        f"{config.method} (advantage {a.advantage.name}, strengths "
        f"A {a.temperature.strength:g}, B {a.token_group.strength:g}, "
        f"C {a.redistribution.strength:g}, D {a.clip.strength:g}, "
        f"clip {a.clip.low:g} / {a.clip.high:g}, {a.aggregation.name}"
    )
    for name, default in settings.defaults().items():  # stages of other methods
        own = ("advantage", "aggregation")
        if name in settings.STAGES and name not in own and a[name].to_dict() != default:
            text += f", {name} {a[name].name}"
    text += f", KL {a.kl.strength:g})" if a.kl.strength else ")"
    if changed := presets.departures(given):
        pairs = (f"{k}={v!r} (not {own!r})" for k, (v, own) in changed.items())
        text += f" with {', '.join(pairs)}"
    return text


def _imitated(run: Run) -> Facts:
    """The demonstrations beside a rollout, if there are any."""
    if run.demonstrations is None:
        return {}
    c, shown = run.config, run.config.algo.demonstrations
    falls = f", {shown.schedule} to {shown.final_weight:g}"
    falls += f" in step {shown.decay_steps + 1}"
    return {
        "imitated": f"{run.work.shown_rows} of "
        f"{len(run.demonstrations.rows.rewards)} demonstrations "
        f"({_options(c.task.demonstrations)}) beside each update, by "
        f"{c.algo.imitation.name}, weight {shown.weight:g}"
        + (falls if shown.schedule != "constant" else "")
    }


def _loss(loss: ConfigDict) -> str:
    """Of a supervised run."""
    if loss.name == "uniform":
        return "maximum likelihood"
    options = {name: value for name, value in loss.items() if name != "name"}
    return f"likelihood, tokens weighted by {loss.name} {options or ''}".rstrip()


def _schedule(config: ConfigDict) -> str:
    o = config.learner
    text = f"learning rate {o.learning_rate:g}"
    if o.warmup_steps:
        text += f" after {o.warmup_steps} steps of warm-up"
    if o.schedule != "constant":
        text += (
            f", {o.schedule} to {o.final_share * o.learning_rate:g} in step "
            f"{o.warmup_steps + o.decay_steps}"
        )
    return (
        f"{text}; weight decay {o.weight_decay:g}, gradients up to {o.max_grad_norm:g}"
    )


def _derived(resolved: resolution.Resolved) -> str:
    return ", ".join(f"{d.key}={d.value} ({d.rule})" for d in resolved.derived)


def _evaluation(
    config: ConfigDict, held_out: Sequence[tuple[EvalSet, PromptSet]]
) -> str:
    o = config.eval
    when = ["at the start"] * o.at_start
    when += [f"every {o.every_steps} steps"] * bool(o.every_steps)
    times = " and ".join([", ".join(when), "at the end"] if when else ["at the end"])
    return f"{_sets(config, held_out)}; {_drawn(config)}; {times}"


def _sets(config: ConfigDict, held_out: Sequence[tuple[EvalSet, PromptSet]]) -> str:
    most = config.eval.num_problems
    return ", ".join(
        f"{s.name} ({min(most or len(p), len(p))} of {len(p)} problems)"
        for s, p in held_out
    )


def _drawn(config: ConfigDict) -> str:
    o = config.eval
    top_p = f", top-p {o.top_p:g}" if o.top_p != 1 else ""
    greedy = " and a greedy one" if o.greedy else ""
    return f"{o.k} completions each at temperature {o.temperature:g}{top_p}{greedy}"


def _devices(policy: Policy) -> str:
    first, mesh = jax.devices()[0], policy.mesh.shape
    text = f"{jax.device_count()} x {first.device_kind} ({first.platform})"
    if jax.device_count() > 1:
        text += f", mesh {_pairs(mesh)}"
    if jax.process_count() > 1:
        text += f", {jax.process_count()} processes"
    return text


def cut(learner: train_step.Learner) -> str:
    """Behind the devices: how the learner's work is cut to fit them."""
    layout = learner.layout
    return (
        f", {memory.device_bytes() / 2**30:.1f} GiB each: micro-batches of "
        f"{layout.micro_rows} rows of {layout.width} tokens, remat {learner.remat}, "
        f"logits of {learner.width} tokens per device at a time"
    )


def _options(options: ConfigDict) -> str:
    """A task's options; templates show in the first prompt."""
    return _pairs({k: v for k, v in options.items() if k != "prompt_template"})


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in values.items() if v not in ("", None))


def _cut(text: str) -> str:
    """In quotes, cut in the middle."""
    head, tail = _PROMPT_SHOWN
    if len(text) <= head + tail:
        return repr(text)
    return f"{text[:head]!r} … {text[-tail:]!r}"
