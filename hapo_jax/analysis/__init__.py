"""The records of runs as data frames and figures; nothing here needs an accelerator.

`frames` reads run folders, `tables` and `words` make numbers of the frames, and
`figures.NAME` draws what the table NAME gives. docs/analysis.md lists them with the
statements of the paper that they test.
"""

from hapo_jax.system.errors import Refused

try:
    import pandas  # noqa: F401
except ImportError:
    raise Refused(
        "hapo_jax.analysis needs pandas: pip install 'hapo_jax[analysis]'."
    ) from None
