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
from typing import Any

import jax
import jax.numpy as jnp

from hapo_jax.algo import (
    advantages,
    critics,
    entropy,
    importance,
    kl,
    methods,
    phases,
    stages,
    supervised,
    temperature,
    terms,
)
from hapo_jax.algo.settings import Demonstrations, Settings
from hapo_jax.algo.terms import Rows, Score, Stages, Terms, Values
from hapo_jax.system.errors import Refused

Array = jax.Array

# Known only once the policy, or a stage that reads it, is run.
_CURRENT = frozenset(
    {"logprobs", "current_entropy", "rank", "ratio", "clip_low", "clip_high"}
    | {"selected", "values"}
)
# Of the old policy, from the learner's scoring alone.
_NOT_RECORDED = frozenset({"old_square_sum", "old_cut_logprobs"})
# There with a critic alone, and what it may read.
_OF_CRITIC = frozenset({"old_values", "returns", "values"})
_CRITIC_READS = _OF_CRITIC | {"mask", "correct", "group_accuracy"}


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
        see `batch_loss.aggregation`; None without demonstrations.
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
    score = Score(
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
        update_state=functools.partial(terms.update_state, present, stateful, score),
        constants=functools.partial(
            terms.constants,
            chosen,
            early,
            score,
            "score" in reads & known,
            read_late,
            seed,
        ),
        value_loss=chosen.critic and functools.partial(terms.value_loss, chosen.critic),
        terms=functools.partial(
            terms.terms, chosen, early, score, source, "score" in reads, outputs
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


def _choose(s: Settings, num_prompts: int) -> Stages:
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
    return Stages(
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


def _check_critic(chosen: Stages, present: Mapping[str, stages.Stage]) -> None:
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
    for name, gives in terms.GIVES.items():
        if name in present and frozenset(present[name].reads) <= known:
            possible.append(name)
            known |= set(gives)
        else:
            known -= set(gives)
    early, needed = [], set()
    for name in reversed(possible):
        stage, reads = present[name], set(present[name].reads)
        has_to = stage.declared.by_rows or stages.PER_COMPLETION & reads
        if has_to or needed.intersection(terms.GIVES[name]):
            early.insert(0, name)
            needed |= reads
    return tuple(early)


def _init_state(present, stateful, counts: tuple[str, ...]) -> dict[str, Any]:
    """The statistics of the entropies, the state of each stage that keeps one, and
    counts: of times that random numbers were drawn, of steps."""
    own = {name: present[name].declared.init() for name in stateful}
    own |= dict.fromkeys(counts, jnp.int32(0))
    return {"entropy": entropy.initial_stats(), **own}


def _imitation_weight(shown: Demonstrations, state) -> Array:
    """Of a step, by the state that its updates have."""
    return supervised.weight_beside(
        state["steps"] - 1 if "steps" in state else jnp.int32(0),
        weight=shown.weight,
        schedule=shown.schedule,
        final_weight=shown.final_weight,
        decay_steps=shown.decay_steps,
    )
