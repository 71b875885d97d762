"""Hugging Face folders and problem files, from the config to the run's folder.

The folders are small: a vocabulary of ten words in which guessing is often right. What
only a real vocabulary shows is tested with the data folder, where there is one.
"""

import gzip
import importlib.util
import json
import logging
import os
import pathlib
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from flax import nnx

from hapo_jax import assembly, evaluate, session, sft, train
from hapo_jax.config import defaults, eval_sets, presets
from hapo_jax.evaluation import sampling as sampling_lib
from hapo_jax.model import huggingface, transformer
from hapo_jax.model import policy as policy_lib
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.model.config import ModelConfig
from hapo_jax.rollout import generate
from hapo_jax.runs import alarms
from hapo_jax.runs import folder as folder_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.system import errors, interrupt
from tests import real_data

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402, behind the skip

ROOT = pathlib.Path(__file__).parent.parent
needs_data = pytest.mark.skipif(
    not (real_data.FOLDER / "models" / "qwen3_tokenizer").is_dir(),
    reason="no data folder with the Qwen3 tokenizer; set HAPO_DATA_DIR",
)

SPECIAL = ("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("####", "1", "2", "so", "user", "assistant")
CHAT = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> "
    "{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
GOLD = ("1", "2", "1", "2")


def write_tokenizer(folder):
    """Ten words, a chat template, and two stop tokens over two files."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [vocabulary[SPECIAL[3]], vocabulary[SPECIAL[1]]]})
    )


def write_model(folder, tokenizer, **sizes):
    """A Qwen2 with random weights, in the files that `transformers` reads."""
    settings = dict(
        model_type="qwen2",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    config = ModelConfig.from_hf(settings | sizes)
    model = transformer.Transformer(config, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    huggingface.save_params(
        folder, params, config, dtype=jnp.float32, tokenizer=tokenizer
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a random policy."""
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder / "tokenizer")
    tokenizer = tokenizer_lib.load(folder / "tokenizer")
    assert len(tokenizer.stop_ids) == 2
    # A vocabulary with padding, as Qwen's has.
    write_model(folder / "hf", tokenizer, vocab_size=16)
    return folder / "hf"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Training problems in our schema, and again as shards of another in `hub`, and as
    demonstrations in a table; test problems in verl's."""
    folder = tmp_path_factory.mktemp("data")
    ours = [
        {"id": f"p{i}", "problem": f"so {g}", "answer": g, "solution": f"so #### {g}"}
        for i, g in enumerate(GOLD)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in ours)
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table = [f"so {g},so #### {g}\n" for g in GOLD]
    (folder / "shown.csv").write_text("question,solution\n" + "".join(table))
    (folder / "hub").mkdir()
    theirs = [
        {"number": f"p{i}", "ask": f"so {g}", "reply": f"so\n#### {g}", "level": 1.5}
        for i, g in enumerate(GOLD)
    ]
    for name, rows in (
        ("train-00000-of-00002", theirs[:2]),
        ("train-00001-of-00002", theirs[2:]),
        ("test-00000-of-00001", theirs[:1]),
    ):
        part = pyarrow.Table.from_pylist(rows)
        parquet.write_table(part, folder / "hub" / f"{name}.parquet")
    verl = [
        {
            "prompt": [{"role": "user", "content": f"so {g} so"}],
            "reward_model": {"ground_truth": g, "style": "rule"},
            "data_source": "sums",
            "extra_info": {"index": i},
        }
        for i, g in enumerate(GOLD)
    ]
    table = pyarrow.Table.from_pylist(verl * 2)  # published files repeat their rows
    parquet.write_table(table, folder / "test.parquet")
    return folder


def make_config(checkpoint, data, method="hapo", **changes):
    """Two steps of one update, on eight devices with all three axes."""
    c = defaults.default()
    c.num_steps = 2
    c.task.name = "math"
    c.task.train = dict(
        split="train", path=str(data / "train.jsonl.gz"), prompt_template="{problem} so"
    )
    c.task.test = dict(
        split="test", path=str(data / "test.parquet"), prompt_template=""
    )
    c.model.path = str(checkpoint)
    c.mesh.update(data=2, fsdp=2, tensor=2)
    c.rollout.update(batch_prompts=4, round_prompts=4, group_size=8, chunk_tokens=4)
    c.rollout.update(max_prompt_tokens=12, max_completion_tokens=8)
    c.grading.workers = 1
    c.learner.update(minibatch_prompts=4, learning_rate=1e-2, warmup_steps=0)
    c.eval.update(num_problems=0, k=2)
    c.log.record_every_steps = 1
    c = presets.apply_method(c, method)
    c.update_from_flattened_dict(changes)
    return c.lock()


def in_hub(data):
    """Settings to read the training problems as they are in `hub`."""
    return {
        "task.train.path": str(data / "hub"),
        "task.train.columns": "id=number,problem=ask,answer=reply",
    }


def make_sft_config(checkpoint, data, **changes):
    """Eight updates, each on all four solutions."""
    c = defaults.default_sft()
    c.num_steps = 8
    c.task.name = "math"
    options = dict(path=str(data / "shown.csv"), prompt_template="{problem} so")
    c.task.train = dict(split="train", size=0, **options)
    c.task.test = dict(split="test", size=0, **options)
    c.model.path = str(checkpoint)
    c.mesh.update(data=1, fsdp=4, tensor=2)
    c.update(max_prompt_tokens=12, max_completion_tokens=8)
    c.learner.update(batch_rows=4, learning_rate=3e-2, warmup_steps=0)
    c.eval.every_steps = 4
    c.log.every_steps = 1
    c.update_from_flattened_dict(changes)
    return c.lock()


@pytest.fixture(scope="module")
def warm(checkpoint, data, tmp_path_factory):
    """The folder of a policy that has half learnt the solutions."""
    workdir = tmp_path_factory.mktemp("warm")
    sft.sft(make_sft_config(checkpoint, data), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def trained(warm, data, tmp_path_factory):
    """A run's folder: GRPO, which keeps a reference policy too."""
    workdir = tmp_path_factory.mktemp("run")
    train.train(make_config(warm / "hf", data, "grpo", **in_hub(data)), str(workdir))
    return workdir


def steps_of(workdir):
    return [m for m in records_lib.read_metrics(workdir) if "rollout/reward" in m]


def saved_steps(workdir):
    """The steps that a run's folder has checkpoints of."""
    found = {p.name for p in (workdir / "checkpoints").iterdir() if p.is_dir()}
    return {int(name) for name in found - {"scores.json"}}


def numbers(workdir):
    """All metrics by step, but times and what depends on how often graders ran."""
    return [
        {
            k: v
            for k, v in line.items()
            if k.split("/")[0] not in ("time", "perf", "grading")
        }
        for line in records_lib.read_metrics(workdir)
    ]


def weights(folder):
    """The parameters of a folder, float32 on the host."""
    config = huggingface.load_config(folder)
    params = huggingface.load_params(folder, config, dtype=jnp.float32)
    return jax.tree.leaves(jax.device_get(params))


def test_training_evaluates_the_sets_of_its_config(warm, data, tmp_path, capsys):
    sets = f"math:{data / 'train.jsonl.gz'},test"
    changes = {"num_steps": 1, "eval.at_start": False, "eval.sets": sets}
    config = make_config(warm / "hf", data, **changes)
    train.train(config, str(tmp_path / "run"))
    before, metrics = records_lib.read_metrics(tmp_path / "run")
    # It trains on the first set, which holds problems twice.
    assert before == {"step": 0, "doctor/data_twice": 1, "doctor/leak": 1}
    with pytest.raises(errors.Unhealthy, match="found data_twice, leak"):
        train.train(config, str(tmp_path / "strict"), doctor="strict")
    assert records_lib.read_metrics(tmp_path / "strict") == [before]
    # The first set is the one that the best checkpoint is chosen by.
    assert metrics["eval/avg@2"] == metrics["eval/train/avg@2"]
    records = records_lib.read_eval(tmp_path / "run", 1)
    for name in ("train", "test"):
        scores = [r["scores"] for r in records if r["set"] == name]
        assert len(scores) == len(GOLD)
        assert np.mean(scores) == pytest.approx(metrics[f"eval/{name}/avg@2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines.index("train") < lines.index("test")


def test_fields_and_files_are_said_at_the_start(checkpoint, data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = make_config(checkpoint, data, **in_hub(data))
    policy = assembly.describe(config, policy_lib.make_mesh(config))
    assembly.make_prompts(config, policy, config.task.train)
    files = f"{data / 'hub' / 'train-00000-of-00002.parquet'} and 1 more files"
    fields = "id=number, problem=ask, answer=reply"
    assert f"{files}: 4 rows as 'named' ({fields})." in caplog.text
    with config.unlocked():
        config.task.train.columns = "problem=asks,answer=reply"
    with pytest.raises(ValueError, match=r"'asks' .*\(did you mean 'ask'\?\)"):
        train.train(config, str(tmp_path / "run"))


def test_demonstrations_are_learnt(warm):
    assert not alarms_of(warm)
    metrics = records_lib.read_metrics(warm)
    assert metrics[-1]["loss/policy"] < 0.5 * metrics[0]["loss/policy"]
    losses = [m["eval/loss"] for m in metrics if "eval/loss" in m]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_held_out_demonstrations_count_whatever_their_number(
    checkpoint, data, tmp_path
):
    """Four of them, scored in batches of 8 and of 4; and each cadence is its own."""
    found = {}
    for rows in (8, 4):
        changes = {
            "num_steps": 7,
            "learner.batch_rows": rows,
            "learner.learning_rate": 1e-9,  # the same policy after any number of steps
            "eval.every_steps": 3,
            "log.every_steps": 5,
            "checkpoint.every_steps": 4,
            "checkpoint.keep_latest": 9,
        }
        workdir = tmp_path / str(rows)
        sft.sft(make_sft_config(checkpoint, data, **changes), str(workdir))
        metrics = {m["step"]: m for m in records_lib.read_metrics(workdir)}
        evaluated = {step for step, m in metrics.items() if "eval/loss" in m}
        logged = {step for step, m in metrics.items() if "loss/policy" in m}
        assert evaluated == {3, 6, 7} and logged == {5, 7}
        assert saved_steps(workdir) == {3, 4, 6, 7}
        found[rows] = metrics[7]["eval/loss"]
    assert found[8] == pytest.approx(found[4], rel=1e-5)


def test_a_failing_evaluation_costs_no_supervised_run(
    checkpoint, data, tmp_path, monkeypatch, caplog
):
    def broken(*_):
        raise RuntimeError("no memory is left")

    monkeypatch.setattr(sft, "held_out_loss", broken)
    sft.sft(make_sft_config(checkpoint, data, num_steps=4), str(tmp_path))
    assert (tmp_path / "hf" / "model.safetensors").is_file()
    assert "The evaluation at step 4 failed" in caplog.text
    assert "no memory is left" in caplog.text


def test_a_checkpoint_trains_on_a_problem_file(trained, warm):
    first, second = steps_of(trained)
    assert not alarms_of(trained)
    assert first["rollout/completions"] == len(GOLD) * 8
    assert 0 < first["rollout/accuracy"] < 1 and first["grad/norm"] > 0
    # The parts of the reward are means over what was sampled, as the reward is.
    assert first["reward/correctness"] == pytest.approx(first["rollout/reward"])
    # The policy of step 1 is the reference; that of step 2 has moved away from it.
    assert first["kl/reference_k3"] < 1e-6 < second["kl/reference_k3"]
    # Sampler and learner agree through two layouts: float32, another order of sums.
    assert first["mismatch/logprob_abs_max"] < 1e-4
    before, after = weights(warm / "hf"), weights(trained / "hf")
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(before, after, strict=True))


def test_broken_rows_and_flagged_problems_can_be_left_out(checkpoint, data, tmp_path):
    rows = gzip.decompress((data / "train.jsonl.gz").read_bytes())
    (tmp_path / "train.jsonl").write_bytes(b"no JSON\n" + rows)
    (tmp_path / "flags.json").write_text('{"broken_ids": ["p0"]}')
    config = make_config(checkpoint, data)
    policy = assembly.describe(config, policy_lib.make_mesh(config))
    with config.unlocked():
        config.task.train.path = str(tmp_path / "train.jsonl")
    with pytest.raises(ValueError, match="train.jsonl, line 1 is not JSON"):
        assembly.make_prompts(config, policy, config.task.train)
    config.data.on_error = "skip"
    flags = str(tmp_path / "flags.json")
    kept = assembly.make_prompts(config, policy, config.task.train, exclude_ids=flags)
    assert [p.id for p in kept.problems] == [f"p{i}" for i in range(1, len(GOLD))]


def test_ids_beyond_the_tokenizer_are_never_drawn(trained):
    """The embedding has room for 16, and a random policy would draw them."""
    for step in records_lib.rollout_steps(trained):
        for row in records_lib.read_rollouts(trained, step):
            assert row["tokens"].max() < len(SPECIAL) + len(WORDS)


def test_a_stop_token_ends_a_completion(trained, checkpoint):
    stops = tokenizer_lib.load(checkpoint).stop_ids
    ends = set()
    for step in (1, 2):
        for record in records_lib.read_rollouts(trained, step):
            tokens = list(record["tokens"])
            assert not set(tokens[:-1]) & set(stops)
            ends.add(tokens[-1])
    assert ends & set(stops)


def test_prompts_carry_the_chat_template(checkpoint, data):
    config = make_config(checkpoint, data)
    policy = assembly.describe(config, policy_lib.make_mesh(config))
    ours = assembly.make_prompts(config, policy, config.task.train)
    verl = assembly.make_prompts(config, policy, config.task.test)
    assert len(ours) == len(verl) == len(GOLD)
    expected = "<|im_start|> user so 1 so <|im_end|> <|im_start|> assistant"
    for prompts in (ours, verl):
        text = policy.tokenizer.decode(prompts.tokens[0], keep_special=True)
        assert text == expected


def evaluated(config, source, **options):
    """The folder of an evaluation on the config's own test problems."""
    sets = eval_sets.parse("", config)
    return evaluate.evaluate_checkpoint(config, source, sets=sets, **options)


def test_evaluation_repeats_what_training_measured(
    trained, warm, data, tmp_path, monkeypatch
):
    """The program, on the checkpoint that the run began with and on the run."""
    # The only step that was evaluated after its update is the best.
    for source, step, name in ((warm / "hf", 0, "latest"), (trained, 2, "best")):
        config = make_config(warm / "hf", data, "grpo")
        folder = evaluated(config, source, step=name, out=tmp_path / str(step))
        path = folder / "test.jsonl"
        fresh = [json.loads(line) for line in path.read_text().splitlines()]
        assert fresh == records_lib.read_eval(trained, step)
        assert [r["id"] for r in fresh] == [f"sums-{i}" for i in range(len(GOLD))]
        # Of a run's checkpoint the weights that it began with are not read.
        monkeypatch.setattr(policy_lib.Policy, "load", None)


@pytest.mark.parametrize(
    ("step", "message"), [("3", "3"), ("last", "--step=last must be a step")]
)
def test_a_step_that_was_not_saved_is_refused(trained, warm, data, step, message):
    config = make_config(warm / "hf", data, "grpo")
    with pytest.raises(ValueError, match=message):
        evaluated(config, trained, step=step)


def test_a_folder_that_holds_no_checkpoint_is_refused_by_its_flag(warm, data, tmp_path):
    config = make_config(warm / "hf", data)
    (tmp_path / "config.json").write_text("{}")
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"--checkpoint={folder}"):
            evaluated(config, folder, out=tmp_path / "out")
    with pytest.raises(ValueError, match="--out"):
        evaluated(config, warm / "hf")
    with pytest.raises(ValueError, match="--step=best is of a run"):
        evaluated(config, warm / "hf", step="best", out=tmp_path / "out")


@pytest.mark.slow
def test_best_keeps_to_a_protocol(checkpoint, data, tmp_path, monkeypatch, capsys):
    """Scores of another evaluation neither rank nor delete, and the user is told."""
    wanted = iter(())

    def rig(evaluators, params, **_):
        del params
        k = evaluators[0].k
        figures = {f"eval/avg@{k}": next(wanted), "eval/length": 1.0}
        return [], figures | {"eval/protocol": evaluators[0].protocol_number}

    def go_on(to_step, scores, **changes):
        nonlocal wanted
        wanted = iter(scores)
        changes = {"num_steps": to_step, "eval.every_steps": 1, **changes}
        changes |= {"checkpoint.keep_latest": 1, "checkpoint.export_hf": False}
        config = make_config(checkpoint, data, **changes)
        train.train(config, str(tmp_path))
        return saved_steps(tmp_path)

    monkeypatch.setattr(sampling_lib, "evaluate", rig)
    told = []
    monkeypatch.setattr(
        session._log, "info", lambda text, *args: told.append(text % args)
    )
    assert go_on(3, (0.2, 0.9, 0.5, 0.4)) == {1, 3} and not told
    assert go_on(5, (0.1, 0.05), **{"eval.k": 3}) == {1, 4, 5}
    (line,) = told
    assert "Step 1 has eval/avg@2 0.9000 under another protocol" in line
    assert "k: was 2, now 3" in line
    out = capsys.readouterr().out
    assert "4 evaluations under another protocol are left out." in out
    assert out.index("after 3 steps") < out.rindex("after 4 steps")
    assert go_on(6, (0.0,), **{"eval.temperature": 0.5}) == {1, 4, 6}
    assert "temperature: was 1.0, now 0.5" in told[1] and "k: was 3, now 2" in told[2]


EVALUATED = {
    "num_steps": 3,
    "eval.every_steps": 2,
    "checkpoint.keep_latest": 9,
    "eval.num_problems": 0,
}


# Before the first step, between two, and after the last; one for `make test-fast`.
ANY_STEP = pytest.mark.parametrize(
    "step",
    [
        pytest.param(0, marks=pytest.mark.long),
        2,
        pytest.param(3, marks=pytest.mark.long),
    ],
)


@pytest.fixture(scope="module")
def unbroken(checkpoint, data, tmp_path_factory):
    """A run with evaluations at 0, 2 and 3, never interrupted."""
    workdir = tmp_path_factory.mktemp("unbroken")
    train.train(make_config(checkpoint, data, **EVALUATED), str(workdir))
    assert records_lib.eval_steps(workdir) == [0, 2, 3]
    return workdir


def assert_same_run(workdir, expected):
    """All that was measured and evaluated is that of a run that never stopped."""
    assert numbers(workdir) == numbers(expected)
    for step in records_lib.eval_steps(expected):
        assert records_lib.read_eval(workdir, step) == records_lib.read_eval(
            expected, step
        )
    assert not list((workdir / "eval").glob("*.part"))
    for a, b in zip(weights(workdir / "hf"), weights(expected / "hf"), strict=True):
        np.testing.assert_array_equal(a, b)


@ANY_STEP
def test_a_signal_in_an_evaluation_costs_nothing(
    checkpoint, data, tmp_path, unbroken, monkeypatch, step
):
    """It ends the process at once, the step is saved, and the evaluation goes on."""
    real, kept = folder_lib.RunFolder.keep_eval, []

    def keep(self, at, record):
        real(self, at, record)
        if at == step and not kept:
            kept.append(record["id"])
            os.kill(os.getpid(), signal.SIGTERM)

    config = make_config(checkpoint, data, **EVALUATED)
    with monkeypatch.context() as patched:
        patched.setattr(folder_lib.RunFolder, "keep_eval", keep)
        with pytest.raises(interrupt.Stopped, match=f"while evaluating step {step}"):
            train.train(config, str(tmp_path))
    assert step == 0 or step in saved_steps(tmp_path)
    assert list((tmp_path / "eval").glob(f"step_{step:08d}.part"))
    drawn = []
    monkeypatch.setattr(
        folder_lib.RunFolder,
        "keep_eval",
        lambda self, at, record: drawn.append((at, record["id"])),
    )
    train.train(config, str(tmp_path))
    assert (step, kept[0]) not in drawn  # what was drawn is not drawn again
    assert_same_run(tmp_path, unbroken)


@ANY_STEP
def test_evaluations_that_were_lost_are_made_again(
    checkpoint, data, tmp_path, unbroken, step
):
    """The line of metrics was torn, or the file of results as well."""
    config = make_config(checkpoint, data, **EVALUATED)
    for lost in ("line", "line and results"):
        workdir = tmp_path / lost
        shutil.copytree(unbroken, workdir)
        lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        (workdir / "metrics.jsonl").write_text("".join(kept[:-1]) + kept[-1][:20])
        for later in saved_steps(workdir):
            if later > step or step == 0:
                shutil.rmtree(workdir / "checkpoints" / str(later))
        if "results" in lost:
            (workdir / "eval" / f"step_{step:08d}.jsonl").unlink()
        train.train(config, str(workdir))
        assert_same_run(workdir, unbroken)


def test_a_failing_evaluation_costs_no_run(
    checkpoint, data, tmp_path, unbroken, monkeypatch, caplog
):
    def broken(*_, **__):
        raise RuntimeError("no memory is left")

    with monkeypatch.context() as patched:
        patched.setattr(sampling_lib, "evaluate", broken)
        train.train(make_config(checkpoint, data, **EVALUATED), str(tmp_path))
    assert "The evaluation of step 2 failed" in caplog.text
    assert "no memory is left" in caplog.text
    assert saved_steps(tmp_path) == saved_steps(unbroken)
    for a, b in zip(weights(tmp_path / "hf"), weights(unbroken / "hf"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_signal_while_completions_are_drawn_saves_the_step_before(
    checkpoint, data, tmp_path, unbroken, monkeypatch
):
    """What was drawn is drawn again: the run is the one that was never stopped."""
    real, calls = generate._write, []

    def write(batch, completion):
        real(batch, completion)
        calls.append(1)
        if len(calls) == 40:  # in the second step, of 32 completions each
            os.kill(os.getpid(), signal.SIGTERM)

    config = make_config(
        checkpoint, data, **EVALUATED, **{"rollout.dynamic_sampling": False}
    )
    whole = tmp_path / "whole"
    train.train(config, str(whole))
    with monkeypatch.context() as patched:
        patched.setattr(generate, "_write", write)
        train.train(config, str(tmp_path / "run"))
    assert saved_steps(tmp_path / "run") == {1}
    assert not (tmp_path / "run" / "hf").exists()
    train.train(config, str(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize(
    "dynamic_sampling", [pytest.param(True, marks=pytest.mark.long), False]
)
def test_without_a_useful_group_the_run_goes_on(
    checkpoint, data, tmp_path, dynamic_sampling
):
    rows = [{"id": "p", "problem": "so", "answer": "7"}]  # 7 is no word
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {
        "task.train.path": str(path),
        "rollout.dynamic_sampling": dynamic_sampling,
        "learner.weight_decay": 0.0,
        "eval.at_start": False,
    }
    train.train(make_config(checkpoint, data, **changes), str(tmp_path / "run"))
    metrics = steps_of(tmp_path / "run")
    assert [m["rollout/accuracy"] for m in metrics] == [0, 0]
    for m in metrics:
        assert m["learner/updates"] == 0 and "grad/norm" not in m
        assert "perf/mfu" not in m and np.isfinite(m["perf/memory_gib"])
        assert (m["batch/tokens"] == 0) == dynamic_sampling
    for a, b in zip(weights(checkpoint), weights(tmp_path / "run" / "hf"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_file_is_refused_before_anything_is_written(
    checkpoint, data, tmp_path, split
):
    config = make_config(checkpoint, data, **{f"task.{split}.path": "nothing.jsonl"})
    with pytest.raises(ValueError, match="there is no file 'nothing.jsonl'"):
        train.train(config, str(tmp_path / "run"))


# ---- with the real tokenizer and data sets -------------------------------------------


def load_config(name, arg):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def real_tokenizer(folder):
    """Qwen3's tokenizer, unpacked into `folder`."""
    source = real_data.FOLDER / "models" / "qwen3_tokenizer"
    folder.mkdir(parents=True)
    packed = (source / "tokenizer.json.gz").read_bytes()
    (folder / "tokenizer.json").write_bytes(gzip.decompress(packed))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((source / name).read_bytes())
    return tokenizer_lib.load(folder)


@needs_data
@pytest.mark.parametrize(
    ("name", "train_size", "test_size"),
    [("gsm8k", 7_473, 1_319), ("dapo_math", 17_917, 30)],
)
def test_the_configs_read_the_published_data(tmp_path, name, train_size, test_size):
    from hapo_jax.tasks import math

    config = load_config(name, f"data={real_data.FOLDER}")
    tokenizer = real_tokenizer(tmp_path / "tokenizer")
    for options, size in (
        (config.task.train, train_size),
        (config.task.test, test_size),
    ):
        problems = math.problems(**options.to_dict())
        assert len(problems) == size
        before, after = options.prompt_template.split("{problem}")
        for problem in problems[:100]:
            ids = tokenizer.encode_prompt(problem.prompt)
            assert len(ids) <= config.rollout.max_prompt_tokens
            text = tokenizer.decode(ids, keep_special=True)
            assert text.startswith(f"<|im_start|>user\n{before}")
            assert text.endswith(f"{after}<|im_end|>\n<|im_start|>assistant\n")


@needs_data
def test_the_gold_solutions_of_gsm8k_fit_and_are_right(tmp_path):
    from hapo_jax.tasks import math

    config = load_config("gsm8k_sft", f"data={real_data.FOLDER}")
    rl = load_config("gsm8k", f"data={real_data.FOLDER},prompt=hashes")
    tokenizer = real_tokenizer(tmp_path / "tokenizer")
    examples = math.demonstrations(**config.task.train.to_dict())
    problems = math.problems(**rl.task.train.to_dict())
    assert len(examples) == len(problems)
    for example, problem in list(zip(examples, problems))[:500]:
        assert example.prompt == problem.prompt
        assert math.grade(example.completion, problem.answer).score == 1.0
        length = len(tokenizer.encode(example.completion)) + 1
        assert length <= config.max_completion_tokens


@needs_data
@pytest.mark.long
def test_a_step_with_the_real_vocabulary(tmp_path):
    tokenizer = real_tokenizer(tmp_path / "tokenizer")
    write_model(tmp_path / "model", tokenizer, vocab_size=151_936, hidden_size=32)
    c = load_config("gsm8k", f"data={real_data.FOLDER}")
    c.num_steps = 1
    c.model.path = str(tmp_path / "model")
    c.mesh.update(data=1, fsdp=4, tensor=2)
    c.rollout.update(batch_prompts=4, round_prompts=4, group_size=2, chunk_tokens=4)
    c.rollout.update(max_completion_tokens=8, max_rounds=1)
    c.reward.overlong_buffer_tokens = 4
    c.learner.update(minibatch_prompts=4, micro_rows=8, chunk_tokens=64)
    c.eval.update(at_start=False, num_problems=2, k=2)
    c.rollout.dynamic_sampling = False
    train.train(c, str(tmp_path / "run"))
    (step,) = steps_of(tmp_path / "run")
    assert step["rollout/completions"] == 8
    # Random weights: nearly uniform over the vocabulary.
    assert 0.8 * np.log(151_936) < step["entropy/mean"] < np.log(151_936)
    assert step["mismatch/logprob_abs_max"] < 1e-4
    assert steps_of(tmp_path / "run") and (tmp_path / "run" / "hf").is_dir()


# --- what a run says of itself -----------------------------------------------------


def alarms_of(workdir):
    """The steps that have raised an alarm, by its name."""
    return {
        key.removeprefix(alarms.PREFIX): m["step"]
        for m in records_lib.read_metrics(workdir)
        for key in m
        if key.startswith(alarms.PREFIX)
    }


@pytest.fixture(scope="module")
def broken(checkpoint, data, tmp_path_factory):
    """Weights of 0: every token is as likely as every other, every gradient 0."""
    folder = tmp_path_factory.mktemp("zero") / "hf"
    tokenizer = tokenizer_lib.load(checkpoint)
    config = huggingface.load_config(checkpoint)
    params = huggingface.load_params(checkpoint, config, dtype=jnp.float32)
    params = jax.tree.map(jnp.zeros_like, params)
    huggingface.save_params(
        folder, params, config, dtype=jnp.float32, tokenizer=tokenizer
    )
    return folder


@pytest.mark.slow
def test_a_run_that_learns_nothing_says_so(warm, data, tmp_path, caplog, capsys):
    """With the remedy, another grading, nothing is said: see `trained`."""

    def run(num_steps):
        caplog.clear()
        changes = {"eval.at_start": False, "checkpoint.export_hf": False}
        changes |= {"num_steps": num_steps, "task.train.grading": "dapo"}
        train.train(make_config(warm / "hf", data, **changes), str(tmp_path))
        warned = [r.getMessage() for r in caplog.records if "learn nothing" in r.msg]
        told = capsys.readouterr().out.partition("to have learnt nothing:\n")[2]
        return warned, told

    warned, told = run(3)
    found = {"unreadable": 3, "constant_reward": 3}
    assert alarms_of(tmp_path) == found and len(warned) == 2
    assert "task.train.grading=lenient" in warned[0]
    assert told.count("  Steps 1 to 3: ") == 2 and warned[0].endswith(
        told.splitlines()[0].strip()
    )
    # A resumed run raises nothing anew, and forgets nothing.
    warned, told = run(4)
    assert not warned and alarms_of(tmp_path) == found
    assert told.count("  Steps 1 to 4: ") == 2


@pytest.mark.slow
def test_broken_weights_are_told(broken, checkpoint, data, tmp_path, caplog):
    sft.sft(make_sft_config(broken, data, num_steps=3), str(tmp_path / "sft"))
    assert alarms_of(tmp_path / "sft") == {"no_gradient": 3}
    config = make_config(broken, data, num_steps=1, **{"eval.at_start": False})
    train.train(config, str(tmp_path / "run"))
    assert "uniform_policy" in alarms_of(tmp_path / "run")
    caplog.clear()
    sets = eval_sets.parse("", config)
    out = tmp_path / "out"
    evaluate.evaluate_checkpoint(config, broken, sets=sets, out=out)
    assert "test: the entropy is " in caplog.text and "at random" in caplog.text
    caplog.clear()
    other = tmp_path / "other"
    evaluate.evaluate_checkpoint(config, checkpoint, sets=sets, out=other)
    assert "entropy" not in caplog.text
