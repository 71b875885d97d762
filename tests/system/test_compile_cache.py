"""Where compiled programs are kept, and who keeps them."""

import logging
import os
import subprocess
import sys

import jax
import pytest

from hapo_jax.system import compile_cache

KEEPS = """
import jax, os, sys
from hapo_jax.system import compile_cache
from jax._src import distributed
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
compile_cache.set_up()
distributed.global_state.process_id = int(sys.argv[1])
compile_cache.of_process(int(sys.argv[1]))
jax.jit(lambda x: x * 3 + 1)(1.0)
"""


@pytest.fixture
def restored():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("process", [0, 3])
def test_every_process_keeps_what_it_compiles(tmp_path, process):
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", KEEPS, str(process)]
    subprocess.run(command, env=env, check=True)
    own = tmp_path / f"process_{process}" if process else tmp_path
    assert list(own.glob("jit_*")), list(tmp_path.rglob("*"))


@pytest.mark.parametrize("home", ["/dev/null/x", None])
def test_without_a_home_that_can_be_written_it_goes_on_and_says_so(
    home, monkeypatch, caplog, restored
):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    if home is None:  # nor has the user one
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    else:
        monkeypatch.setenv("HOME", home)
    with caplog.at_level(logging.WARNING):
        compile_cache.set_up()
    assert jax.config.jax_compilation_cache_dir is None
    assert "Compiled programs are not kept" in caplog.text
    assert "JAX_COMPILATION_CACHE_DIR" in caplog.text


def test_a_folder_that_is_given_is_taken(tmp_path, restored):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "a"))
    compile_cache.set_up()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a")
    assert (tmp_path / "a").is_dir()
