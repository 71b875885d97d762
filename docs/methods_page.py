"""Makes docs/methods.md from the code: `python docs/methods_page.py`.

A test holds the page to what this prints.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping

from hapo_jax.algo import (
    advantages,
    clipping,
    kl,
    losses,
    masks,
    settings,
    shaping,
    stages,
)
from hapo_jax.config import defaults as config

TABLES = {
    "algo.advantage": advantages.ADVANTAGES,
    "algo.clip_range": clipping.CLIP_RANGES,
    "algo.shaping": shaping.SHAPINGS,
    "algo.surrogate": losses.SURROGATES,
    "algo.mask": masks.MASKS,
    "algo.regulariser": kl.REGULARISERS,
    "algo.aggregation": losses.AGGREGATIONS,
}
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
    return "\n".join([_HEAD, *_methods(), *_settings(), *_stages()]).rstrip() + "\n"


def _methods() -> Iterator[str]:
    yield "## The methods\n\n| method | sets |\n|---|---|"
    for name, changes in config.METHODS.items():
        said = [f"`{key}={value}`" for key, value in changes.items()]
        yield f"| `{name}` | {', '.join(said) or 'nothing: the defaults'} |"


def _settings() -> Iterator[str]:
    yield "\n## Settings of all methods\n\n| setting | default | legal |\n|---|---|---|"
    defaults = config.default()
    for key, legal in settings.LEGAL.items():
        default = config.get(defaults, key)
        yield f"| `{key}` | `{default!r}` | {_legal(legal)} |"


def _stages() -> Iterator[str]:
    yield (
        "\n## Stages\n\nA section names its stage by `name`; what else it holds are "
        "the stage's options.\n*Whole completions*: a token's value depends on other "
        "tokens. *Silent at zero*: a token\nwith advantage 0 has no loss and no "
        "gradient. What a stage can read:\n\n| name | what |\n|---|---|"
    )
    for name, words in stages.NAMES.items():
        yield f"| `{name}` | {words} |"
    for key, table in TABLES.items():
        yield f"\n### `{key}`"
        for name, function in table.items():
            yield from _stage(key, name, function)


def _stage(key: str, name: str, function: Callable) -> Iterator[str]:
    declared = function.declared
    reads, options = stages.signature(function)
    yield f"\n#### `{name}`\n\n{_first_lines(function)}\n"
    yield f"- reads: {', '.join(f'`{r}`' for r in reads)}"
    rows, silent = declared.by_rows, declared.silent_at_zero
    yield f"- whole completions: {_yes(rows)}; silent at zero: {_yes(silent)}"
    for option, parameter in options.items():
        other = _ELSEWHERE.get(option)
        if option == "strength":
            other = _STRENGTHS[key]
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
