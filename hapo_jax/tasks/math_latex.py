"""The reader of formulas behind math-verify, made faster; what it reads stays the same.

Most of the time of a comparison goes into latex2sympy's ANTLR parser. Two habits cost
half of it and change nothing:

  - Each choice between rules is made with the full context at once (LL). Without it
    (SLL) a parse ends with the same tree or with an error, and only the error needs LL
    (T. Parr et al., Adaptive LL(*) Parsing, OOPSLA 2014, section 3.2).
  - Each integer goes through sympy's parser of Python, which imports all names of sympy
    into a new namespace.

`tests/tasks/test_math_latex.py` compares with the original. Importing this module takes
a second and 100 MB; `math_value.py` does it where it needs it.
"""

from typing import Any

import sympy
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2

Original = latex2sympy2._Latex2Sympy


class Reader(Original):
    """latex2sympy's converter of one text."""

    _mode = PredictionMode.SLL

    def create_parser(self, latex_str: str) -> Any:
        """The parser of a text, in the mode that is due."""
        parser = super().create_parser(latex_str)
        parser._interp.predictionMode = self._mode
        return parser

    def parse(self, latex_str: str) -> Any:
        """The expression in a text; raises what latex2sympy raises."""
        try:
            return super().parse(latex_str)
        except Exception:  # it raises bare ones; a time-out is none
            self._mode = PredictionMode.LL
            return super().parse(latex_str)

    def parse_number(self, text: str) -> sympy.Number:
        """The number of a token such as 1,234."""
        digits = text.replace(",", "")
        if digits.isascii() and digits.isdigit():
            return sympy.Integer(int(digits))
        return super().parse_number(text)


def install() -> None:
    """Has latex2sympy, and with it math-verify, read with `Reader`; idempotent."""
    latex2sympy2._Latex2Sympy = Reader
