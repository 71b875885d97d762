"""Every program of a run, lowered for GPUs and TPUs that are not there.

At the sizes of the demo and of the paper, in bfloat16 and with packing; nothing is
allocated or compiled.
"""

import importlib.util
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from hapo_jax import assembly, run_programs, sft
from hapo_jax import plan as plan_lib
from hapo_jax.config import check
from hapo_jax.learner import shapes as learner_shapes
from hapo_jax.model import policy as policy_lib
from hapo_jax.rollout.sampler import Sampling, Truncation
from hapo_jax.system import target
from hapo_jax.system.compile_ahead import Jitted, Program

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
LIMIT = 2**20  # bytes of one constant
GIB = 2**30
# Memory of the device, and what JAX calls the platform.
TARGETS = {
    "cuda": target.Target("gpu", 60 * GIB),
    "tpu": target.Target("tpu", int(15.75 * GIB)),
}


def load(name: str):
    path = CONFIGS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    c = module.get_config().copy_and_resolve_references().unlock()
    c.model.dtype, c.learner.packing = "bfloat16", True
    if name == "countdown":
        c.mesh.data, c.mesh.fsdp = 4, 2
    return c


def programs(name: str) -> list[Program]:
    """All programs of hapo-train, of its evaluation and of hapo-sft."""
    c = check.check(load(name), num_devices=8).config
    r, mesh = c.rollout, policy_lib.make_mesh(c)
    policy = policy_lib.make(plan_lib.model_config(c), None, "", "bfloat16", mesh)
    run = assembly.of_policy(c, policy, assembly.make_method(c))
    state, method_state = run.abstract, run.abstract.method_state

    def sampler(top_p, temperature_fn):
        sampling = Sampling(
            stop_ids=(0,),
            pad_id=0,
            truncation=Truncation(top_p=top_p),
            temperature_fn=temperature_fn,
        )
        draws = assembly.Draws(
            sampling=sampling,
            group_size=r.group_size,
            most_rows=r.round_prompts * r.group_size,
        )
        return assembly.make_programs(run, draws)

    sampling = sampler(1.0, run.method.temperature)
    found = run_programs.start_of_sampling(sampling, policy, method_state)
    found += run_programs.wider(sampling, policy, method_state)[-3:]
    found += run_programs.narrower(sampling, policy, method_state)
    evaluation = sampler(0.7, None)
    found += run_programs.start_of_sampling(evaluation, policy, None)[-1:]
    recorded = c.copy_and_resolve_references().unlock()
    recorded.learner.recompute_old_logprobs = False
    imitation = sft.likelihood({"name": "uniform"})
    supervised = assembly.of_policy(recorded, policy, imitation)
    found += run_programs.learning(run) + run_programs.learning(supervised)
    rows = learner_shapes.rows(
        run.learner,
        r.batch_prompts * r.group_size,
        r.max_completion_tokens,
        with_reference=False,
    )
    given = run.learner.prepare.eval_shape(rows, method_state).constants
    current = {"logprobs": rows.old_logprobs, "entropy": rows.old_entropy}
    current = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), current)
    seen = (current, given, method_state)
    found.append(Program("inspect", Jitted(run.learner.inspect), seen, mesh))
    cast = Jitted(run.to_sampler)
    return [*found, Program("to_sampler", cast, (state.params,), mesh)]


def constants(text: str):
    """(bytes, type) of every constant that is not one value throughout."""
    for match in re.finditer(
        r"dense<(\"0x|\[)[^>]*> : tensor<([\dx]*x)([a-z]+\d+)\b", text
    ):
        _, dims, kind = match.groups()
        bits = max(8, int(re.search(r"\d+", kind).group()))
        count = math.prod(int(n) for n in dims.split("x") if n)
        yield count * bits // 8, dims + kind


@pytest.mark.parametrize("platform", TARGETS)
@pytest.mark.parametrize(
    "name",
    ["countdown", pytest.param("paper/qwen2_5_math_1_5b", marks=pytest.mark.long)],
)
def test_every_program_lowers(platform, name, devices, monkeypatch):
    del devices
    for refuses in ("check_cudnn_version", "check_compute_capability"):
        monkeypatch.setattr(cudnn, refuses, lambda *args: 91000)
    with target.compile_for(TARGETS[platform]):
        found = programs(name)
        names = {program.name for program in found}
        assert names == {
            *("weights", "empty", "prefill", "admit", "decode", "move_rows"),
            *("move_layer", "score", "prepare", "update", "inspect", "to_sampler"),
        }
        for program in found:
            text = program.lower((platform,)).as_text()
            about = f"{program.name} for {platform}"
            large = [c for c in constants(text) if c[0] > LIMIT]
            assert not large, f"{about}: constants {large}"
            assert len(text) < 8 * LIMIT, about
            assert not re.search(r"\bf64\b|xf64\b", text), about
            assert "callback" not in text, about


def test_a_constant_is_found():
    big = jnp.arange(2**19).at[3].set(1)
    text = jax.jit(lambda x: x + big).lower(big).as_text()
    assert [size for size, _ in constants(text) if size > LIMIT] == [2**21]
