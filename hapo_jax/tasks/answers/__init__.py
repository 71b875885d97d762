"""Mathematical answers, read whole or not at all, and compared.

    lexer      text as tokens, each in one spelling
    units      words behind a number: units, nouns, and what is neither
    formula    tokens as a tree
    numeric    whether two scalar trees have one value
    regions    intervals, sets and inequalities
    relations  equations, and what `x = 5` says
    equality   whether two answers are one; start reading here

`math.py` calls `equality` for the gradings `lenient` and `strict`.
"""
