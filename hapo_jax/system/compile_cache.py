"""Compiled programs that are kept from one start to the next.

They lie in XDG_CACHE_HOME or ~/.cache, or where JAX_COMPILATION_CACHE_DIR says. JAX has
process 0 alone write, which helps no other: on TPUs a program belongs to its chips, and
each host samples on its own. So every process writes here, the others each to a folder
of its own, as nothing orders their writes.
"""

import logging
import os
import pathlib
import tempfile
import types

import jax
from jax._src import compiler

_log = logging.getLogger(__name__)


def set_up() -> None:
    """Chooses the folder, before anything is compiled; goes on without if it must."""
    given = jax.config.jax_compilation_cache_dir
    try:
        folder = pathlib.Path(given) if given else _own()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _log.warning(
            "Compiled programs are not kept, so that every start compiles them: %s. "
            "Set JAX_COMPILATION_CACHE_DIR to a folder that can be written.",
            error,
        )
        jax.config.update("jax_compilation_cache_dir", None)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _own() -> pathlib.Path:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "hapo_jax" / "xla"


def of_process(index: int) -> None:
    """Lets this process write, among several; before it compiles."""
    folder = jax.config.jax_compilation_cache_dir
    if not index or not folder:
        return
    jax.config.update("jax_compilation_cache_dir", f"{folder}/process_{index}")
    write = getattr(compiler, "_cache_write", None)
    if write is None or "distributed" not in write.__globals__:
        _log.warning("This version of jax keeps compiled programs of process 0 alone.")
        return
    # The same function, but for whom it takes this process for.
    first = types.SimpleNamespace(global_state=types.SimpleNamespace(process_id=0))
    compiler._cache_write = types.FunctionType(
        write.__code__,
        {**write.__globals__, "distributed": first},
        write.__name__,
        write.__defaults__,
        write.__closure__,
    )
