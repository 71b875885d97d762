"""Mathematical answers, read whole or not at all, and compared.

    spelling   how signs are spelt: tables
    lexer      text as tokens, each in one spelling
    units      words behind a number: units, nouns, and what is neither
    trees      what trees are
    formula    tokens as a tree
    values     the value of a scalar tree
    numeric    whether two scalar trees have one value
    matrices   arithmetic of matrices
    regions    intervals, sets and inequalities
    relations  equations, and what `x = 5` says
    equality   whether two answers are one; start reading here

`math.py` calls `equality` for the gradings `lenient` and `strict`.
"""
