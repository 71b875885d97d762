"""Checkpoints: bit-equal on any mesh, and a broken one costs one step back."""

import json
import pathlib
import socket
import subprocess
import sys
import textwrap
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hapo_jax.runs import checkpoint
from hapo_jax.system import errors
from hapo_jax.runs import fingerprint
from hapo_jax.runs import host_tree

EXTRA = {
    "cursor": {"epoch": 1, "order": "a\u00e9\ud800", "rate": float("inf")},
    "groups": [
        {"tokens": np.arange(6, dtype=np.int32).reshape(2, 3), "mask": np.ones(2, bool)}
    ],
    "none": None,
}


def make_state(mesh, *, seed=0):
    """A sharded state with the kinds of nodes that a learner has."""

    def place(x):
        spec = P("fsdp", "tensor") if x.ndim == 2 else P()
        return jax.device_put(x, NamedSharding(mesh, spec))

    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "kernel": jax.random.normal(keys[0], (64, 32)),
        "half": jax.random.normal(keys[1], (8, 16), jnp.bfloat16),
        "special": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45], jnp.float32),
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = {
        "params": nnx.State(jax.tree.map(nnx.Param, params)),
        "optimizer": tx.init(params),
        "seen": jnp.asarray(seed, jnp.int32),
    }
    return jax.tree.map(place, state)


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_same_extra(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)


def open_folder(path, **options):
    return checkpoint.Checkpoints(path, **({"keep_latest": 3} | options))


@pytest.fixture
def saved(tmp_path, mesh8):
    """A folder with the steps 1, 2, 3, and their states."""
    states = {step: make_state(mesh8((2, 2, 2)), seed=step) for step in (1, 2, 3)}
    with open_folder(tmp_path) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, extra=EXTRA | {"step": step})
    return tmp_path, states


@pytest.mark.parametrize("shape", [(2, 2, 2), (8, 1, 1), (1, 8, 1)])
def test_restores_the_same_bits_onto_any_mesh(saved, mesh8, shape):
    path, states = saved
    target = abstract(make_state(mesh8(shape)))
    with open_folder(path) as checkpoints:
        restored = checkpoints.restore_latest(target)
    assert restored.step == 3
    assert_same_bits(restored.state, states[3])
    assert_same_extra(restored.extra, EXTRA | {"step": 3})
    for leaf, want in zip(
        jax.tree.leaves(restored.state), jax.tree.leaves(target), strict=True
    ):
        assert leaf.sharding == want.sharding


def test_an_empty_folder_has_nothing_to_restore(tmp_path, mesh8):
    with open_folder(tmp_path / "new") as checkpoints:
        assert checkpoints.restore_latest(abstract(make_state(mesh8()))) is None


def test_partial_reads_the_parameters_alone(saved):
    path, states = saved
    wanted = {"params": states[2]["params"]}
    with open_folder(path, read_only=True) as checkpoints:
        assert_same_bits(checkpoints.restore(2, wanted, partial=True).state, wanted)
        with pytest.raises(ValueError, match=r"optimizer\.1.*expected nothing"):
            checkpoints.restore(2, wanted)


def test_the_state_may_be_donated_right_after_save(tmp_path, mesh8):
    # On CPU a host view of an array can be its own memory: writing in the background
    # from such a view would save what the next step put there.
    state = {
        "x": jax.device_put(
            jnp.zeros((1024, 1024)), NamedSharding(mesh8(), P(("data", "fsdp")))
        )
    }
    add = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    with open_folder(tmp_path, keep_latest=6) as checkpoints:
        for step in range(6):
            checkpoints.save(step, state)
            for _ in range(5):
                state = add(state)
        checkpoints.wait()
        for step in range(6):
            x = checkpoints.restore(step, abstract(state)).state["x"]
            np.testing.assert_array_equal(np.asarray(x), 5.0 * step)


def step_files(folder):
    return [p for p in sorted(folder.rglob("*")) if p.is_file()]


def value_files(folder):
    """The files of values: those lie in folders `d`, beside text about them."""
    return [p for p in step_files(folder) if p.parent.name == "d"]


def each_value(damage, item):
    # All of them: orbax copies small values while merging what each process wrote, and
    # damage to a file that it no longer reads would show nothing.
    return lambda step: [damage(p) for p in value_files(step / item)]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    for p in step_files(folder):
        p.unlink()


DAMAGES = {
    "data deleted": each_value(pathlib.Path.unlink, "state"),
    "data truncated": each_value(truncate, "state"),
    "bits of the data flipped": each_value(flip, "state"),
    "bits of extra flipped": each_value(flip, "extra"),
    "manifest deleted": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "manifest garbage": lambda step: flip(step / "state" / "manifest.ocdbt"),
    "record truncated": lambda step: truncate(step / "record" / "metadata"),
    "record garbage": lambda step: flip(step / "record" / "metadata"),
    "record zeros": lambda step: (step / "record" / "metadata").write_bytes(b"\0" * 99),
    "files gone, folders left": empty,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_broken_newest_checkpoint_falls_back_and_says_so(saved, caplog, damage):
    path, states = saved
    damage(path / "3")
    with open_folder(path, read_only=True) as checkpoints:
        assert checkpoints.restore_latest(abstract(states[2])).step == 2
    assert (path / "3").exists(), "a reader must not touch the folder"

    with open_folder(path) as checkpoints:
        restored = checkpoints.restore_latest(abstract(states[2]))
        assert restored.step == 2
        assert_same_bits(restored.state, states[2])
        assert_same_extra(restored.extra, EXTRA | {"step": 2})
        assert "checkpoint of step 3" in caplog.text
        assert "is broken" in caplog.text
        # Step 3 comes again and must be saved again.
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.save(3, states[3])
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(3, abstract(states[3])).state, states[3])
    assert (path / "3.broken").exists()


def test_one_flipped_bit_among_many_values_is_noticed(tmp_path):
    # The case that orbax alone would restore without a word.
    state = {"x": jax.random.normal(jax.random.key(0), (1 << 18,))}
    with open_folder(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        flip(max(value_files(tmp_path / "1"), key=lambda p: p.stat().st_size))
        with pytest.raises(ValueError, match="the values of x are not those saved"):
            checkpoints.restore(1, abstract(state))


def test_any_single_damaged_file_is_noticed_or_harmless(tmp_path):
    state = {"x": jnp.arange(1000.0)}
    target = abstract(state)
    with open_folder(tmp_path) as checkpoints:
        checkpoints.save(1, state, extra=EXTRA)
        checkpoints.wait()
        outcomes = set()
        for file in step_files(tmp_path / "1"):
            for damage in (pathlib.Path.unlink, truncate, flip):
                original = file.read_bytes()
                damage(file)
                try:
                    restored = checkpoints.restore(1, target)
                except ValueError as error:
                    assert "is broken" in str(error)
                    outcomes.add("noticed")
                else:
                    assert_same_bits(restored.state, state)
                    assert_same_extra(restored.extra, EXTRA)
                    outcomes.add("harmless")
                file.write_bytes(original)
        assert outcomes == {"noticed", "harmless"}
        assert_same_bits(checkpoints.restore(1, target).state, state)


def test_all_broken_is_an_error_that_names_the_folder(saved):
    path, states = saved
    for step in states:
        empty(path / str(step))
    with open_folder(path) as checkpoints:
        with pytest.raises(errors.Refused, match="All checkpoints in .* are broken"):
            checkpoints.restore_latest(abstract(states[1]))
        with pytest.raises(errors.Refused, match="step=2: the checkpoint .* is broken"):
            checkpoints.restore(2, abstract(states[1]))
        assert checkpoints.steps() == [1, 2, 3]


def test_a_state_of_another_shape_is_refused_not_called_broken(saved):
    path, states = saved
    other = states[3] | {"seen": jnp.zeros((2,), jnp.int32)}
    other["more"] = jnp.zeros(())
    with open_folder(path) as checkpoints:
        with pytest.raises(errors.Refused, match="another model") as error:
            checkpoints.restore_latest(abstract(other))
        assert "seen: saved int32[], expected int32[2]" in str(error.value)
        assert "more: saved nothing, expected float32[]" in str(error.value)
        with pytest.raises(errors.Refused, match="step=7"):
            checkpoints.restore(7, abstract(states[3]))


def test_a_process_killed_while_saving_leaves_the_checkpoint_before(tmp_path):
    script = textwrap.dedent(f"""
        import os, signal, threading, time
        import jax.numpy as jnp
        from hapo_jax.runs import checkpoint
        c = checkpoint.Checkpoints({str(tmp_path)!r}, keep_latest=2)
        c.save(1, {{"x": jnp.full((2048, 2048), 1.0)}})
        c.wait()
        def kill_when_writing():
            while True:
                if any("tmp" in name for name in os.listdir({str(tmp_path)!r})):
                    os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=kill_when_writing).start()
        c.save(2, {{"x": jnp.full((2048, 2048), 2.0)}})
        time.sleep(60)
    """)
    done = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert done.returncode < 0
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name]

    target = abstract({"x": jnp.zeros((2048, 2048))})
    with open_folder(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(target)
        assert restored.step == 1
        assert float(restored.state["x"].min()) == 1.0
        assert checkpoints.save(2, restored.state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


PROCESS = """
import pathlib, sys
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
from hapo_jax.runs import checkpoint

rank, port, path = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, rank)
sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ("x",)), P("x"))
values = np.arange(16000, dtype=np.float32).reshape(16, 1000)

def state(step):
    make = lambda index: values[index] + step
    return {"x": jax.make_array_from_callback(values.shape, sharding, make)}

with checkpoint.Checkpoints(path, keep_latest=3) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, state(step), extra=[np.arange(step)])
    assert checkpoints.restore_latest(state(0)).step == 2
    multihost_utils.sync_global_devices("before the damage")
    if rank == 0:
        # Values that process 1 alone reads.
        files = (path / "2/state/ocdbt.process_1").rglob("*")
        largest = max(files, key=lambda p: p.stat().st_size * p.is_file())
        largest.write_bytes(largest.read_bytes()[:100])
    multihost_utils.sync_global_devices("after the damage")
    restored = checkpoints.restore_latest(state(0))
    assert restored.step == 1 and restored.extra[0].tolist() == [0]
    for shard in restored.state["x"].addressable_shards:
        np.testing.assert_array_equal(shard.data, values[shard.index] + 1)
    assert checkpoints.steps() == [1]
    assert checkpoints.save(2, state(2))
"""


@pytest.mark.slow
def test_two_processes_go_back_together_when_one_meets_the_damage(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", PROCESS]
    both = [
        subprocess.Popen(
            [*command, rank, port, str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], errors
    assert "another process cannot read its state" in errors[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "2.broken"]


def test_keeps_the_newest_and_the_best(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.2, 4: None, 5: float("nan"), 6: 0.5, 7: 0.3}
    options = {"keep_latest": 2, "keep_best": 2, "best_metric": "eval/accuracy"}
    for steps in ((1, 2, 3), (4, 5, 6, 7)):  # The scores must survive a restart.
        with open_folder(tmp_path, **options) as checkpoints:
            for step in steps:
                checkpoints.save(step, {"x": jnp.zeros(2)})
                if scores[step] is not None:
                    checkpoints.score(step, {"eval/accuracy": scores[step]}, None)
            checkpoints.wait()
    with open_folder(tmp_path, **options) as checkpoints:
        assert checkpoints.steps() == [2, 6, 7]
        assert checkpoints.best_step() == 2


def best_after(path, scores, protocol, **options):
    """Saves steps with scores; the steps that are kept, and the best of them."""
    options = {
        "keep_latest": 1,
        "keep_best": 1,
        "best_metric": r"eval/avg@\d+",
    } | options
    with open_folder(path, **options) as checkpoints:
        for step, score in scores.items():
            metrics = {f"eval/avg@{protocol['k'] if protocol else 8}": score}
            checkpoints.save(step, {"x": jnp.zeros(2)})
            checkpoints.score(step, metrics, protocol)
        checkpoints.wait()
        return checkpoints.steps(), checkpoints.best_step()


@pytest.mark.parametrize("other", [{"k": 4, "top_p": 1.0}, {"k": 8, "top_p": 0.9}])
def test_scores_of_another_protocol_neither_rank_nor_delete(tmp_path, other):
    first = {"k": 8, "top_p": 1.0}
    assert best_after(tmp_path, {1: 0.9, 2: 0.5, 3: 0.4}, first) == ([1, 3], 1)
    # Resumed, before anything is evaluated the other way.
    assert best_after(tmp_path, {}, other) == ([1, 3], 1)
    assert best_after(tmp_path, {4: 0.1, 5: 0.2, 6: 0.15}, other) == ([1, 5, 6], 5)
    # And back: scores of the first protocol compete with each other again.
    assert best_after(tmp_path, {7: 0.3, 8: 0.2}, first) == ([1, 5, 8], 1)
    assert best_after(tmp_path, {9: 0.95, 10: 0.2}, first) == ([5, 9, 10], 9)
    # More of each are kept on demand, and none without. A step is saved before it is
    # evaluated, so the second best is still there.
    assert best_after(tmp_path, {11: 0.3}, first, keep_best=2)[0] == [5, 9, 10, 11]
    assert best_after(tmp_path, {12: 0.1}, first, keep_best=0) == ([12], 12)


def test_scores_of_a_version_without_protocols_keep_their_best(tmp_path):
    scores = {1: 0.9, 2: 0.5, 3: 0.4}
    assert best_after(tmp_path, scores, None) == ([1, 3], 1)
    # They kept scores in the records.
    (tmp_path / "scores.json").unlink()
    for record in tmp_path.glob("*/record/metadata"):
        content = json.loads(record.read_text())["content"]
        content["metrics"] = {"eval/avg@8": scores[content["step"]]}
        whole = {"content": content, "crc32": checkpoint._crc(content)}
        record.write_text(json.dumps(whole))
    assert best_after(tmp_path, {}, None) == ([1, 3], 1)
    assert best_after(tmp_path, {4: 0.1, 5: 0.05}, {"k": 8}) == ([1, 4, 5], 4)


@pytest.mark.parametrize("text", ["", "[1]", '{"1": {"metric": "x"}}', '{"x": {}}'])
def test_a_damaged_file_of_scores_costs_no_step(tmp_path, text, caplog):
    assert best_after(tmp_path, {1: 0.9, 2: 0.5}, None) == ([1, 2], 1)
    (tmp_path / "scores.json").write_text(text)
    with open_folder(tmp_path, keep_latest=2, best_metric=r"eval/avg@\d+") as opened:
        assert opened.restore_latest(abstract({"x": jnp.zeros(2)})).step == 2
        assert opened.best_step() is None
    assert "scores.json is damaged" in caplog.text


def test_saving_a_step_again_leaves_it_as_it_is(tmp_path):
    with open_folder(tmp_path) as checkpoints:
        assert checkpoints.save(1, {"x": jnp.zeros(2)})
        assert not checkpoints.save(1, {"x": jnp.ones(2)})
        restored = checkpoints.restore_latest(abstract({"x": jnp.zeros(2)}))
        np.testing.assert_array_equal(restored.state["x"], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_latest": 0}, "keep_latest=0"),
        ({"keep_best": 1}, "needs best_metric"),
        ({"read_only": True}, "does not exist"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path / "absent", **options)


def test_what_cannot_be_saved_is_refused_by_name(tmp_path):
    with open_folder(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"a\.key is key"):
            checkpoints.save(1, {"a": {"key": jax.random.key(0)}})
        with pytest.raises(ValueError, match="host is float64"):
            checkpoints.save(1, {"host": np.zeros(2)})
        with pytest.raises(ValueError, match=r"extra\['a'\]\[1\] is .*Array"):
            checkpoints.save(1, {"x": jnp.zeros(2)}, extra={"a": [0, jnp.zeros(2)]})
        assert checkpoints.steps() == []


def test_host_tree_keeps_values_types_and_emptiness():
    tree = {
        "arrays": [np.zeros((0, 3)), np.asfortranarray(np.eye(3)), np.array("né")],
        "scalars": [True, 1, 2**70, 0.1, float("-inf"), "", None],
        "empty": [{}, []],
        "array": {"list": "keys that look like tags"},
    }
    found = host_tree.unpack(host_tree.pack(tree))
    assert [type(x) for x in found["scalars"]] == [type(x) for x in tree["scalars"]]
    assert_same_extra(found, tree)
    assert np.isnan(host_tree.unpack(host_tree.pack(float("nan"))))
    assert host_tree.unpack(host_tree.pack((1, (2,)))) == [1, [2]]
    with pytest.raises(ValueError, match=r"extra has keys \[3\]"):
        host_tree.pack({3: 1})
    with pytest.raises(ValueError, match="extra has dtype bfloat16"):
        host_tree.pack(np.zeros(2, jnp.bfloat16))


def test_weights_are_known_by_a_number_on_any_mesh(mesh8):
    state = make_state(mesh8((2, 2, 2)))["params"]
    number = fingerprint.of_weights(state)
    assert fingerprint.of_weights(make_state(mesh8((8, 1, 1)))["params"]) == number
    assert fingerprint.of_weights(jax.device_get(state)) == number
    assert fingerprint.of_weights(make_state(mesh8(), seed=1)["params"]) != number
    # Evaluations of earlier versions go on by the same number.
    marks = [int(fingerprint.of_array(leaf)) for leaf in jax.tree.leaves(state)]
    assert number == f"{zlib.crc32(np.array(marks, np.uint32).tobytes()):08x}"


@pytest.mark.parametrize("dtype", ["bool", "int8", "bfloat16", "float32", "uint32"])
def test_fingerprint_sees_every_bit_and_place(dtype):
    x = np.zeros((4, 6), jnp.dtype(dtype))
    x[1, 2] = 1
    original = int(fingerprint.of_array(x))
    moved = np.roll(x, 1)
    assert int(fingerprint.of_array(moved)) != original
    seen = {original}
    for bit in range(1 if dtype == "bool" else 8 * x.itemsize):
        changed = x.copy()
        changed.view(np.uint8)[3, bit // 8] ^= 1 << (bit % 8)
        seen.add(int(fingerprint.of_array(changed)))
    assert len(seen) == 1 + (1 if dtype == "bool" else 8 * x.itemsize)
