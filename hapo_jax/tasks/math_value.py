r"""math-verify's judgement of two texts, under guard: the second chance of `hapo`.

It searches both texts for what it can read, as its own users have it. What would
explode in exact arithmetic or in a recursive parser is not looked at and is not equal;
the pool's clock (`grading/pool.py`) ends what gets through all the same.

Call it in a process's main thread: math-verify bounds its time with signals.
"""

import functools
import re
from types import ModuleType

# Bounds on what math-verify may see. Gold answers stay far below each.
_MAX_CHARACTERS = 20_000  # its patterns are not linear
_MAX_NESTING = 25  # brackets of any kind
_POWER = r"(?:\^|\*\*)[\s{(]*"
_EXPLOSIVE = re.compile(
    r"\d{101,}"  # one number of more than 100 digits
    r"|(?:\^|\*\*)\s*-?\d+\s*(?:\^|\*\*)"  # a tower, 9^9^9 …
    r"|(?:\^|\*\*)[\s{(]+[^{}()]{0,60}?\d\s*(?:\^|\*\*)[\s{(]*-?\d"  # … or 9^{1+9^9}
    rf"|{_POWER}-?\d{{3,}}\s*[)}}][\s)}}]*(?:\^|\*\*)"  # (9^999)^9
    rf"|{_POWER}-?\d[\d,. ]{{4,}}"  # an exponent of five digits
    r"|\d{4,}\s*!|![\s)}]*!"  # a factorial of a large number, or of a factorial, or
    r"|(?:\d{4}|[*^]|\\cdot|\\times)[^!]{0,50}[)}]\s*!"  # of a product or a power
)
_POWERS_OF_POWERS = re.compile(rf"{_POWER}-?\d+\s*[)}}][\s)}}]*(?=\^|\*\*)")
# math-verify parses twice and is compared with twice at most, each under this limit.
_SYMPY_SECONDS = 2


def verify(
    gold: str,
    pred: str,
    *,
    kinds: tuple[str, ...] = ("latex", "expr"),
    decimals: int = 6,
    strict: bool = True,
    allow_set_relation_comp: bool = False,
) -> bool:
    """math-verify's judgement of two whole texts; False for what is not looked at.

    Args:
      gold, pred: texts that hold an answer each, as math-verify finds it.
      kinds: what it may find, of "latex" and "expr".
      decimals, strict, allow_set_relation_comp: see `math_verify.verify`.
    """
    if any(len(text) > _MAX_CHARACTERS or explosive(text) for text in (gold, pred)):
        return False
    math_verify = _library()
    configs = {
        "latex": math_verify.LatexExtractionConfig(),
        "expr": math_verify.ExprExtractionConfig(),
    }
    chosen = [configs[kind] for kind in kinds]
    gold_values, pred_values = (
        math_verify.parse(text, chosen, parsing_timeout=_SYMPY_SECONDS)
        for text in (gold, pred)
    )
    return math_verify.verify(
        gold_values,
        pred_values,
        float_rounding=decimals,
        strict=strict,
        allow_set_relation_comp=allow_set_relation_comp,
        timeout_seconds=_SYMPY_SECONDS,
    )


def explosive(text: str) -> bool:
    """Whether exact arithmetic or a recursive parser might choke on it."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        deepest = max(deepest, depth)
    return (
        deepest > _MAX_NESTING
        or _EXPLOSIVE.search(text) is not None
        or len(_POWERS_OF_POWERS.findall(text)) > 2
    )


@functools.cache
def _library() -> ModuleType:
    """math-verify, its reader made faster; late, since it costs a second and 100 MB."""
    import math_verify

    from hapo_jax.tasks import math_latex

    math_latex.install()
    return math_verify
