"""How mathematical signs are spelt: commands of LaTeX, characters, words.

Tables alone; `lexer.py` uses them.
"""

import re
import unicodedata


def _greek(code: int) -> str:
    """alpha, Gamma: LaTeX's name, also of capitals that it has no command for."""
    *_, name = unicodedata.name(chr(code)).split()
    name = name.replace("LAMDA", "LAMBDA").lower()
    return name.title() if chr(code).isupper() else name


_GREEK = {
    chr(code): _greek(code)
    for code in (*range(0x391, 0x3A2), *range(0x3A3, 0x3AA), *range(0x3B1, 0x3CA))
}
LETTERS = {
    **{name: f"\\{name}" for name in _GREEK.values()},
    **{f"var{name}": f"\\{name}" for name in "epsilon theta phi rho sigma".split()},
    **{name: f"\\{name}" for name in "hbar ell partial mho odot aleph nabla".split()},
}
_TRIGONOMETRIC = "sin cos tan cot sec csc".split()
FUNCTIONS = {
    **{n: n for n in (*_TRIGONOMETRIC, *"sinh cosh tanh ln lg exp log".split())},
    **{f"arc{name}": f"arc{name}" for name in _TRIGONOMETRIC},
    **{f"a{name}": f"arc{name}" for name in _TRIGONOMETRIC},
    "tg": "tan",
    "ctg": "cot",
    "arctg": "arctan",
    "cosec": "csc",
}
# Each mark with its names: commands of LaTeX, and characters.
NAMES = {
    "\\frac": "frac dfrac tfrac cfrac",
    "\\sqrt": "sqrt √",
    "\\binom": "binom dbinom tbinom",
    "\\over": "over",
    "\\choose": "choose",
    "*": "cdot times ast × · ⋅ ∙ ∗",
    "/": "div slash ÷ ⁄ ∕",
    "-": "− – — ‐ ‑ ﹣",
    "\\pm": "pm ±",
    "\\mp": "mp ∓",
    "\\le": "le leq leqslant ≤ ⩽ ≦",
    "\\ge": "ge geq geqslant ≥ ⩾ ≧",
    "\\ne": "ne neq ≠",
    "<": "lt",
    ">": "gt",
    "\\approx": "approx simeq ≈ ≃",
    "\\in": "in ∈",
    "\\infty": "infty infinity ∞",
    "\\cup": "cup bigcup ∪",
    "\\setminus": "setminus backslash smallsetminus ∖",
    "\\empty": "emptyset varnothing ∅",
    "\\{": "lbrace",
    "\\}": "rbrace",
    "(": "lparen",
    ")": "rparen",
    "[": "lbrack",
    "]": "rbrack",
    "\\langle": "langle ⟨",
    "\\rangle": "rangle ⟩",
    "\\lfloor": "lfloor ⌊",
    "\\rfloor": "rfloor ⌋",
    "\\lceil": "lceil ⌈",
    "\\rceil": "rceil ⌉",
    "|": "vert mid lvert rvert ∣",
    "\\bar": "bar overline",
    "\\hat": "hat widehat",
    "\\tilde": "tilde widetilde",
    "\\dot": "dot",
    "\\ddot": "ddot",
    "'": "prime ′ ’ ʹ",
    "°": "degree textdegree º",
    "\\angle": "angle measuredangle ∠",
    "\\triangle": "triangle △",
    "\\sum": "sum ∑",
    "\\prod": "prod ∏",
    "$": "textdollar",
    "€": "euro",
    "£": "pounds",
    ":": "colon",
}
MARKS = {name: mark for mark, names in NAMES.items() for name in names.split()}
# Commands that change looks alone; braces behind them group.
LOOKS = frozenset(
    "left right middle displaystyle textstyle scriptstyle limits nolimits boxed fbox "
    "mathbf mathit mathbb mathcal mathscr mathfrak boldsymbol bm vec overrightarrow "
    "underline ensuremath big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl "
    "Biggr quad qquad thinspace enspace rm bf it".split()
)
UPRIGHT = (
    "text textbf textit textrm textnormal textsf texttt textup mbox hbox emph mathrm "
    "mathsf operatorname"
).split()
COMMANDS = {*LETTERS, *FUNCTIONS, *LOOKS, *UPRIGHT, "begin", "end", "max", "min"}
COMMANDS |= {name for name in MARKS if name.isascii()}
# Names without a backslash, `2pi` and `sqrt(2)` -> letters and marks.
SPELT_OUT = {
    name: mark for name, mark in LETTERS.items() if len(name) > 2 or name == "pi"
}
SPELT_OUT |= dict.fromkeys(("infty", "infinity", "inf", "oo"), "\\infty")
SPELT_OUT |= {"sqrt": "\\sqrt"}
_NUMERALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)
NUMERALS = {name: str(value) for value, name in enumerate(_NUMERALS.split())}

_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni"))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑᵢⱼₖₘₙₓ", "0123456789+-()aeijkmnx"))
_SUPERS, _SUBS = (re.compile(f"[{''.join(table)}]+") for table in (_SUPER, _SUB))
_SQUARES = re.compile(r"(?<=\d)\s*([kcdm]?m)(?=[²³](?!\w))")  # m^2 may be a product
_TABLE = str.maketrans(
    {character: f"\\{name} " for character, name in _GREEK.items()}
    | {c: f"\\{n} " for c, n in zip("ϕϑϵµ∂", "phi theta epsilon mu partial".split())}
    | {c: f"\\{name} " for c, name in zip("ℏħℓ", "hbar hbar ell".split())}
    | {"∛": "\\sqrt[3]", "∜": "\\sqrt[4]", "″": "''", "…": "..."}
    | {"、": ",", "。": "."}
    | dict.fromkeys('"“”„`', " ")
    | {c: f"\\mathbb{{{name}}}" for c, name in zip("ℝℤℕℚℂ", "RZNQC")}
    | {
        c: "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", c).split("⁄"))
        for c in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
    }
    | {  # of full width, or bold, or in script
        chr(code): unicodedata.normalize("NFKC", chr(code))
        for code in (*range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800))
    }
)


def in_latex(text: str) -> str:
    """The text with LaTeX for raised and lowered digits and for other characters."""
    text = _SQUARES.sub(r"\\text{ \1}", text)
    text = _SUPERS.sub(lambda m: f"^{{{''.join(_SUPER[c] for c in m[0])}}}", text)
    text = _SUBS.sub(lambda m: f"_{{{''.join(_SUB[c] for c in m[0])}}}", text)
    return text.translate(_TABLE)
