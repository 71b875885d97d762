"""Tokens: one spelling for what looks alike, words kept apart from letters."""

import pytest

from hapo_jax.tasks.answers import lexer


def spelt(text: str) -> str:
    return lexer.key(lexer.trimmed(lexer.read(text)))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("  42 ", "42"),
        ("42.", "42"),
        ("$42$", "42"),
        ("$$42$$", "42"),
        ("\\(42\\)", "42"),
        ("\\[42\\]", "42"),
        ("**42**", "42"),
        ("<|im_end|>42", "42"),
        ("42.0", "42"),
        ("42.50", "42.5"),
        ("0042", "42"),
        ("1000", "1000"),
        (".5", "0.5"),
        ("0.05", "0.05"),
        ("-1./3", "-1/3"),
        ("−7", "-7"),
        ("2.50e+3", "2.5e3"),
        ("1,234,567", "1234567"),
        ("1{,}234", "1234"),
        ("1,\\!234", "1234"),
        ("11,\\! 111,\\! 100", "11111100"),
        ("1\\,234", "1234"),
        ("1 234", "1234"),
        ("1,234.50", "1234.5"),
        ("1,23", "1,23"),
        ("12, 345", "12,345"),  # a list, not 12345
        ("(12,345)", "(12,345)"),  # a pair
        ("\\{12,345\\}", "\\{12,345\\}"),
        ("1,2,345", "1,2,345"),
        ("12,345,67", "12,345,67"),
        ("4 2", "4 2"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("\\tfrac12", "\\frac12"),
        ("\\\\dfrac{1}{2}", "\\frac{1}{2}"),  # escaped once too often
        ("\\left( 1, 2 \\right)", "(1,2)"),
        ("\\bigl(1\\bigr)", "(1)"),
        ("x_{1}", "x_1"),
        ("x^{2}", "x^2"),
        ("x²", "x^2"),
        ("x₁₂", "x_{12}"),
        ("2**3", "2^3"),
        ("√2", "\\sqrt2"),
        ("π", "pi"),
        ("\\pi", "pi"),
        ("2pi", "2pi"),
        ("∞", "\\infty"),
        ("½", "\\frac{1}{2}"),
        ("2 × 3", "2*3"),
        ("x ≤ 5", "x\\le5"),
        ("x <= 5", "x\\le5"),
        ("x \\leqslant 5", "x\\le5"),
        ("-5\\lex\\le1", "-5\\lex\\le1"),  # its spaces lost
        ("90^{\\circ}", "90°"),
        ("90 \\degree", "90°"),
        ("50\\%", "50%"),
        ("y^{\\prime\\prime}", "y''"),
        ("0.1\\overline{6}", "0.1(6)"),
        ("0.1666...", "0.1(6)"),
        ("np.arcsin(1)", "arcsin(1)"),
        ("1 \\\\[2pt] 2", "1\\\\2"),
        ("\\textcolor{red}{42}", "{42}"),
        ("𝟒２", "42"),
        ("The answer is 42.", "42"),
        ("So, the final answer is: $42$", "42"),
        ("\\text{Evelyn}", "Evelyn"),
        ("34\\text{ sq. units}", "34squnits"),
    ],
)
def test_spelling(text, key):
    assert spelt(text) == key


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("xy", "ll"),
        ("2xy", "nll"),
        ("\\text{xy}", "w"),
        ("ABCD", "w"),
        ("AB = 9", "llmn"),
        ("2abcd", "nllll"),
        ("mass", "w"),
        ("ab + c", "llml"),
        ("41 or 42", "nwn"),
        ("sin x", "fl"),
        ("sinx", "fl"),
        ("\\operatorname{sin} x", "fl"),
        ("\\mathrm{e}^x", "wml"),
        ("5 in", "nw"),
        ("e^{in}", "lmmllm"),
        ("x in [0,1]", "lmmnmnm"),
        ("5 m/s", "nwmw"),
        ("5 m²", "nwmmnm"),
        ("5 m^2", "nlmn"),
        ("May", "w"),
        ("Mgh + 1", "lllmn"),
        ("4:30 p.m.", "nmnw"),
        ("4\u200b2", "nun"),
        ("1, \\ldots", "nmu"),
        ("42 \\phantom{1}", "numnm"),
        ("\\phantom{-}1", "n"),
        ("٤٢", "n"),  # digits are digits in any script
    ],
)
def test_kinds(text, kinds):
    assert "".join(token.kind[0] for token in lexer.read(text)) == kinds


@pytest.mark.parametrize(
    "text", ["", " ", "$$", "\\[", "\\text{}", "()", "=", "?", "."]
)
def test_what_says_nothing(text):
    assert not lexer.speaks(lexer.read(text))


@pytest.mark.parametrize("text", ["0", "∞", "∅", "\\mathbb{R}", "x", "\\text{no}", "½"])
def test_what_says_something(text):
    assert lexer.speaks(lexer.read(text))
