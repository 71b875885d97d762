"""How the learner's work is cut, against compiled programs and by hand."""

import importlib.util
import pathlib

import jax
import pytest

from benchmarks import plans
from hapo_jax import plan as plan_lib
from hapo_jax.config import resolution
from hapo_jax.learner import cuts, head
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import sharding
from hapo_jax.system import target

GIB = 2**30
CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs/paper"
# What a compiler said of updates of Qwen2.5-1.5B: GiB of arguments and temporaries; of
# so many rows, their width, remat, devices that share the parameters.
GPU = [
    (17.27 + 17.23, 16, 1536, "full", 1),
    (17.31 + 26.73, 16, 4608, "full", 1),
    (17.31 + 59.7, 8, 4608, "dots", 1),
    (2.16 + 4.97, 2, 4608, "full", 8),
]


def config(name: str):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return resolution.resolve(module.get_config()).config


def parameters(model) -> int:
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    policy = policy_lib.make(model, None, "", "float32", mesh)
    return sharding.per_device(policy.abstract_params, policy.train_shardings) // 4


@pytest.mark.parametrize(("gib", "rows", "width", "remat", "fsdp"), GPU)
def test_estimates_for_gpus(gib, rows, width, remat, fsdp):
    model = plan_lib.model_config(config("qwen2_5_math_1_5b"))
    count = parameters(model) // fsdp
    there_is = cuts.Memory(100 * GIB, 12 * count, count)
    cut = cuts.Cut(rows, remat, 220 // fsdp, 0.0)
    with target.compile_for(target.Target("gpu", 100 * GIB)):
        needed = cuts.update_bytes(model, there_is, cut, width, 1) / GIB
    assert gib <= needed <= 1.15 * gib


@pytest.mark.parametrize("case", plans.CASES, ids=str)
def test_estimates_for_tpus(case):
    """The plans that are kept were compiled with libtpu."""
    plan, c = plans.load(case), config(case.config)
    (update,) = (p for p in plan["phases"] if p["name"] == "update")
    real = sum(
        update[f"{kind}_bytes"] for kind in ("arguments", "outputs", "temporaries")
    )
    model = plan_lib.model_config(c)
    count = parameters(model) // plan["devices"]
    there_is = cuts.Memory(plan["hbm_bytes"], 12 * count, count)
    width = c.rollout.max_prompt_tokens + c.rollout.max_completion_tokens
    width += -width % 128
    cut = cuts.Cut(1, case.remat, c.learner.chunk_tokens, 0.0)
    with target.compile_for(target.Target("tpu", plan["hbm_bytes"])):
        needed = cuts.update_bytes(model, there_is, cut, width, c.mesh.tensor)
    assert 0.9 * real <= needed <= 1.2 * real


def choose(gib: float, **changes) -> cuts.Cut:
    model = plan_lib.model_config(config("qwen2_5_math_1_5b"))
    usable, count = gib * GIB, 1_543_714_304
    settings = dict(width=1536, most_rows=256, shards=1, tensor=1)
    with target.compile_for(target.Target("gpu", int(usable))):
        there_is = cuts.Memory(usable, 12 * count, count)
        return cuts.choose(model, there_is, **settings | changes)


def test_memory_decides_what_the_backward_pass_makes_again():
    roomy, tight = choose(97), choose(38)
    assert (roomy.remat, roomy.rows) == ("dots", 4)  # 6,144 of at most 8,192 tokens
    assert tight.remat == "full"
    assert tight.needed <= 38 * GIB
    # Where nothing fits, the least is tried: the device says what it lacks.
    assert choose(20)[:2] == (1, "full")
    # Rows longer than what products need come one at a time.
    assert choose(97, width=16_384).rows == 1


def test_what_the_config_sets_stays():
    assert choose(97, remat="full", rows=16, head_tokens=220)[:3] == (16, "full", 220)
    assert choose(35, remat="dots").remat == "dots"


def test_on_a_cpu_the_cut_follows_from_its_caches():
    model = plan_lib.model_config(config("qwen2_5_math_1_5b"))
    cut = cuts.choose(
        model, cuts.Memory(1.0, 2, 3), width=300, most_rows=64, shards=8, tensor=1
    )
    # 128 MiB of logits over all devices, which share the machine.
    assert cut == cuts.Cut(4, "dots", 2**27 // (4 * model.vocab_size) // 8, 0.0)


@pytest.mark.parametrize(
    ("platform", "gib", "tensor", "expected"),
    [
        ("gpu", 97, 1, 4096),
        ("gpu", 55, 1, 2944),
        ("tpu", 14.5, 1, 768),
        ("tpu", 14.5, 2, 1536),
        ("tpu", 0.1, 1, 128),
    ],
)
def test_the_head_takes_its_share_of_a_device(platform, gib, tensor, expected):
    """However many devices there are: 1/32 of each one's memory, in float32."""
    with target.compile_for(target.Target(platform, int(gib * GIB))):
        for shards in (1, 8, 64):
            tokens = head.chunk_tokens(
                151_936, shards=shards, tensor=tensor, usable=gib * GIB
            )
            assert tokens == expected
