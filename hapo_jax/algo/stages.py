"""A stage of a method: one function, whose signature says what it reads.

    @stages.declare(silent_at_zero=True, options={"beta_low": Range(0, 10)})
    def ce_gppo(ratio, advantages, clip_low, clip_high, *, beta_low=0.75): ...

Positional parameters are names of numbers per token (`NAMES`), and the stage is given
just these. Keyword parameters are its options, which a config sets in the section of
the stage. So nothing is written down twice: what the learner must provide, what a
config may say, and docs/methods.md follow from the signature.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from hapo_jax.algo.ranges import FINITE, Range
from hapo_jax.system import own_code
from hapo_jax.system.errors import Refused

Array = jax.Array

# What a stage may read, float32 [B, T] unless it says otherwise; in nats where it is a
# log-prob or an entropy. Log-probs are of the distribution that algo.ratio_of names.
NAMES = {
    "mask": "bool; True on the tokens of the completion",
    "old_logprobs": "policy before the step's updates",
    "old_entropy": "policy before the step's updates",
    "old_square_sum": "policy before the step's updates: sum of p² over all tokens",
    "old_cut_logprobs": "policy before the step's updates without tokens less probable "
    "than `algo.cut_share` times the most probable one; -inf for such a token",
    "behavior_logprobs": "under the distribution that the token was drawn from",
    "reference_logprobs": "frozen reference policy",
    "old_values": "of the critic before the step's updates",
    "returns": "what a critic's values are fitted to",
    "values": "of the current critic; differentiable, and read by algo.critic alone",
    "rewards": "[B]; the verifier's score plus penalties",
    "scores": "[B]; the verifier's score, 1 is correct",
    "baselines": "[B]; reward of the prompt's greedy completion",
    "group_ids": "[B] int32; equal for the completions of a prompt",
    "prompt_ids": "[B] int32; which of the run's training problems it answers",
    "correct": "bool; the verifier found the completion right",
    "group_accuracy": "share of the group's completions that are right",
    "forks": "bool; True where the task says that the token was a choice",
    "random": "uniform in [0, 1), drawn anew at every step from the run's seed",
    "entropy": "of the policy that algo.entropy.source names, old or current",
    "source_logprobs": "of that policy too, without a gradient",
    "score": "entropy score in [-1, 1], by the statistics of algo.entropy",
    "logprobs": "current policy; differentiable",
    "current_entropy": "of the current policy; differentiable",
    "rank": "of the token under the current policy, 1 is the most probable",
    "ratio": "current over old policy; differentiable",
    "advantages": "as the stage before it left them",
    "clip_low": "width of the clip range below 1",
    "clip_high": "width of the clip range above 1",
    "selected": "what algo.selection gives",
    "state": "the stage's own state; any pytree",
}
PER_COMPLETION = frozenset(
    {"rewards", "scores", "baselines", "group_ids", "prompt_ids"}
)


class Declared(NamedTuple):
    """What a signature cannot say.

    Attributes:
      by_rows: a token's value depends on other tokens, so that the stage needs whole
        completions.
      across_rows: and on those of other completions, so that the loss depends on which
        of them are at hand together.
      silent_at_zero: a token whose advantage is 0 has loss 0 and gradient 0 behind it.
        Of an advantage: equal rewards of a group's completions give 0.
      options: legal values by option: a Range, or a tuple of choices.
      init: () -> the stage's state before the first step; None if it keeps none.
      update: (values, state) -> its state for this step and the next rollout; values
        are what is known before the policy is run, by name. Both are given the options
        that they have parameters for.
    """

    by_rows: bool = True
    across_rows: bool = True
    silent_at_zero: bool = False
    options: Mapping[str, Range | tuple] = {}
    init: Callable[..., Any] | None = None
    update: Callable[..., Any] | None = None


def declare(
    *,
    by_rows: bool = False,
    across_rows: bool | None = None,
    silent_at_zero: bool = True,
    options: Mapping[str, Range | tuple] | None = None,
    init: Callable[..., Any] | None = None,
    update: Callable[..., Any] | None = None,
) -> Callable:
    """Marks a function as a stage; the function itself stays as it is.

    One that is by rows is taken to be across rows unless it says that it is not.

    A function without this mark works as well. It is taken to need whole completions
    and not to be silent at zero, which is always right and costs speed.
    """

    def mark(function: Callable) -> Callable:
        function.declared = Declared(
            by_rows,
            by_rows if across_rows is None else across_rows,
            silent_at_zero,
            options or {},
            init,
            update,
        )
        return function

    return mark


@dataclasses.dataclass(frozen=True)
class Stage:
    """A function of a method with its options filled in.

    Attributes:
      key: of its section in the config, such as `algo.surrogate`.
      function: of the numbers that it reads.
      reads: their names, in the order of its parameters.
      declared: what its signature cannot say.
    """

    key: str
    function: Callable
    reads: tuple[str, ...]
    declared: Declared

    def __call__(self, values: Mapping[str, Array]) -> Any:
        """Its result, from numbers by name."""
        return self.function(*(values[name] for name in self.reads))


def bind(
    key: str,
    table: Mapping[str, Callable],
    choice: Mapping[str, Any],
    **given: Any,
) -> Stage:
    """The stage that a section of the config asks for.

    Args:
      key: the section, for messages.
      table: the functions that there are, by name.
      choice: `name`, of the table or `package.module:function`, and its options.
      **given: values of other sections; each goes to a parameter of its name, if there
        is one, and is not an option then.

    Raises:
      Refused: no name, no such function, or an option that it does not have or that
        is out of its range; names key, value, rule and remedy.
    """
    if "name" not in choice:
        raise Refused(f"{key}.name is missing; choose one of {', '.join(table)}.")
    function = find(f"{key}.name", table, choice["name"])
    reads, options = signature(function)
    for name in reads:
        if name not in NAMES:
            raise Refused(
                f"{key}.name={choice['name']!r} reads {name!r}, and a stage can read "
                f"{', '.join(NAMES)}; rename its parameter, or make it an option by "
                "putting it behind *."
            )
    declared = getattr(function, "declared", Declared())
    free = {name: p for name, p in options.items() if name not in given}
    chosen = {name: value for name, value in choice.items() if name != "name"}
    for name, value in chosen.items():
        if name not in free:
            raise Refused(
                f"{key}.{name} is no option of {key}.name={choice['name']!r}"
                f"{nearest(name, free)}; it takes {', '.join(free) or 'none'}."
            )
        if rule := _wrong(value, free[name], declared.options.get(name)):
            raise Refused(
                f"{key}.{name}={value!r} must {rule}; change --config.{key}.{name}."
            )
    empty = inspect.Parameter.empty
    missing = [n for n, p in free.items() if p.default is empty and n not in chosen]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise Refused(
            f"{', '.join(f'{key}.{n}' for n in missing)} {are} missing; {key}.name="
            f"{choice['name']!r} has no default for what it must be given."
        )
    passed = {name: given[name] for name in options if name in given}
    bound = functools.partial(function, **passed, **chosen)
    values = {n: p.default for n, p in free.items()} | passed | chosen | given
    for name in ("init", "update"):  # they may read the options, too
        if (own := getattr(declared, name)) is not None:
            known = inspect.signature(own).parameters
            read = {n: value for n, value in values.items() if n in known}
            declared = declared._replace(**{name: functools.partial(own, **read)})
    return Stage(key, bound, reads, declared)


def only(key: str, function: Callable, **given: Any) -> Stage:
    """The stage of a place for which there is one function."""
    return bind(key, {"only": function}, {"name": "only"}, **given)


def signature(
    function: Callable,
) -> tuple[tuple[str, ...], dict[str, inspect.Parameter]]:
    """(names that a stage reads, its options) by its parameters."""
    parameters = inspect.signature(function).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    reads = tuple(n for n, p in parameters.items() if p.kind is not keyword)
    return reads, {n: p for n, p in parameters.items() if p.kind is keyword}


def find(key: str, table: Mapping[str, Callable], name: Any) -> Callable:
    """A function by its name in a table, or by `package.module:function`.

    Raises:
      Refused: there is none.
    """
    if not isinstance(name, str):
        raise Refused(f"{key}={name!r} must be a name, one of {', '.join(table)}.")
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise Refused(
            f"{key}={name!r} must be one of {', '.join(table)}{nearest(name, table)}, "
            "or a function of yours as package.module:function."
        )
    found = getattr(own_code.module(key, name), attribute, None)
    if not callable(found):
        raise Refused(
            f"{key}={name!r}: module {module!r} has no function {attribute!r}."
        )
    return found


def nearest(name: str, known) -> str:
    """` (did you mean …?)` for a misspelt name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _wrong(
    value: Any, parameter: inspect.Parameter, legal: Range | tuple | None
) -> str:
    """What an option must be, if it is not; an empty string otherwise."""
    default = parameter.default
    if legal is None and isinstance(default, float):
        legal = FINITE
    if isinstance(legal, Range):
        return "" if legal.holds(value) else f"be {legal}"
    if isinstance(legal, tuple):
        return "" if value in legal else f"be one of {', '.join(map(str, legal))}"
    if default is inspect.Parameter.empty or isinstance(value, type(default)):
        return ""
    return f"be of type {type(default).__name__}"
