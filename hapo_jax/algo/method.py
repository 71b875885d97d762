"""A method: its stages, put together once from settings, and run in two places.

    before the policy is run   Rows ─► advantage, score, weight, …        ─► constants
    at every token             ratio ─► clip range ─► shaping ─► selection ─► surrogate
                               ─► weight ─► mask ─► regularisers          ─► loss

`make` picks the stages; nothing here asks for the name of a method. HAPO with all
strengths at zero is DAPO; DAPO with a symmetric clip and a mean per completion is GRPO.

What the learner may leave out follows from what the stages declare (`stages.py`). A
stage that needs whole completions runs before the policy, over the whole batch, if it
reads only what is known by then. If one is left that reads the current policy, the
whole method is `by_rows`: the learner brings its tokens back into rows. Any other
method gives the same loss from any tokens in any order.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hapo_jax.algo import (
    advantages,
    critics,
    entropy,
    importance,
    kl,
    masked,
    methods,
    phases,
    stages,
    supervised,
    temperature,
)
from hapo_jax.algo.settings import Demonstrations, Settings
from hapo_jax.system.errors import Refused

Array = jax.Array
# Numbers per token by name, see `stages.NAMES`; [B, T] each, or any tokens in any
# arrangement of two axes.
Values = Mapping[str, Array]

# What the loss of every method may look at, for its metrics if for nothing else.
_ALWAYS = ("mask", "old_logprobs", "old_entropy", "behavior_logprobs")
# Known only once the policy, or a stage that reads it, is run.
_CURRENT = frozenset(
    {"logprobs", "current_entropy", "rank", "ratio", "clip_low", "clip_high"}
    | {"selected", "values"}
)
_DIFFERENTIABLE = ("logprobs", "current_entropy")
# Of the old policy, from the learner's scoring alone.
_NOT_RECORDED = frozenset({"old_square_sum", "old_cut_logprobs"})
# There with a critic alone, and what it may read.
_OF_CRITIC = frozenset({"old_values", "returns", "values"})
_CRITIC_READS = _OF_CRITIC | {"mask", "correct", "group_accuracy"}
# What is known of a token that is imitated, beside the current entropy.
_SHOWN = ("logprobs", "rank")
# What a stage gives to those behind it, by the attribute of `_Stages` that it is, in
# the order in which they run.
_GIVES = {
    "weight": ("weight",),
    "clip_range": ("clip_low", "clip_high"),
    "shaping": ("advantages",),
    "selection": ("selected",),
    "mask": ("kept", "counted"),
}


class Rows(NamedTuple):
    """What is known of a batch before the policy is run. Padding may hold anything.

    Attributes:
      mask: [B, T] bool, True on the tokens of the completion.
      old_logprobs, old_entropy: [B, T] float32, nats; policy before the updates.
      behavior_logprobs: [B, T] float32, nats; under the distribution drawn from.
      reference_logprobs: [B, T] float32, nats; None unless the method reads it.
      rewards: [B] float32, score plus penalties.
      scores: [B] float32, what the verifier said; 1 is correct.
      group_ids: [B] int32 in [0, B), equal for the completions of a prompt.
      prompt_ids: [B] int32, which of the training problems it answers.
      old_square_sum, old_cut_logprobs: [B, T] float32, see `stages.NAMES`; None unless
        the method reads it.
      old_values: [B, T] float32, of the critic before the updates; None without one.
      baselines: [B] float32, reward of the prompt's greedy completion; None if none is
        drawn.
      beside: [B] bool, imitated beside the batch, see `_own`; None if there are none.
      forks: [B, T] bool, choices by the task's `labels`; None unless the method reads
        it.
    """

    mask: Array
    old_logprobs: Array
    old_entropy: Array
    behavior_logprobs: Array
    reference_logprobs: Array | None
    rewards: Array
    scores: Array
    group_ids: Array
    prompt_ids: Array
    old_square_sum: Array | None = None
    old_cut_logprobs: Array | None = None
    old_values: Array | None = None
    baselines: Array | None = None
    beside: Array | None = None
    forks: Array | None = None


class Terms(NamedTuple):
    """The loss before aggregation and what led to it; [B, T] each.

    Attributes:
      loss: float32, differentiable, 0 outside the mask.
      counted: bool, the tokens that count in the denominator.
      ratio: float32, importance ratio of current over old policy.
      base_advantages: float32, before shaping.
      advantages: float32, after shaping.
      clip_low, clip_high: float32, widths of the clip range below and above 1.
      clipped_low, clipped_high, dual_clipped: bool, which bound acted.
      score: float32 entropy score in [-1, 1]; all 0 where no stage reads it.
      weight: float32, importance weight on the surrogate; 1 where there is none.
    """

    loss: Array
    counted: Array
    ratio: Array
    base_advantages: Array
    advantages: Array
    clip_low: Array
    clip_high: Array
    clipped_low: Array
    clipped_high: Array
    dual_clipped: Array
    score: Array
    weight: Array


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of reinforcement learning. All functions are pure.

    Attributes:
      temperature: (entropy, state, base_temperature) -> sampling temperature, float32
        of the shape of entropy (nats); None for the base temperature everywhere.
      init_state: () -> the method's state before the first step, a pytree.
      update_state: (Rows, state) -> its state for this step's updates and the next
        rollout; as it was if the mask is empty.
      constants: (Rows, state) -> Values [B, T], all that `terms` reads beside the
        current policy. No gradient flows into them. A third argument takes the place of
        the advantages.
      terms: (current, constants, state) -> Terms; `current` holds `logprobs`, and
        those of `outputs`. Only `logprobs` has a gradient, and `entropy` if the method
        `differentiates_entropy`.
      value_loss: (values, constants) -> `critics.ValueLoss`, of the current critic,
        in any arrangement of tokens; None without a critic.
      aggregate: (counted) -> (weights, denominator), see `losses.py`.
      reads: names of `stages.NAMES` that some stage reads.
      outputs: what `terms` reads of the current policy beside log-probs; names of
        `head.Scores`.
      old_outputs: what is read of the old policy that the sampler does not record;
        names of `head.Scores`, and `old_` before them is the field of Rows.
      cut_share: of `old_cut_logprobs`.
      ratio_of: the distribution that all log-probs are of; of `settings.RATIOS_OF`.
      by_rows: `terms` and `aggregate` need whole completions. Otherwise they need no
        token but their own.
      across_rows: and all of a mini-batch together, so that how it is cut into
        micro-batches changes the loss.
      silent_at_zero: a completion whose advantages are 0 has loss 0 and gradient 0.
      silent_at_equal_rewards: a group whose rewards are equal has advantages of 0.
      imitation_weight: (state) -> w, how much demonstrations weigh beside the rollout,
        see `aggregation`; None without demonstrations.
      phases: passes of updates that each pass over a batch is made of. With two,
        `constants` holds `waits`, bool: the tokens of the second; each takes the loss
        of its tokens alone.
    """

    temperature: Callable[..., Array] | None
    init_state: Callable[[], Any]
    update_state: Callable[[Rows, Any], Any]
    constants: Callable[[Rows, Any], dict[str, Array]]
    terms: Callable[[Values, Values, Any], Terms]
    value_loss: Callable[[Array, Values], critics.ValueLoss] | None
    aggregate: Callable[[Array], tuple[Array, Array]]
    reads: frozenset[str]
    outputs: frozenset[str]
    old_outputs: frozenset[str]
    cut_share: float
    ratio_of: str
    by_rows: bool
    across_rows: bool
    silent_at_zero: bool
    silent_at_equal_rewards: bool
    imitation_weight: Callable[[Any], Array] | None
    phases: int

    @property
    def needs_reference(self) -> bool:
        """Whether the learner must score with the reference policy."""
        return "reference_logprobs" in self.reads

    @property
    def reads_forks(self) -> bool:
        """Whether the task must say which tokens were choices."""
        return "forks" in self.reads

    @property
    def differentiates_entropy(self) -> bool:
        """Whether the loss has a gradient through the entropy of the current policy."""
        return "current_entropy" in self.reads

    @property
    def has_critic(self) -> bool:
        """Whether a value head is learnt beside the policy."""
        return self.value_loss is not None


class _Stages(NamedTuple):
    """The stages of a method, in the order in which they run."""

    advantage: stages.Stage
    weight: stages.Stage | None
    ratio: stages.Stage
    clip_range: stages.Stage
    shaping: stages.Stage
    selection: stages.Stage
    surrogate: stages.Stage
    mask: stages.Stage
    kl: stages.Stage | None
    regulariser: stages.Stage
    aggregation: stages.Stage
    critic: stages.Stage | None
    returns: stages.Stage | None
    imitation: stages.Stage
    phases: stages.Stage | None


class _Score(NamedTuple):
    """How entropies become scores."""

    fit: Callable[..., entropy.EntropyStats]
    score: Callable[..., Array]
    micro: bool  # statistics of the tokens at hand
    control: str  # see `settings.Entropy`
    floor: float  # nats


def make(settings: Settings, *, seed: int = 0, num_prompts: int = 1) -> Method:
    """Puts a method together.

    Args:
      settings: see there.
      seed: of the run, for stages that draw random numbers.
      num_prompts: training problems, for stages that keep a state for each.

    Raises:
      Refused: a stage does not exist, has no such option, or reads what it cannot
        have; names key, value, rule and remedy.
    """
    chosen = _choose(settings, num_prompts)
    present = {n: s for n, s in chosen._asdict().items() if s is not None}
    source, micro = settings.entropy.source, settings.entropy.scope == "micro"
    reads = frozenset(name for stage in present.values() for name in stage.reads)
    # The entropy and the score of this step's first policy are known beforehand.
    known = frozenset(stages.NAMES) - _CURRENT
    if source == "current":
        known -= {"entropy", "source_logprobs", "score"}
    if micro:
        known -= {"score"}
    early = _early(present, known)
    beforehand = (*early, "advantage", "returns", "phases")
    late = [s for n, s in present.items() if n not in beforehand]
    _check_critic(chosen, present)
    for stage in late:
        if wrong := [n for n in stage.reads if n in stages.PER_COMPLETION]:
            raise Refused(
                f"{stage.key} reads {wrong[0]}, one number per completion, and runs "
                f"with the policy, because it also reads "
                f"{', '.join(n for n in stage.reads if n not in known)}; let it read "
                "advantages, or compute what it needs in another stage."
            )
    if ("selected" in reads) != (settings.selection["name"] != "none"):
        raise Refused(
            f"algo.selection.name={settings.selection['name']!r} must be another than "
            f"'none' just if a stage reads `selected`, and "
            f"{'one does' if 'selected' in reads else 'none does'}; change it, or the "
            f"stage, which is algo.surrogate or algo.regulariser."
        )
    read_late = frozenset(name for stage in late for name in stage.reads)
    of_entropy = {"entropy", "score"} if source == "current" else set()
    outputs = reads & {"rank"}
    if reads & {"current_entropy", *of_entropy} or "entropy" in chosen.imitation.reads:
        outputs |= {"entropy"}
    score = _Score(
        functools.partial(
            entropy.fit,
            quantile=settings.entropy.quantile,
            floor=settings.entropy.floor,
            spread=settings.entropy.spread,
        ),
        functools.partial(
            entropy.score,
            floor=settings.entropy.floor,
            low_sign=settings.entropy.low_sign,
        ),
        micro,
        settings.entropy.control,
        settings.entropy.floor,
    )
    by_rows = micro and "score" in reads
    by_rows = by_rows or any(stage.declared.by_rows for stage in late)
    if chosen.phases is not None:
        _check_phases(settings, chosen.phases, known, by_rows)
    shown = settings.demonstrations
    if shown.share and by_rows:
        raise Refused(
            f"algo.demonstrations.share={shown.share} adds a mean over demonstrations "
            "to that over a mini-batch, whose tokens this method counts only as it "
            "learns; set algo.entropy.source to 'old' and algo.entropy.scope to "
            "'batch', or the share to 0."
        )
    stateful = tuple(n for n, s in present.items() if s.declared.init is not None)
    # What is counted from step to step.
    draws = "random" in reads or settings.entropy.control == "shuffled"
    counts = ("draws",) if draws else ()
    if shown.share and shown.schedule != "constant":
        counts += ("steps",)
    return Method(
        temperature=_temperature(settings),
        init_state=functools.partial(_init_state, present, stateful, counts),
        update_state=functools.partial(_update_state, present, stateful, score),
        constants=functools.partial(
            _constants, chosen, early, score, "score" in reads & known, read_late, seed
        ),
        value_loss=chosen.critic and functools.partial(_value_loss, chosen.critic),
        terms=functools.partial(
            _terms, chosen, early, score, source, "score" in reads, outputs
        ),
        aggregate=lambda counted: chosen.aggregation({"mask": counted}),
        reads=reads,
        outputs=outputs,
        old_outputs=frozenset(
            name.removeprefix("old_") for name in reads & _NOT_RECORDED
        ),
        cut_share=settings.cut_share,
        ratio_of=settings.ratio_of,
        by_rows=by_rows,
        across_rows=(micro and "score" in reads)
        or any(stage.declared.across_rows for stage in late),
        silent_at_zero=all(
            s.declared.silent_at_zero
            for n, s in present.items()
            if n not in ("advantage", "imitation")
        ),
        silent_at_equal_rewards=chosen.advantage.declared.silent_at_zero,
        imitation_weight=functools.partial(_imitation_weight, shown)
        if shown.share
        else None,
        phases=phases.number(settings.phases["name"]),
    )


def _check_phases(
    settings: Settings, stage: stages.Stage, known: frozenset[str], by_rows: bool
) -> None:
    """Raises Refused unless it can be known beforehand which tokens a pass is of."""
    said = f"algo.phases.name={settings.phases['name']!r}"
    wrong = [name for name in stage.reads if name not in known]
    if wrong:
        raise Refused(
            f"{said} reads {wrong[0]}, and a token's pass is "
            "chosen before the policy is run; let it read what is known by then."
        )
    if by_rows:
        raise Refused(
            f"{said} takes the tokens of a completion apart, "
            "and another stage of this method reads the current policy at whole "
            "completions; set it to 'one', or algo.entropy.source to 'old' and "
            "algo.entropy.scope to 'batch'."
        )


def _choose(s: Settings, num_prompts: int) -> _Stages:
    """The stage that each section of the settings asks for."""
    # A strength of 0 leaves the stage out, and with it all that only it reads.
    reshape, clip_range = dict(s.shaping), dict(s.clip_range)
    if reshape["name"] == "redistribute" and not s.redistribution.strength:
        reshape["name"] = "none"
    if clip_range["name"] == "by_score" and not s.clip.strength:
        clip_range["name"] = "plain"

    def bind(name: str, choice: Mapping[str, Any], **given) -> stages.Stage:
        key = f"algo.{name}"
        return stages.bind(key, methods.TABLES[key], choice, **given)

    critic = bind("critic", s.critic)
    return _Stages(
        advantage=_advantage(s, num_prompts),
        weight=_weight(s),
        ratio=bind("ratio", s.ratio, limit=s.clip.log_ratio or math.inf),
        clip_range=bind(
            "clip_range",
            clip_range,
            low=s.clip.low,
            high=s.clip.high,
            strength=s.clip.strength,
        ),
        shaping=bind(
            "shaping",
            reshape,
            strength=s.redistribution.strength,
            zone=(s.clip.low, s.clip.high) if s.redistribution.zone == "base" else None,
            dual=s.clip.dual,
        ),
        selection=bind("selection", s.selection),
        surrogate=bind("surrogate", s.surrogate, dual=s.clip.dual),
        mask=bind("mask", s.mask, dual=s.clip.dual),
        kl=stages.only("algo.kl", kl.term, **dataclasses.asdict(s.kl))
        if s.kl.strength
        else None,
        regulariser=bind("regulariser", s.regulariser),
        aggregation=bind("aggregation", s.aggregation),
        critic=critic if (has_critic := s.critic["name"] != "none") else None,
        returns=_returns(s) if has_critic else None,
        imitation=_imitation(s, bind("imitation", s.imitation)),
        phases=bind("phases", s.phases) if s.phases["name"] != "one" else None,
    )


def _advantage(s: Settings, num_prompts: int) -> stages.Stage:
    """Base advantage, token-level group average, or a blend of the two."""
    base = stages.bind(
        "algo.advantage",
        methods.TABLES["algo.advantage"],
        s.advantage,
        singleton=s.singleton,
        num_prompts=num_prompts,
    )
    token_group = stages.only(
        "algo.token_group",
        advantages.hapo_token_group,
        fallback=s.advantage_fallback,
        singleton=s.singleton,
        scale_by_std=s.token_group.scale_by_std,
    )
    strength = s.token_group.strength
    if strength in (0, 1):
        return token_group if strength else base
    reads = tuple(dict.fromkeys((*base.reads, *token_group.reads)))

    def blend(*numbers):
        values = dict(zip(reads, numbers, strict=True))
        return (1 - strength) * base(values) + strength * token_group(values)

    return stages.Stage("algo.advantage", blend, reads, base.declared)


def _imitation(s: Settings, chosen: stages.Stage) -> stages.Stage:
    """Of a token beside the batch: as chosen for demonstrations, else REINFORCE."""
    known = {"logprobs", "entropy", "rank", "mask"}
    if wrong := [name for name in chosen.reads if name not in known]:
        raise Refused(
            f"algo.imitation reads {wrong[0]}, and of a demonstration there are "
            f"{', '.join(sorted(known))}; let it do without."
        )
    if s.demonstrations.share:
        return chosen
    return stages.only("algo.imitation", supervised.uniform)


def _returns(s: Settings) -> stages.Stage:
    """Of the discounts that the advantage has, if it has any."""
    discounts = {name: s.advantage.get(name, 1.0) for name in ("gamma", "lam")}
    return stages.only("algo.critic", critics.returns, **discounts)


def _check_critic(chosen: _Stages, present: Mapping[str, stages.Stage]) -> None:
    """Refuses stages that read what a critic alone gives, and a critic that reads more
    than it has."""
    for name, stage in present.items():
        read = [n for n in stage.reads if n in _OF_CRITIC]
        if read and chosen.critic is None:
            raise Refused(
                f"{stage.key} reads {read[0]}, which only a critic gives, and "
                "algo.critic.name='none'; set algo.critic.name='value_head'."
            )
        if name == "critic":
            if wrong := [n for n in stage.reads if n not in _CRITIC_READS]:
                raise Refused(
                    f"{stage.key} reads {wrong[0]}, and a critic can read "
                    f"{', '.join(sorted(_CRITIC_READS))}; let it do without."
                )
        elif "values" in read:
            raise Refused(
                f"{stage.key} reads values, and they are for algo.critic alone; let it "
                "read old_values."
            )


def _weight(s: Settings) -> stages.Stage | None:
    """Importance weights of sampler against learner."""
    if s.importance.mode == "none":
        return None
    icepop = s.importance.mode == "icepop"
    return stages.only(
        "algo.importance",
        importance.weights,
        level="token" if icepop else s.importance.mode,
        outside="zero" if icepop else "clip",
        floor=s.importance.floor,
        cap=s.importance.cap,
        normalize=s.importance.normalize,
    )


def _temperature(s: Settings) -> Callable[..., Array] | None:
    """Of the sampler, by the state of the last step."""
    if not s.temperature.strength or s.entropy.control != "none":
        return None
    adaptive = functools.partial(
        temperature.adaptive,
        **dataclasses.asdict(s.temperature),
        floor=s.entropy.floor,
        low_sign=s.entropy.low_sign,
    )
    return lambda nats, state, base_temperature: adaptive(
        nats, state["entropy"], base_temperature=base_temperature
    )


def _early(present: dict[str, stages.Stage], known: frozenset[str]) -> tuple[str, ...]:
    """The stages that run before the policy, in their order: those that can and have
    to, or that give what such a stage behind them reads."""
    possible = []
    for name, gives in _GIVES.items():
        if name in present and frozenset(present[name].reads) <= known:
            possible.append(name)
            known |= set(gives)
        else:
            known -= set(gives)
    early, needed = [], set()
    for name in reversed(possible):
        stage, reads = present[name], set(present[name].reads)
        has_to = stage.declared.by_rows or stages.PER_COMPLETION & reads
        if has_to or needed.intersection(_GIVES[name]):
            early.insert(0, name)
            needed |= reads
    return tuple(early)


# --- before the policy is run ---------------------------------------------------------


def _init_state(present, stateful, counts: tuple[str, ...]) -> dict[str, Any]:
    """The statistics of the entropies, the state of each stage that keeps one, and
    counts: of times that random numbers were drawn, of steps."""
    own = {name: present[name].declared.init() for name in stateful}
    own |= dict.fromkeys(counts, jnp.int32(0))
    return {"entropy": entropy.initial_stats(), **own}


def _update_state(present, stateful, score: _Score, rows: Rows, state):
    """Statistics of the step, and what stages make of it."""
    rows = _own(rows)
    stats = score.fit(rows.old_entropy, rows.mask, previous=state["entropy"])
    values = _before(rows)
    own = {
        name: jax.tree.map(
            lambda new, old: jnp.where(rows.mask.any(), new, old),
            present[name].declared.update(values, state[name]),
            state[name],
        )
        for name in stateful
        if present[name].declared.update is not None
    }
    own |= {name: state[name] + 1 for name in ("draws", "steps") if name in state}
    return jax.lax.stop_gradient({**state, **own, "entropy": stats})


def _imitation_weight(shown: Demonstrations, state) -> Array:
    """Of a step, by the state that its updates have."""
    return supervised.weight_beside(
        state["steps"] - 1 if "steps" in state else jnp.int32(0),
        weight=shown.weight,
        schedule=shown.schedule,
        final_weight=shown.final_weight,
        decay_steps=shown.decay_steps,
    )


def _own(rows: Rows) -> Rows:
    """The batch alone: completions beside it as if they were empty.

    Those of a second rollout and demonstrations are imitated: they have no ratio, and
    no stage and no statistic sees them. How they weigh, see `aggregation`.
    """
    if rows.beside is None:
        return rows
    return rows._replace(
        mask=rows.mask & ~rows.beside[:, None],
        rewards=jnp.where(rows.beside, 0, rows.rewards),
        scores=jnp.where(rows.beside, 0, rows.scores),
        prompt_ids=jnp.where(rows.beside, -1, rows.prompt_ids),
        beside=None,
    )


def _before(rows: Rows) -> dict[str, Array]:
    """Rows by name, with padding set to 0."""
    values = {n: x for n, x in rows._asdict().items() if x is not None}
    clean = _clean({n: x for n, x in values.items() if n not in stages.PER_COMPLETION})
    right = rows.scores > 0.5
    ones = jnp.ones(right.shape, jnp.float32)
    share = advantages.group_mean(right.astype(jnp.float32), rows.group_ids, ones)
    return {
        **values,
        **clean,
        "entropy": clean["old_entropy"],
        "source_logprobs": clean["old_logprobs"],
        "correct": rows.mask & right[:, None],
        "group_accuracy": jnp.where(rows.mask, share[:, None], 0),
    }


def _constants(
    chosen: _Stages,
    early,
    score: _Score,
    with_score,
    read_late,
    seed,
    rows: Rows,
    state,
    advantages: Array | None = None,
) -> dict[str, Array]:
    """What follows from rows alone, as the loss of a token needs it."""
    key = None
    if "draws" in state:
        key = jax.random.fold_in(jax.random.key(seed), state["draws"])
    rows = _controlled(rows, score, key)
    whole, rows = rows, _own(rows)
    values = _before(rows)
    if key is not None:
        values["random"] = jax.random.uniform(key, rows.mask.shape)
    # These are of the policy that algo.entropy.source names, perhaps the current one.
    names = {*_ALWAYS, *(read_late & values.keys() - {"entropy", "source_logprobs"})}
    everything = values if rows is whole else _before(whole._replace(beside=None))
    given = {name: everything[name] for name in names}
    if chosen.returns is not None:
        values["returns"] = given["returns"] = chosen.returns(values)
    if advantages is None:
        advantages = chosen.advantage({**values, "state": state.get("advantage")})
    values["advantages"] = given["advantages"] = advantages
    # Metrics are over these tokens, so that they do not depend on whether completions
    # without an advantage are passed through the policy.
    given["signal"] = rows.mask & (given["advantages"] != 0).any(axis=1, keepdims=True)
    if with_score:
        scored = score.score(rows.old_entropy, state["entropy"])
        values["score"] = given["score"] = jnp.where(rows.mask, scored, 0)
    if chosen.phases is not None:
        state_of = {"state": state.get("phases")}
        given["waits"] = rows.mask & chosen.phases({**values, **state_of})
    for name in early:
        found = _run(name, getattr(chosen, name), values, state)
        values |= found
        # The loss needs both those before and those after shaping.
        given |= {"shaped": found["advantages"]} if name == "shaping" else found
    if whole.beside is not None:
        given["beside"] = whole.mask & whole.beside[:, None]
        given["advantages"] = jnp.where(given["beside"], 1, given["advantages"])
    return jax.lax.stop_gradient(given)


def _controlled(rows: Rows, score: _Score, key: Array | None) -> Rows:
    """Rows with the entropies that stages are to see."""
    if score.control == "none":
        return rows
    of, mask = rows.old_entropy, rows.mask
    if score.control == "shuffled":
        key = jax.random.fold_in(key, 0)  # `random` is drawn by the key itself
        return rows._replace(old_entropy=entropy.shuffled(of, mask, key))
    seen = entropy.constant(of, _own(rows).mask, floor=score.floor)
    return rows._replace(old_entropy=seen)


# --- at every token -------------------------------------------------------------------


def _terms(
    chosen: _Stages,
    early,
    score: _Score,
    source: str,
    with_score: bool,
    outputs: frozenset[str],
    current: Values,
    constants: Values,
    state,
) -> Terms:
    """The loss of each token, from the stages in their order."""
    assert outputs <= current.keys(), f"this method reads the {', '.join(outputs)}"
    own = {name: current[name] for name in ("logprobs", *(outputs - {"entropy"}))}
    if "entropy" in outputs:
        own["current_entropy"] = current["entropy"]
    values = _clean({**constants, **own})
    mask, beside = values["mask"], values.get("beside")
    if beside is not None:
        mask = values["mask"] = mask & ~beside
    values["entropy"] = values["old_entropy"]
    if source == "current" and "entropy" in outputs:
        values["entropy"] = jax.lax.stop_gradient(values["current_entropy"])
    of_source = values["logprobs" if source == "current" else "old_logprobs"]
    values["source_logprobs"] = jax.lax.stop_gradient(of_source)
    if with_score and "score" not in values:
        stats = state["entropy"]
        if score.micro:
            stats = score.fit(values["entropy"], mask, previous=stats)
        scored = score.score(values["entropy"], stats)
        values["score"] = jnp.where(mask, scored, 0)

    def run(name):
        if name in early:
            return
        stage = getattr(chosen, name)
        values.update(_run(name, stage, values, state))

    run("ratio")
    run("clip_range")
    base_advantages = values["advantages"]
    values["advantages"] = values.get("shaped", base_advantages)
    run("shaping")
    run("selection")
    surrogate = _run("surrogate", chosen.surrogate, values, state)["surrogate"]
    loss = surrogate.loss
    if chosen.weight is not None:
        run("weight")
        loss = loss * values["weight"]
    run("mask")
    counted = values["counted"] & mask
    loss = jnp.where(values["kept"] & mask, loss, 0)
    for name in ("kl", "regulariser"):
        if (stage := getattr(chosen, name)) is not None:
            loss = loss + jnp.where(counted, _run(name, stage, values, state)[name], 0)
    if beside is not None:
        shown = {"mask": beside, **{name: values.get(name) for name in _SHOWN}}
        shown["entropy"] = jax.lax.stop_gradient(values.get("current_entropy"))
        loss = jnp.where(beside, chosen.imitation(shown).loss, loss)
    nothing = jnp.zeros_like(values["advantages"])
    return Terms(
        loss=loss,
        counted=counted,
        ratio=values["ratio"],
        base_advantages=base_advantages,
        advantages=values["advantages"],
        clip_low=values["clip_low"],
        clip_high=values["clip_high"],
        clipped_low=surrogate.clipped_low & mask,
        clipped_high=surrogate.clipped_high & mask,
        dual_clipped=surrogate.dual_clipped & mask,
        score=values.get("score", nothing),
        weight=values.get("weight", nothing + 1),
    )


def _run(name: str, stage: stages.Stage, values: Values, state) -> dict[str, Any]:
    """What a stage gives, by name."""
    given = stage({**values, "state": state.get(name)})
    names = _GIVES.get(name, (name,))
    return dict(zip(names, given if len(names) > 1 else (given,), strict=True))


def _value_loss(
    critic: stages.Stage, values: Array, constants: Values
) -> critics.ValueLoss:
    """The critic's loss of each token of the batch, whatever lies in padding."""
    mask = _of_batch(constants)
    given = {n: constants[n] for n in critic.reads if n in constants}
    given = jax.lax.stop_gradient(given) | {"values": values}
    given = {n: jnp.where(mask, x, jnp.zeros((), x.dtype)) for n, x in given.items()}
    found = critic(given)
    return critics.ValueLoss(
        jnp.where(mask, found.loss, 0), jnp.where(mask, found.clipped, False)
    )


def _clean(values: Values) -> dict[str, Array]:
    """Sets padding, which may hold NaN, to 0, and cuts all gradients but of what is
    differentiable.

    Zero everywhere means ratio 1 and advantage 0 in padding, so that no stage after
    this one can produce a non-finite number there.
    """
    mask = values["mask"]
    chex.assert_rank(mask, 2)
    chex.assert_type(mask, bool)
    chex.assert_equal_shape([mask, *values.values()])
    clean = {n: jnp.where(mask, x, jnp.zeros((), x.dtype)) for n, x in values.items()}
    fixed = {n: x for n, x in clean.items() if n not in _DIFFERENTIABLE}
    return {**clean, **jax.lax.stop_gradient(fixed)}


# --- losses and metrics ---------------------------------------------------------------


def token_loss(
    method: Method, current: Values, constants: Values, weights: Array, state
) -> tuple[Array, dict[str, Array]]:
    """The loss of tokens in any arrangement, of a method that is not `by_rows`.

    Args:
      method: from `make`.
      current: of the current policy, see `Method.terms`.
      constants: theirs, taken where they lay in rows.
      weights: theirs in the aggregation of the mini-batch; float32.
      state: of the method.

    Returns:
      numerator: float32 scalar; the only part with a gradient.
      sums: `area/name` to [2] float32, a sum over tokens and their number, whose
        quotient is the metric.
    """
    assert not method.by_rows, "this method needs whole rows; use `rows_loss`"
    terms = method.terms(current, constants, state)
    numerator = masked.sum(terms.loss * weights, constants["mask"])
    return numerator, _sums(method, current, constants, terms)


def aggregation(
    method: Method, counted: Array, beside: Array | None, state
) -> tuple[Array, Array]:
    """(weights, denominator) of the tokens of a mini-batch, and of those beside it.

    Tokens of a second rollout weigh as if they were of the batch, and leave its
    denominator. With demonstrations the loss is (1 - w) times that of the batch plus w
    times the mean over their tokens, and the denominator is 1.

    Args:
      method: from `make`.
      counted: [B, T] bool, tokens of the batch that its stages count.
      beside: [B, T] bool, tokens beside it; None if there are none.
      state: of the method.
    """
    weights, denominator = method.aggregate(counted)
    if beside is None:
        return weights, denominator
    if method.imitation_weight is None:
        among, _ = method.aggregate(counted | beside)
        return jnp.where(beside, among, weights), denominator
    w = method.imitation_weight(state)
    of_batch = (1 - w) * weights / jnp.where(denominator == 0, 1, denominator)
    of_shown = w / jnp.maximum(masked.count(beside), 1)
    return jnp.where(beside, of_shown, of_batch), jnp.ones_like(denominator)


def rows_loss(
    method: Method, current: Values, constants: Values, state
) -> tuple[Array, Array, dict[str, Array]]:
    """The loss of whole completions, in parts that add up over micro-batches.

    Args:
      method, current, constants, state: see `token_loss`; [B, T] each.

    Returns:
      numerator: float32 scalar; the only part with a gradient.
      denominator: float32 scalar; divide the summed numerators by the summed
        denominators once, by 1 where that sum is 0.
      sums: see `token_loss`. All parts are 0 for an empty mask.
    """
    terms = method.terms(current, constants, state)
    weights, denominator = jax.lax.stop_gradient(
        aggregation(method, terms.counted, constants.get("beside"), state)
    )
    numerator = masked.sum(terms.loss * weights, constants["mask"])
    return numerator, denominator, _sums(method, current, constants, terms)


def _of_batch(values: Values) -> Array:
    """The mask without tokens beside the batch."""
    mask, beside = values["mask"], values.get("beside")
    return mask if beside is None else mask & ~beside


def critic_loss(
    method: Method, values: Array, constants: Values, weights: Array
) -> tuple[Array, dict[str, Array]]:
    """The loss of a method's critic, beside `token_loss` or `rows_loss`.

    Args:
      method: with a critic.
      values: float32, of the current critic; differentiable.
      constants: see `token_loss`.
      weights: of the policy's loss, 0 where a token does not count.

    Returns:
      numerator and sums as of `token_loss`, over all tokens of the mask.
    """
    found, mask = method.value_loss(values, constants), _of_batch(constants)
    per_token = {
        "critic/loss": found.loss,
        "critic/frac_clipped": found.clipped,
        "critic/value": values,
        "critic/return": constants["returns"],
    }
    sums = {name: _sum(x, mask) for name, x in per_token.items()}
    return masked.sum(found.loss * weights, mask), jax.lax.stop_gradient(sums)


def row_weights(method: Method, current: Values, constants: Values, state) -> Array:
    """The weights that `rows_loss` takes, [B, T] float32."""
    terms = method.terms(current, constants, state)
    return jax.lax.stop_gradient(method.aggregate(terms.counted)[0])


def _sums(
    method: Method, current: Values, constants: Values, terms: Terms
) -> dict[str, Array]:
    """Sums over tokens of what a dashboard shows, and how many these are.

    All but the KL to the reference are over tokens with signal: the policy is pulled
    towards the reference at every token.
    """
    values = _clean({**constants, **current})
    old, behavior = values["old_logprobs"], values["behavior_logprobs"]
    per_token = {
        "clip/frac_low": terms.clipped_low,
        "clip/frac_high": terms.clipped_high,
        "clip/frac_dual": terms.dual_clipped,
        "clip/width_low": terms.clip_low,
        "clip/width_high": terms.clip_high,
        "ratio/mean": terms.ratio,
        "ratio/deviation": jnp.abs(terms.ratio - 1),
        "ratio/frac_off_10pct": jnp.abs(terms.ratio - 1) > 0.1,
        "kl/old_policy": kl.estimate(old, values["logprobs"], estimator="k1"),
        "kl/old_policy_k3": kl.estimate(old, values["logprobs"], estimator="k3"),
        "kl/behavior_policy_k3": kl.estimate(behavior, old, estimator="k3"),
        "advantages/mean": terms.advantages,
        "advantages/abs": jnp.abs(terms.advantages),
        "advantages/frac_reshaped": terms.advantages != terms.base_advantages,
        "loss/token": terms.loss,
        "loss/frac_counted": terms.counted,
    }
    if "score" in method.reads:
        per_token["entropy_score/mean"] = terms.score
        per_token["entropy_score/frac_positive"] = terms.score > 0
    if "behavior_logprobs" in method.reads:
        per_token["importance/weight"] = terms.weight
    signal = values["signal"]
    sums = {name: _sum(value, signal) for name, value in per_token.items()}
    if method.needs_reference:
        k3 = kl.estimate(
            values["logprobs"], values["reference_logprobs"], estimator="k3"
        )
        sums["kl/reference_k3"] = _sum(k3, _of_batch(values))
    if (beside := values.get("beside")) is not None:
        sums["beside/loss"] = _sum(terms.loss, beside)
        sums["beside/logprob"] = _sum(values["logprobs"], beside)
    return jax.lax.stop_gradient(sums)


def _sum(value: Array, mask: Array) -> Array:
    """[2] float32: the sum over the mask, and its size."""
    total = masked.sum(value.astype(jnp.float32), mask)
    return jnp.stack([total, masked.count(mask)])
