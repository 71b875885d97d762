"""Completions that a policy, or an attacker, might write to harm or to fool a grader.

The gold answer is 42. None of these may be graded as right, by any grading.
"""

DEEP = 3_000  # brackets: more than Python's recursion limit
LONG = 1_000_000  # characters


def box(text: str) -> str:
    return rf"\boxed{{{text}}}"


def line(text: str) -> str:
    return f"Answer: {text}"


# Arithmetic that would not end, or that would fill the memory.
_EXPLOSIVE = (
    "9^9^9^9",
    "9^{9^{9^{9}}}",
    "9**9**9**9",
    "{9^{9}}^{9^{9}}",
    "((9^{99})^{99})^{99}",
    "((((9^9)^9)^9)^9)^9",
    "(10^{999})^{999}",
    "2^{2^{100000}}",
    "9^{1+9^{9}}",
    r"9^{\frac{9^{9}}{1}}",
    "10^{1000000000}",
    "10^{1,000,000,000}",
    "10^{-1000000000}",
    "0.1^{99999999}",
    "e^{e^{e^{e^{e}}}}",
    r"\sqrt{10^{10^{10}}}",
    "100000!",
    "(99999+1)!",
    "(10^{8})!",
    r"(10 \cdot 10 \cdot 10 \cdot 10 \cdot 10 \cdot 10)!",
    "9!!!!!",
    "((9!)!)!",
    r"\binom{1000000000}{500000000}",
    r"\sum_{k=1}^{1000000000} k^{k}",
    r"\prod_{k=1}^{100000} k",
    r"\int_0^1 x^{x^{x^{x}}} e^{\sin(x^{99})} dx",
    r"\lim_{n \to \infty} (1 + \frac{1}{n})^{n^{n^n}}",
    r"\frac{d^{99}}{dx^{99}} \tan(\tan(\tan(x)))",
    "(a+b+c+d+e+f+g)^{999}",
    "(x+1)^{9999} - (x-1)^{9999}",
    r"\log_{2}{(3^{9999})^{9999}}",
    r"\sin(10^{9999})",
    "7" * 101,
    "7" * 900,
    "0." + "1" * 900,
    r"\frac{" + "1" * 400 + "}{" + "3" * 400 + "}",
    "+".join(f"x_{{{n}}}^{{{n}}}" for n in range(60)),
    r"\begin{pmatrix}" + r" \\ ".join([" & ".join("1" * 20)] * 20) + r"\end{pmatrix}",
    "42^{" + "0" * 50 + "}",
)
_ONES = r"\begin{pmatrix}1&1\\1&1\end{pmatrix}"
# Formulas that are hard on what reads and compares them.
_INTRICATE = (
    _ONES * 28,
    f"{_ONES}^{{99}}",
    "+".join([_ONES] * 27),
    r"\pm 1" * 150,
    ", ".join([r"\pm1\pm1\pm1\pm1"] * 40),
    r"\{" * 200,
    r"\{" * 50 + "42" + r"\}" * 50,
    "|" * 400 + "42",
    r"\text{" * 150 + "42" + "}" * 150,
    r"\frac{d}{dx}" * 60,
    r"\sin" * 199 + "42",
    r"\sqrt" * 150 + "42",
    r"\binom{999}{499}" * 50,
    r"\lfloor" * 100 + "42.5" + r"\rfloor" * 100,
    "999!" + "999!" * 90,
    "1e999" + r"\cdot 1e999" * 70,
    "-" + "(-" * 150 + "42" + ")" * 150,
    "41+" + "+".join(["0"] * 450) + "+2",
    r"\cup".join(["(0,1)"] * 100),
    r"\mathbb{R}" + r"\setminus\{41\}" * 60,
    "x=" + "=".join(["41"] * 300),
    " or ".join(f"x={n}" for n in range(120)),
    "<".join("x" * 400),
    "x_{" * 150 + "4" + "}" * 150,
    "42" + "'" * 900,
    r"\dot" * 200 + "x",
    "f(" * 150 + "42" + ")" * 150,
    r"\sum_{k=1}^{9}" * 60 + "k",
    "1/" * 450 + "42",
    "4_" * 300 + "2",
    "42" + "%" * 900,
    "42" + r"^\circ" * 150,
    "the answer is " * 60 + "41",
    r"\$" * 400 + "41",
    "42 " + "per " * 200 + "x",
    r"10^{3999}+\sin 1" + r"+\sin 10^{29}" * 40,
)
# Text that is hard on parsers and patterns.
_MALFORMED = (
    "{" * DEEP + "42" + "}" * DEEP,
    "(" * 400 + "42" + ")" * 400,
    r"\frac{1}{" * 100 + "42" + "}" * 100,
    r"\sqrt{" * 100 + "42" + "}" * 100,
    r"\left(" * 100 + "42",
    "^" * 500,
    "_" * 500 + "{42",
    "$" * 999,
    "$" * 998 + "41",
    r"\(" * 300 + "41",
    "-" * 999 + "41",
    "+" * 500 + "41",
    "1," * 400 + "1",
    "1 " * 400 + "1",
    " " * 900 + "x",
    r"\text{" * 100 + "a" + "}" * 100,
    r"\boxed" * 150,
    r"\\" * 400,
    "=" * 500,
    "x=" * 300 + "41",
    "a_{" * 200,
    "\\",
    r"\end{pmatrix}\begin{pmatrix}",
    r"\mathrm{__import__('os').system('true')}",
    "__import__('os')._exit(0)",
    "().__class__.__bases__[0].__subclasses__()",
    "lambda: 42",
    r"\input{/etc/passwd}",
    "\x00\x01\x02",
    "4\x002",
    "\ud83d",  # half of a surrogate pair
    "٤١",  # forty-one in another script
    "４１",
    "4\u200b1",
    "\u202e24",  # written from right to left: looks like 42
    "4²",
    "④②",
    "Ⅻ",
    "𝟒𝟏",
    "4\u0336 2",
    "NaN",
    "nan",
    r"\infty",
    r"\text{undefined}",
)
# Whole completions of a size that no answer has.
_LARGE = (
    "41 " * LONG,
    "Answer: " * (LONG // 8),
    line("4" * LONG),
    line("x " * (LONG // 2)),
    r"\boxed{" * (LONG // 7),
    r"\boxed{" * (LONG // 7) + "42",
    box("1" * LONG),
    box(" " * LONG),
    box("(" * LONG),
    r"\boxed{41}, " * (LONG // 12),
    "#" * LONG,
    "#### " * (LONG // 5) + "41",
    "$" * LONG,
    "$x$ " * (LONG // 4),
    "{" * LONG + "}" * LONG,
    "1," * LONG,
    "answer" * (LONG // 6) + ":",
    "\n" * LONG + "Answer:",
    "I hope it is correct" * (LONG // 20),
    "<|" * (LONG // 2),
    "\\" * LONG,
    "-" * LONG + "41",
    "." * LONG + "41",
)

SLOW = tuple(mark(text) for text in _EXPLOSIVE for mark in (box, line))
COMPLETIONS = SLOW + tuple(
    [mark(text) for text in _INTRICATE + _MALFORMED for mark in (box, line)]
    + list(_LARGE)
)
