"""Plans: their numbers against hand-computed ones, and what cannot fit."""

import dataclasses
import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import plans
from hapo_jax import plan as plan_lib
from hapo_jax.config import defaults, presets
from hapo_jax.model import sharding
from hapo_jax.planning import chips, counts, estimate, programs
from hapo_jax.rollout import memory
from hapo_jax.system import target

V, D, F, L, H, K, C = 4096, 512, 1024, 2, 4, 4, 128
P, T = 128, 128
PROMPTS, GROUP = 32, 4
PAPER = sorted((pathlib.Path(__file__).parent.parent / "configs/paper").glob("*.py"))

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, which holds the compiler for TPUs, is not installed (extra `plan`)",
)


def small_config(**changes):
    c = defaults.default()
    c.task.name = "countdown"
    game = dict(numbers=3, max_number=9, operators="+-*", operations=1)
    c.task.train = dict(split="train", size=8, seed=0, **game)
    c.task.test = dict(split="test", size=8, seed=0, **game)
    c.model.sizes = dict(
        model_type="llama",
        vocab_size=V,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=K,
        head_dim=C,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
    )
    c.mesh.data, c.mesh.fsdp = 1, -1
    c.rollout.batch_prompts = c.rollout.round_prompts = PROMPTS
    c.rollout.group_size = GROUP
    c.rollout.max_prompt_tokens, c.rollout.max_completion_tokens = P, T
    c.learner.minibatch_prompts = 16
    c.learner.remat = "full"
    # A mini-batch and a device's completions, no more: padding is computed too.
    c.learner.micro_rows, c.learner.chunk_tokens = 16 * GROUP, 16 * GROUP * T // 16
    c.update_from_flattened_dict(changes)
    return c.lock()


@pytest.fixture(scope="module")
def planned():
    """The plan of the small config for v5e:4x4, all four programs compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        return plan_lib.plan(small_config(), "v5e:4x4")


def num_parameters() -> int:
    layer = D * C * (2 * H + 2 * K) + 3 * D * F + 2 * D
    return 2 * V * D + L * layer + D


@needs_libtpu
@pytest.mark.long
def test_a_plan_obeys_hand_computed_numbers(planned):
    phases = {phase["name"]: phase for phase in planned["phases"]}
    assert list(phases) == ["prefill", "decode", "score", "update"]
    assert planned["fits"]
    assert (planned["devices"], planned["devices_per_host"]) == (16, 4)
    assert not any(phase["uncounted_kernels"] for phase in phases.values())

    # Score holds parameters; update the two moments too. The rest is packed tokens.
    n = num_parameters()
    assert phases["score"]["resident_bytes"] == pytest.approx(2 * 4 * n / 16, rel=0.02)
    difference = phases["update"]["arguments_bytes"] - 3 * 4 * n / 16
    assert 0 < difference < 0.1 * 3 * 4 * n / 16

    # Each of 64 completions: 6 operations per weight and token, and the pairs of causal
    # attention; the head for completions alone.
    rows, length = 16 * GROUP, P + T
    layers = n - 2 * V * D - (2 * L + 1) * D
    useful = 6 * rows * (layers * length + V * D * T)
    useful += 3 * rows * L * 4 * H * C * length * (length + 1) / 2
    assert phases["update"]["useful_flops"] == pytest.approx(useful / 16, rel=0.02)
    # Forward again in the backward pass, and whole blocks of attention.
    assert 1.2 < phases["update"]["flops_over_useful"] < 1.7
    # Each row is full of one sequence.
    filled = phases["update"]["filled_flops"]
    assert filled == pytest.approx(phases["update"]["useful_flops"], rel=1e-6)
    # The products with weights at least, of 8 rows per device and 16 tokens. Attention
    # has one query per key head here: compiled elementwise, it is no product.
    weights = 2 * 8 * 16 * (layers + V * D)
    assert weights <= phases["decode"]["flops"] <= phases["decode"]["useful_flops"]
    assert planned["step_s"] > 0


@needs_libtpu
@pytest.mark.long
def test_a_plan_can_be_shown(planned, capsys):
    plan_lib.show(planned)
    shown = capsys.readouterr().out
    for word in ("prefill", "update", "collectives", "list price"):
        assert word in shown


@needs_libtpu
def test_slots_that_cannot_fit_are_refused_before_compiling():
    config = small_config(**{"rollout.slots": 999_936})
    with pytest.raises(memory.DoesNotFit, match="lower it, or raise"):
        plan_lib.plan(config, "v5e:4x4")


@needs_libtpu
def test_a_program_that_cannot_fit_says_how_much_it_needs():
    topology = chips.topology("v5e:2x2")
    mesh = jax.sharding.Mesh(np.array(topology.devices), "x")
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    lowered = jax.jit(
        lambda x: jnp.sort(x, 0).sum(), in_shardings=whole, out_shardings=whole
    ).lower(jax.ShapeDtypeStruct((3 * 2**18, 8192), jnp.bfloat16))
    program = programs.Program("update", lowered, mesh, (), 1, 1.0, 0)
    phase = estimate.measure(program, topology)
    assert not phase.fits
    assert phase.peak_bytes > topology.chip.hbm_bytes
    advice = estimate.remedies(small_config(), [phase], topology)
    assert 2 <= len(advice) <= 3
    shown = plan_lib.summarise(small_config(), topology, T, [phase])
    assert not shown["fits"]
    assert "step_s" not in shown


@needs_libtpu
def test_gradients_of_tables_are_scattered_and_not_summed_everywhere():
    """Of a lookup and a head in a loop over micro-batches, as an update has them.

    With a tensor axis, as the paper's configs have: over all chips of a v5e at once the
    compiler makes an all-reduce of it.
    """
    topology = chips.topology("v5e:4x4")
    mesh = sharding.make_mesh(fsdp=-1, data=1, tensor=2, devices=topology.devices)
    rows, D, T, m = 2**16, 1024, 128, mesh.shape["fsdp"]

    def gradients(table, tokens, d_hidden, d_weight, num_micros):
        def add(_, total):
            _, pull = jax.vjp(lambda table: sharding.lookup(table, tokens), table)
            total = total + pull(d_hidden)[0] + sharding.sum_shards(d_weight)
            return jax.lax.optimization_barrier(total)

        return jax.lax.fori_loop(0, num_micros, add, jnp.zeros((rows, D)))

    by_row, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    split = sharding.of_axes(mesh, sharding.TRAIN_RULES, "vocab", "embed")
    shapes = [(rows, D), (m, T), (m, T, D), (m, D, rows), ()]
    kinds = [jnp.float32, jnp.int32, jnp.float32, jnp.float32, jnp.int32]
    with jax.set_mesh(mesh):
        compiled = (
            jax.jit(
                gradients,
                in_shardings=(split, by_row, by_row, by_row, whole),
                out_shardings=split,
            )
            .lower(*map(jax.ShapeDtypeStruct, shapes, kinds))
            .compile()
        )
    found = counts.count(compiled.as_text(), (1,)).collectives
    assert not [c for c in found if c.kind == "all-reduce" and c.nbytes > 4 * rows]
    scattered = [c.nbytes for c in found if c.kind == "reduce-scatter"]
    own = 4 * rows // 2 * D
    assert sum(scattered) == pytest.approx(2 * own, rel=0.02)  # rows are padded


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e", "v7:4x4", "v5e:5x7x9"])
def test_unknown_topologies_are_refused(name):
    with pytest.raises(ValueError, match="--topology="):
        chips.topology(name)


def test_programs_are_made_for_the_target_and_then_for_this_machine_again():
    with target.compile_for(target.Target("tpu", 16)):
        assert (target.platform(), memory.device_bytes()) == ("tpu", 16)
    assert target.platform() == jax.default_backend()


@pytest.mark.slow
def test_memory_per_device_falls_with_the_number_of_devices(devices):
    config = small_config()
    for count in (2, 4, 8):
        lowered = programs.programs(
            config,
            plan_lib.model_config(config),
            devices[:count],
            devices[:1],
            completion_tokens=T,
        )
        moments = lowered[2].resident_bytes
        assert moments == pytest.approx(2 * 4 * num_parameters() / count, rel=0.01)


def test_a_plan_counts_a_value_head_and_what_is_imitated(devices):
    """The head and Adam's moments of it are there while it samples; a mini-batch has
    more rows by a quarter, so that a fifth of them are demonstrations."""
    found = {}
    for method in ("grpo", "ppo", "chord"):
        config = presets.apply_method(
            small_config().copy_and_resolve_references(), method
        )
        with config.unlocked():
            config.algo.kl.strength = 0.0
        found[method] = programs.programs(
            config,
            plan_lib.model_config(config),
            devices[:1],
            devices[:1],
            completion_tokens=T,
        )
    kept = {method: prefill.resident_bytes for method, (prefill, *_) in found.items()}
    assert kept["ppo"] - kept["grpo"] == 3 * 4 * (D + 1)
    assert kept["chord"] == kept["grpo"]
    needed = {method: lowered[-1].flops for method, lowered in found.items()}
    assert needed["ppo"] == needed["grpo"]
    assert needed["chord"] == pytest.approx(needed["grpo"] * 1.25, rel=0.02)


def test_slots_are_of_all_processes_as_in_a_run(devices):
    """Eight devices in hosts of two: four processes, with a quarter of the slots."""
    for slots, own in ((64, 16), (0, PROMPTS * GROUP // 4)):
        config = small_config(**{"rollout.slots": slots})
        _, decode, *_ = programs.programs(
            config,
            plan_lib.model_config(config),
            devices,
            devices[:2],
            completion_tokens=T,
        )
        state = decode.lowered.args_info[0][1]
        assert state.alive.shape == (own,)
    with pytest.raises(ValueError, match="multiple of the 4 processes"):
        programs.programs(
            small_config(**{"rollout.slots": 66}),
            plan_lib.model_config(config),
            devices,
            devices[:2],
            completion_tokens=T,
        )


def load_paper(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_configs_of_the_paper(path):
    module = load_paper(path)
    hapo, dapo = module.get_config(), module.get_config("method=dapo")
    assert hapo.algo.temperature.strength == 0.1
    assert dapo.algo.temperature.strength == dapo.algo.clip.strength == 0
    assert (dapo.algo.clip.low, dapo.algo.clip.high) == (0.2, 0.28)
    model = plan_lib.model_config(hapo)
    longest = hapo.rollout.max_prompt_tokens + hapo.rollout.max_completion_tokens
    assert longest <= model.max_positions
    assert model.num_kv_heads % hapo.mesh.tensor == 0
    assert dataclasses.replace(model) == model
    for word in ("hapo-plan", "--topology=", "HAPO"):
        assert word in module.__doc__


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_configs_of_the_paper_say_what_their_kept_plans_say(path):
    said = " ".join(load_paper(path).__doc__.split())
    topology = re.search(r"--topology=(\S+)", said).group(1)
    mean = int(re.search(r"--completion_tokens=(\d+)", said).group(1))
    case = plans.Case(path.stem, topology, mean)
    assert case in plans.CASES
    plan = plans.load(case)
    assert plan["fits"]
    assert plan["mean_completion_tokens"] == mean
    hbm = plan["hbm_bytes"] / 2**30
    assert f"fits on {topology}" in said
    assert f"at most {plans.peak_gib(plan):.1f} of {hbm:.2f} GiB" in said
    assert f"{plan['step_s']:.0f} s per step" in said
    assert f"{case.name}.json" in said


def test_the_tables_of_the_kept_plans_are_made_from_them():
    assert (plans.RESULTS / "README.md").read_text() == plans.tables()
