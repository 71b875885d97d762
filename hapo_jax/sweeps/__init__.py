"""Sweeps: variants of one experiment, run side by side and compared.

An experiment file says its sweep in a function `sweep(add)`:

    from hapo_jax.sweeps import product

    def sweep(add):
        for changes in product({":method": ("dapo", "hapo"), "seed": range(8)}):
            add(changes)
"""

from hapo_jax.sweeps.ranges import choice, integers, log_uniform, uniform
from hapo_jax.sweeps.variants import product, zipped

__all__ = ["choice", "integers", "log_uniform", "product", "uniform", "zipped"]
