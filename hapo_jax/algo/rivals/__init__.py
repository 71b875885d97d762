"""Methods of other papers, a module each: its stages, and its row of settings.

    STAGES = {section: {name: function}}     such as {"algo.surrogate": {"aspo": aspo}}
    METHODS = {name: row.Row(...)}

To add one, write its module and name it here; `methods.py` takes up both.
"""

from hapo_jax.algo.rivals import (
    aspo,
    ce_gppo,
    forking,
    gspo,
    gtpo,
)

MODULES = (
    aspo,
    ce_gppo,
    forking,
    gspo,
    gtpo,
)
