"""How tests compile, in their own process and in programs that they start."""

import importlib.metadata
import os

# Compiling is most of what tests take; at level 1 it takes a quarter less. At level 0
# sums are rounded more coarsely than the tests allow. The older emitters, which jaxlib
# 0.10 still has, take another quarter off.
QUICK = "--xla_backend_optimization_level=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
# Programs that compile for longer are kept; by itself JAX keeps those of 1 s.
KEPT_S = 0.1


def of_program(**more: str) -> dict[str, str]:
    """Of a program that a test starts: one device, quick compilation, and the cache of
    these tests, so that programs that are started alike compile once."""
    import jax

    env = dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS=QUICK, PYTHONUNBUFFERED="1")
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(KEPT_S)
    if folder := jax.config.jax_compilation_cache_dir:
        env["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    return env | more
