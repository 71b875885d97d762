"""Makes docs/methods.md from the code: `python docs/methods_page.py`.

A test holds the page to what this prints.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping

from hapo_jax.algo import method, methods, row, settings, stages, supervised
from hapo_jax.algo.not_offered import NOT_OFFERED
from hapo_jax.config import arguments, defaults, dotted, presets, resolution

# Parameters that have a setting of their own, so that they are no option of a stage.
_ELSEWHERE = {
    "singleton": "algo.singleton",
    "dual": "algo.clip.dual",
    "low": "algo.clip.low",
    "high": "algo.clip.high",
    "zone": "algo.redistribution.zone",
}
_STRENGTHS = {
    "algo.clip_range": "algo.clip.strength",
    "algo.shaping": "algo.redistribution.strength",
}
_HEAD = """# Methods

Made from the code by `python docs/methods_page.py > docs/methods.md`.

A method is a set of settings: `--config=FILE:method=NAME` sets what its row says and
leaves the rest at the defaults, which are HAPO. Nothing in the code asks for the name.
All strengths of HAPO at 0 are DAPO, bit for bit. How to write one:
[adding_a_method.md](adding_a_method.md); HAPO and its published code side by side:
[paper.md](paper.md).
"""


def page() -> str:
    """The page as Markdown."""
    return (
        "\n".join(
            [
                _HEAD,
                *_stages_of_methods(),
                *_methods(),
                *_supervised(),
                *_not_offered(),
                *_settings(),
                *_stages(),
            ]
        ).rstrip()
        + "\n"
    )


def _methods() -> Iterator[str]:
    yield (
        "\n## Where they come from, and what they set\n\n*Full*: all of it "
        "follows from paper or code. *Part*: the last column says what was\nchosen "
        "here.\n\n"
        "| method | status | source | sets | open |\n|---|---|---|---|---|"
    )
    for name, found in methods.METHODS.items():
        wanted = f"to be given: {', '.join(f'`{key}`' for key in found.given)}"
        still_open = filter(None, (wanted if found.given else "", found.open))
        yield (
            f"| `{name}` | {found.status} | {found.source} | "
            f"{_sets(name, found.settings)} | {'; '.join(still_open)} |"
        )


def _supervised() -> Iterator[str]:
    yield (
        "\n## Supervised: what a token of a demonstration weighs\n\nThese are no "
        "reinforcement learning. `hapo-sft` takes one by `loss.name`; options follow\n"
        "at `algo.surrogate` below.\n\n| loss | status | source | sets | open |\n"
        "|---|---|---|---|---|"
    )
    for name, found in supervised.METHODS.items():
        yield (
            f"| `{name}` | {found.status} | {found.source} | "
            f"{_sets(name, found.settings)} | {found.open} |"
        )


def _not_offered() -> Iterator[str]:
    yield (
        "\n## Not offered\n\nUnder the name of a paper only what the paper says. "
        "Asking for one of these is refused with\nwhat is missing.\n\n"
        "| name | source | known | missing |\n|---|---|---|---|"
    )
    for name, found in NOT_OFFERED.items():
        yield f"| `{name}` | {found.source} | {found.known} | {found.missing} |"


def _sets(name: str, settings: Mapping) -> str:
    """What a row sets, beside what it shares with DAPO or GRPO."""
    said, rest = [], {k: v for k, v in settings.items() if v is not None}
    bases = {"grpo": ("GRPO without KL", row.GRPO), "dapo": ("DAPO", row.DAPO)}
    for base, shared in (b for own, b in bases.items() if own != name):
        if shared.items() <= rest.items():
            said = [base]
            rest = {k: v for k, v in rest.items() if k not in shared}
            break
    said += [f"`{key}={_plain(value)}`" for key, value in rest.items()]
    return ", ".join(said) or "nothing: the defaults"


def _stages_of_methods() -> Iterator[str]:
    yield (
        "## What each method does at each stage\n\nClip ranges are `low/high`, and the "
        "dual clip behind them. Entropies, and\nlog-probs that choose tokens, are of "
        "the policy that starts the step (old) or of the current\none, and statistics "
        "of the entropy score over the whole batch or a micro-batch; without an\nentry "
        "no stage reads one. Beside the batch are completions that are imitated: of a "
        "second\nrollout, or demonstrations."
    )
    columns = (
        *("temperature", "advantage", "shaping", "ratio", "clip range", "selection"),
        *(
            "surrogate",
            "mask",
            "aggregation",
            "regulariser",
            "beside",
            "phases",
            "entropy",
            "state",
        ),
    )
    yield f"\n| method | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|"
    for name in methods.METHODS:
        yield f"| `{name}` | {' | '.join(_at_stages(name))} |"


def _at_stages(name: str) -> Iterator[str]:
    """The cells of a method, by its settings and by what it is put together from."""
    given = methods.METHODS[name].given
    config = presets.apply_method(defaults.default(), name)
    for key, value in given.items():
        arguments.override(config, key, str(value))
    s = settings.of(resolution.resolve(config).config.algo.to_dict())
    made = method.make(s)
    for key in given:  # it has no value to be shown
        _, section, option = key.split(".")
        if isinstance(holder := getattr(s, section), dict):
            del holder[option]
    tau, group = s.temperature.strength, s.token_group.strength
    yield f"adaptive, τ={tau:g}" if tau else "constant"
    advantage = f"token group × {group:g}" if group else _chosen(s.advantage)
    yield advantage + (f", critic {_chosen(s.critic)}" if made.has_critic else "")
    reshapes = s.shaping["name"] != "redistribute" or s.redistribution.strength
    yield _chosen(s.shaping) if reshapes else ""
    yield _chosen(s.ratio)
    adapts = s.clip_range["name"] != "by_score" or s.clip.strength
    dual = f", dual {s.clip.dual:g}" if s.clip.dual else ""
    reads_range = made.reads & {"clip_low", "clip_high"}
    widths = f"{s.clip.low:g}/{s.clip.high:g}{dual}"
    yield f"{_chosen(s.clip_range) if adapts else ''} {widths}" if reads_range else ""
    yield _chosen(s.selection)
    yield _chosen(s.surrogate)
    yield _chosen(s.mask)
    yield _chosen(s.aggregation)
    kl = [f"KL {s.kl.estimator} × {s.kl.strength:g}"] if s.kl.strength else []
    yield ", ".join(kl + [c for c in [_chosen(s.regulariser)] if c])
    yield _beside(config, s, given)
    yield _chosen(s.phases)
    scope = f"{s.entropy.source}, {s.entropy.scope}"
    of_source = made.reads & {"entropy", "score", "source_logprobs"}
    entropies = [scope] if of_source else []
    if made.differentiates_entropy:
        entropies.append("current, with a gradient")
    yield "; ".join(entropies)
    yield ", ".join(f"`{n}`" for n in made.init_state() if n != "entropy")


def _beside(config, s: settings.Settings, given: Mapping) -> str:
    """What is imitated beside the batch."""
    if share := config.rollout.second.share:
        return f"second rollout of {share:.0%}"
    if not (share := s.demonstrations.share):
        return ""
    weight = f" × {s.demonstrations.weight:g}, {share:.0%}"
    open_weight = "algo.demonstrations.weight" in given
    return f"demonstrations, {_chosen(s.imitation)}" + ("" if open_weight else weight)


def _chosen(choice: Mapping) -> str:
    """A stage with its options; nothing for one that does nothing."""
    if choice["name"] in ("none", "all", "one"):
        return ""
    given = [f"{k}={v!r}" for k, v in choice.items() if k != "name"]
    return f"`{choice['name']}`" + (f" ({', '.join(given)})" if given else "")


def _plain(value) -> str:
    """A setting as a flag would give it; a stage by its name and options."""
    if not isinstance(value, dict):
        return str(value)
    options = [f"{k}={v}" for k, v in value.items() if k != "name"]
    return value["name"] + (f"({', '.join(options)})" if options else "")


def _settings() -> Iterator[str]:
    yield "\n## Settings of all methods\n\n| setting | default | legal |\n|---|---|---|"
    config = defaults.default()
    for key, legal in settings.LEGAL.items():
        default = dotted.get(config, key)
        yield f"| `{key}` | `{default!r}` | {_legal(legal)} |"


def _stages() -> Iterator[str]:
    yield (
        "\n## Stages\n\nA section names its stage by `name`; what else it holds are "
        "the stage's options.\n*Whole completions*: a token's value depends on other "
        "tokens of its completion. *Of several*:\nand on other completions. *Silent at "
        "zero*: a token with advantage 0 has no loss and no\ngradient; of an "
        "advantage, that equal rewards in a group give 0. What a stage can read,\n"
        "log-probs being of the distribution that `algo.ratio_of` names: `base`, all "
        "logits at the\nbase temperature; `sampled`, what the token was drawn from, "
        "with its own temperature and the\ntokens that top-k, top-p and min-p had "
        "left:\n\n"
        "| name | what |\n|---|---|"
    )
    for name, words in stages.NAMES.items():
        yield f"| `{name}` | {words} |"
    for key, table in methods.TABLES.items():
        yield f"\n### `{key}`"
        if key == "algo.imitation":
            names = ", ".join(f"`{name}`" for name in table)
            yield f"\nOf a demonstration: {names}, as at `algo.surrogate`."
            continue
        for name, function in table.items():
            yield from _stage(key, name, function)


def _stage(key: str, name: str, function: Callable) -> Iterator[str]:
    declared = function.declared
    reads, options = stages.signature(function)
    yield f"\n#### `{name}`\n\n{_first_lines(function)}\n"
    yield f"- reads: {', '.join(f'`{r}`' for r in reads)}"
    yield (
        f"- whole completions: {_yes(declared.by_rows)}; of several: "
        f"{_yes(declared.across_rows)}; silent at zero: {_yes(declared.silent_at_zero)}"
    )
    for option, parameter in options.items():
        other = _ELSEWHERE.get(option)
        if option == "strength":
            other = _STRENGTHS.get(key)
        if other:
            yield f"- `{option}` is `{other}`"
        else:
            yield f"- option {_option(option, parameter, declared.options)}"


def _option(name: str, parameter: inspect.Parameter, legal: Mapping) -> str:
    empty = parameter.default is inspect.Parameter.empty
    default = "no default" if empty else f"default `{parameter.default!r}`"
    if name in legal:
        return f"`{name}`: {default}, {_legal(legal[name])}"
    if isinstance(parameter.default, bool):
        return f"`{name}`: {default}, `True`, `False`"
    return f"`{name}`: {default}"


def _first_lines(function: Callable) -> str:
    """A docstring down to its arguments. Formulas are blocks in Markdown as well."""
    text = inspect.getdoc(function)
    return re.split(r"\n(?:Args|Returns|Raises):", text)[0].rstrip()


def _legal(legal) -> str:
    if isinstance(legal, tuple):
        return ", ".join(f"`{value!r}`" for value in legal)
    return str(legal)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


if __name__ == "__main__":
    print(page(), end="")
