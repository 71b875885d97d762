"""Counting what a program does, on programs whose counts are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hapo_jax.planning import counts

N = 64


def compiled(function, *shapes, **options) -> str:
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function, **options).lower(*args).compile().as_text()


def test_a_product():
    text = compiled(lambda x, y: x @ y, (N, 3 * N), (3 * N, 2 * N))
    assert counts.count(text).flops == 2 * N * 3 * N * 2 * N


def test_a_loop_counts_as_often_as_it_runs():
    def seven(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=7)[0]

    found = counts.count(compiled(seven, (N, N)))
    assert found.flops == 7 * 2 * N**3
    assert found.assumed_loops == 0


def test_loops_that_end_by_the_data_count_as_told():
    def nested(x, n):
        def outer(_, x):
            return jax.lax.fori_loop(0, n[1].astype(int), lambda _, x: x @ x, x)

        return jax.lax.fori_loop(0, n[0].astype(int), outer, x)

    text = compiled(nested, (N, N), (2,))
    found = counts.count(text, (5, 3))
    assert found.flops == 5 * 3 * 2 * N**3
    assert found.assumed_loops == 2
    with pytest.raises(ValueError, match="give one more"):
        counts.count(text, (5,))


def test_of_two_branches_the_dearer():
    def either(x, wanted):
        return jax.lax.cond(wanted[0] > 0, lambda: x @ x @ x, lambda: x)

    assert counts.count(compiled(either, (N, N), (1,))).flops == 2 * 2 * N**3


def test_bytes_of_a_sum():
    moved = counts.count(compiled(lambda x, y: x + y, (N, N), (N, N))).nbytes
    assert moved == 3 * 4 * N * N


def test_a_slice_is_not_the_whole():
    def layers(x, stacked):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stacked)[0]

    moved = counts.count(compiled(layers, (N, N), (16, N, N))).nbytes
    one = 4 * N * N
    # Each layer once, and a handful of [N, N] around it; never all 16 in each pass.
    assert 16 * one < moved < 16 * 12 * one


def test_collectives(mesh8):
    mesh = mesh8()
    split, whole = (NamedSharding(mesh, spec) for spec in (P("data"), P()))
    text = compiled(lambda x: x * 2, (N, N), in_shardings=split, out_shardings=whole)
    (gather,) = counts.count(text).collectives
    assert (gather.kind, gather.group, gather.times) == ("all-gather", 8, 1)
    assert gather.wire_bytes == pytest.approx(4 * N * N * 7 / 8)

    text = compiled(lambda x: x.sum(0), (N, N), in_shardings=split, out_shardings=whole)
    (reduce,) = counts.count(text).collectives
    assert (reduce.kind, reduce.group) == ("all-reduce", 8)
    assert reduce.wire_bytes == pytest.approx(2 * 4 * N * 7 / 8)


def test_a_reduce_scatter_as_a_tpu_writes_it():
    """One fused step for two arrays: an all-reduce whose parts are sliced."""
    text = """HloModule m

%fused (a: f32[64,8], b: f32[32,8]) -> (f32[16,8], f32[8,8]) {
  %a = f32[64,8]{1,0} parameter(0)
  %b = f32[32,8]{1,0} parameter(1)
  %r = (f32[64,8]{1,0}, f32[32,8]{1,0}) all-reduce(%a, %b), channel_id=1, \
replica_groups=[1,4]<=[4], to_apply=%add
  %r0 = f32[64,8]{1,0} get-tuple-element(%r), index=0
  %r1 = f32[32,8]{1,0} get-tuple-element(%r), index=1
  %zero = s32[] constant(0)
  %s0 = f32[16,8]{1,0} dynamic-slice(%r0, %zero, %zero), dynamic_slice_sizes={16,8}
  %s1 = f32[8,8]{1,0} dynamic-slice(%r1, %zero, %zero), dynamic_slice_sizes={8,8}
  ROOT %t = (f32[16,8]{1,0}, f32[8,8]{1,0}) tuple(%s0, %s1)
}

ENTRY %main (a: f32[64,8], b: f32[32,8]) -> (f32[16,8], f32[8,8]) {
  %a = f32[64,8]{1,0} parameter(0)
  %b = f32[32,8]{1,0} parameter(1)
  ROOT %f = (f32[16,8]{1,0}, f32[8,8]{1,0}) fusion(%a, %b), kind=kCustom, calls=%fused
}
"""
    (scatter,) = counts.count(text).collectives
    assert (scatter.kind, scatter.group) == ("reduce-scatter", 4)
    assert scatter.wire_bytes == 4 * (64 * 8 + 32 * 8) * 3 / 4


def test_a_gather_that_goes_on_during_a_loop_is_one():
    text = """HloModule m

%step (p: f32[4,8]) -> f32[16,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %g = f32[16,8]{1,0} all-gather(%p), channel_id=7, \
replica_groups=[1,4]<=[4], dimensions={0}, frontend_attributes={chain_id="6"}
}

%body (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %f = f32[16,8]{1,0} fusion(%x), kind=kCustom, calls=%step
  ROOT %y = f32[4,8]{1,0} copy(%x)
}

%condition (x: f32[4,8]) -> pred[] {
  %x = f32[4,8]{1,0} parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %start = f32[16,8]{1,0} fusion(%p), kind=kCustom, calls=%step
  ROOT %w = f32[4,8]{1,0} while(%p), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""
    (gather,) = counts.count(text).collectives
    assert (gather.kind, gather.times) == ("all-gather", 1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups=[2,8]<=[8,2]T(1,0)", 8),
        ("replica_groups={{0,2},{1,3}}", 2),
        ("replica_groups=mesh['a'=8,'b'=2] {'b'}, x", 2),
    ],
)
def test_groups_in_every_spelling(text, size):
    assert counts._group(text) == size


def test_products_written_as_convolutions_of_a_tpu():
    """A batch of products [4, 8, 16] · [4, 16, 32], batch as a spatial dimension."""
    text = """HloModule m

ENTRY %main (a: f32[4,8,16], b: f32[4,16,32]) -> f32[4,8,32] {
  %a = f32[4,8,16]{2,1,0} parameter(0)
  %b = f32[4,16,32]{2,1,0} parameter(1)
  ROOT %c = f32[4,8,32]{2,1,0} convolution(%a, %b), window={size=4 stride=3 pad=0_0 \
lhs_dilate=4}, dim_labels=0bf_0io->0bf
}
"""
    assert counts.count(text).flops == 2 * 4 * 8 * 16 * 32
    assert counts.count(text).nbytes == 4 * np.sum(
        [4 * 8 * 16, 4 * 16 * 32, 4 * 8 * 32]
    )


@pytest.mark.parametrize(
    ("kernel", "products", "blocks", "computed"),
    [("fwd", 2, (4, 4), 10), ("dkv", 5, (4, 2), 6), ("dkv", 5, (2, 4), 6)],
)
def test_blocks_of_attention_above_the_diagonal_are_left_out(
    kernel, products, blocks, computed
):
    """Six heads; `blocks` of rows and columns, of which `computed` have a pair."""
    T, C = 1024, 128
    m, n = blocks
    text = f"""\
ENTRY %main (p: s8[1,{m},{n}], q: bf16[6,{T},{C}]) -> bf16[6,{T},{C}] {{
  %p = s8[1,{m},{n}]{{2,1,0}} parameter(0)
  %q = bf16[6,{T},{C}]{{2,1,0}} parameter(1)
  ROOT %splash_mha_{kernel}_segmented.1 = bf16[6,{T},{C}]{{2,1,0}} \
custom-call(%p, %q), custom_call_target="tpu_custom_call", \
operand_layout_constraints={{s8[1,{m},{n}]{{2,1,0}}, bf16[6,{T},{C}]{{2,1,0}}}}, \
frontend_attributes={{kernel_metadata={{}}}}
}}
"""
    found = counts.count(text)
    pairs = computed * (T // m) * (T // n)
    assert found.flops == products * 2 * 6 * C * pairs
    assert not found.unknown


# As a TPU's compiler writes a loop over layers: the slice of a stack of weights is a
# fusion inside the one that multiplies by it; so is the update of a stack of caches.
NESTED = """HloModule nested

%slice (stack: bf16[28,256,128], layer: s32[]) -> bf16[256,128] {
  %stack = bf16[28,256,128]{2,1,0} parameter(0)
  %layer = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = bf16[1,256,128]{2,1,0} dynamic-slice(%stack, %layer, %zero, %zero), dynamic_slice_sizes={1,256,128}
  ROOT %weight = bf16[256,128]{1,0} bitcast(%one)
}

%product (x: bf16[8,256], weights: bf16[28,256,128], at: s32[]) -> bf16[8,128] {
  %x = bf16[8,256]{1,0} parameter(0)
  %weights = bf16[28,256,128]{2,1,0} parameter(1)
  %at = s32[] parameter(2)
  %own = bf16[256,128]{1,0} fusion(%weights, %at), kind=kLoop, calls=%slice
  ROOT %y = bf16[8,128]{1,0} dot(%x, %own), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%put (old: bf16[28,8,128], new: bf16[8,128], where: s32[]) -> bf16[28,8,128] {
  %old = bf16[28,8,128]{2,1,0} parameter(0)
  %new = bf16[8,128]{1,0} parameter(1)
  %where = s32[] parameter(2)
  %none = s32[] constant(0)
  %part = bf16[1,8,128]{2,1,0} bitcast(%new)
  ROOT %now = bf16[28,8,128]{2,1,0} dynamic-update-slice(%old, %part, %where, %none, %none)
}

%write (cache: bf16[28,8,128], k: bf16[8,128], i: s32[]) -> bf16[28,8,128] {
  %cache = bf16[28,8,128]{2,1,0} parameter(0)
  %k = bf16[8,128]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %then = bf16[28,8,128]{2,1,0} fusion(%cache, %k, %i), kind=kLoop, calls=%put
}

ENTRY %main (a: bf16[8,256], b: bf16[28,256,128], c: bf16[28,8,128], d: s32[]) -> bf16[28,8,128] {
  %a = bf16[8,256]{1,0} parameter(0)
  %b = bf16[28,256,128]{2,1,0} parameter(1)
  %c = bf16[28,8,128]{2,1,0} parameter(2)
  %d = s32[] parameter(3)
  %p = bf16[8,128]{1,0} fusion(%a, %b, %d), kind=kOutput, calls=%product
  ROOT %w = bf16[28,8,128]{2,1,0} fusion(%c, %p, %d), kind=kLoop, calls=%write
}
"""  # noqa: E501


def test_slices_and_updates_in_fusions_inside_fusions():
    """One layer's weights are read and not 28, and one layer's keys are written."""
    found = counts.count(NESTED)
    product = 2 * (8 * 256 + 256 * 128 + 8 * 128) + 4
    write = 2 * (8 * 128 + 8 * 128) + 4
    assert found.nbytes == product + write
    assert found.flops == 2 * 8 * 256 * 128
