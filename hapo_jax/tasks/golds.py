r"""Gold answers as files have them, and as a grading can equal them.

    18, "18"                        18
    18.0 (a number)                 18 where texts are compared
    1e20 (a number)                 100000000000000000000 where texts are compared
    ["18"], {"target": ["18"]}      18, also where the field holds these as a text
    "48 / 2 = 24 … #### 1,072"      1072, what stands behind the last ####
    "… so it is \boxed{72}."        72 where texts are compared; else its box is found

NaN, several answers, objects and numbers that have lost digits are refused: nothing
could equal them. `data_checks.check_golds` grades each gold answer against itself.
"""

import decimal
import json
import math
import re
from typing import Any

from hapo_jax.system import user_files
from hapo_jax.system.errors import Refused

# The key of an object that is nothing but a gold answer.
_KEYS = ("target", "answer", "ground_truth", "value", "gold", "final_answer")
# What libraries write for a missing value.
_MISSING = {"nan", "<na>", "nat"}
_NOTHING = {"None", "null", "NULL"}
_GROUPED = re.compile(r"[-+]?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_WRAPPED = re.compile(r"\s*(?:\[\s*\"|\{\s*\"(?:" + "|".join(_KEYS) + r")\"\s*:)")
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_DIGITS = 15  # of a number that a float holds as it was written


def text(value: Any, *, compared_as_text: bool = False) -> str:
    """A gold answer as text.

    Args:
      value: of the field.
      compared_as_text: whether `18.0` would be another answer than `18`.

    Raises:
      Refused: nothing could equal it; says what it must be.
    """
    if isinstance(value, dict):
        keys = [key for key in value if key in _KEYS]
        if len(value) != 1 or not keys:
            raise Refused(
                "must be one answer, got an object with the keys "
                f"{', '.join(map(repr, list(value)[:6])) or 'none'}; name the one that "
                "holds it by `columns`, as in answer=reward_model.ground_truth.value"
            )
        return text(value[keys[0]], compared_as_text=compared_as_text)
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise Refused(
                f"must be one answer, got a list of {len(value)} "
                f"({user_files.short(value)}); write one text: `1, 2` if all "
                "are asked for, else one of them"
            )
        return text(value[0], compared_as_text=compared_as_text)
    if isinstance(value, decimal.Decimal):
        value = int(value) if value == value.to_integral_value() else str(value)
    if isinstance(value, float):
        return _number(value, compared_as_text)
    if isinstance(value, int) and not isinstance(value, bool):
        return _whole(value)
    if not isinstance(value, str) or not value.strip():
        raise Refused(
            "must be a non-empty text or a number, got "
            f"{user_files.short(value)}; fill it in or drop the row"
        )
    if value.strip().lower() in _MISSING or value.strip() in _NOTHING:
        raise Refused(
            f"must be an answer, got {value.strip()!r}, which libraries write for a "
            r"missing value; fill it in, write \text{none} if that is the answer, or "
            "drop the row"
        )
    if _WRAPPED.match(value):
        try:
            return text(json.loads(value), compared_as_text=compared_as_text)
        except json.JSONDecodeError:
            pass
        except RecursionError:
            raise Refused("is nested too deeply; drop the row") from None
    return _final(value, compared_as_text)


def _final(value: str, compared_as_text: bool) -> str:
    """The answer at the end of a solution; the text itself if it is none."""
    _, mark, rest = value.rpartition("####")
    if mark:
        answer = rest.strip().splitlines()[0].strip() if rest.strip() else ""
        if not answer:
            raise Refused(
                "must have an answer behind its last ####, got "
                f"{user_files.short(value[-60:])}; fill it in or drop the row"
            )
        return answer.replace(",", "") if _GROUPED.fullmatch(answer) else answer
    if compared_as_text and _BOX.search(value):
        # Imported here: it reads answers by way of modules that import this one.
        from hapo_jax.tasks import math_text

        inside = math_text.unboxed(value)
        alone = value.strip().strip("$").strip()
        whole = alone.startswith(("\\boxed{", "\\fbox{")) and alone.endswith("}")
        if inside and not whole:
            return inside
    return value


def _number(value: float, compared_as_text: bool) -> str:
    if not math.isfinite(value):
        what = "NaN, a missing value" if math.isnan(value) else user_files.short(value)
        raise Refused(
            f"must be an answer, got {what}; fill it in (an infinite one as the text "
            r"`\infty`) or drop the row"
        )
    digits = decimal.Decimal(repr(value))
    figures = len(digits.as_tuple().digits)
    if value.is_integer() and abs(value) >= 2**53 and figures > _DIGITS:
        raise Refused(
            f"must be an answer, got {value!r}, a number that has lost its last "
            "digits; write it as a text or a whole number"
        )
    if not compared_as_text:
        return json.dumps(value)
    if value.is_integer():
        if abs(value) >= 1e100:
            raise Refused(
                f"must be an answer, got {value!r}, of {digits.adjusted() + 1} digits; "
                "write it as a text such as `10^{200}`"
            )
        return f"{digits.quantize(1) if digits.as_tuple().exponent < 0 else digits:f}"
    if abs(value) < 1e-6:
        return repr(value)
    return f"{digits:f}"


def _whole(value: int) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # of more digits than Python writes
        raise Refused(
            "must be an answer, got a number of thousands of digits; drop the row"
        ) from None
