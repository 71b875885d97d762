r"""DAPO's decision: the last `Answer:` line, cleaned as Minerva's graders do, as text.

What verl and the published HAPO code score by (`math_dapo.py` in both), so that rewards
and figures compare with theirs. The rules are theirs, with their oddities: a line that
says `Answer: The answer is 42.` is wrong, and so is a box without the line. Nothing is
repaired here; `tests/tasks/test_verifier_pairs.py` compares decision by decision.
"""

import re

TAIL_CHARACTERS = 300
_ANSWER_LINE = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)

# Minerva's tables (arXiv 2206.14858, appendix), in the order in which they apply.
_REPLACED = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
)
_REMOVED = (
    *"square ways integers dollars mph inches hours km units \\ldots sue".split(),
    *"points feet minutes digits cents degrees cm gm pounds meters meals edges".split(),
    *"students childrentickets multiples \\text{s} \\text{.}".split(),
    "\\text{\ns}",
    *"\\text{}^2 \\text{}^3".split(),
    "\\text{\n}",
    *'\\text{} \\mathrm{th} ^\\circ ^{\\circ} \\; ,\\! {,} " \\dots'.split(),
)
_REWRITTEN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r".*?\$(.*?)\$.*", r"$\1$"),  # the first formula, and nothing around it
        (r"\\text\{(.*?)\}", r"\1"),
        (r"\\textbf\{(.*?)\}", r"\1"),
        (r"\\overline\{(.*?)\}", r"\1"),
        (r"\\boxed\{(.*)\}", r"\1"),
        (r"frac([^{])(.)", r"frac{\1}{\2}"),
        (r"sqrt([^{])", r"sqrt{\1}"),
    )
)


def find(completion: str) -> str | None:
    """What follows the last `Answer:` within the last 300 characters, or None."""
    lines = _ANSWER_LINE.findall(completion[-TAIL_CHARACTERS:])
    return lines[-1] if lines else None


def normalise(answer: str) -> str:
    """The text that is compared: from the last `=` on, without units and fonts.

    Linear in the text but for patterns that see at most one line; callers bound its
    length.
    """
    text = answer.split("=")[-1]
    for before, after in _REPLACED:
        text = text.replace(before, after)
    for word in _REMOVED:
        text = text.replace(word, "")
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    text = text.replace("$", "")
    digits = text.replace(",", "")
    return digits if digits.isdigit() else text.strip()


def same(gold: str, pred: str) -> bool:
    """Whether both normalise to one text, which must not be empty."""
    text = normalise(pred)
    return text != "" and text == normalise(gold)
