"""A run goes on with what it has read before, and is refused with anything else."""

import contextlib
import gzip
import json
import logging
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from hapo_jax.config import defaults
from hapo_jax import (evaluate, sft, train)
from hapo_jax.evaluation import compare
from hapo_jax.runs import evaluations
from hapo_jax.config import eval_sets
from hapo_jax.runs import inputs as inputs_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.model import huggingface
from hapo_jax.model import tokenizer as tokenizer_lib
from tests import test_real_input as real

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402, behind the skip
from tests.environment import of_program

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # files and checksums, no matter of jax
ROWS = [
    {"id": f"p{i}", "problem": f"so {g}", "answer": g, "solution": f"so #### {g}"}
    for i, g in enumerate(("1", "2", "1", "2", "2", "1"))
]
DATED = "{{ strftime_now('%d %b %Y') if not date_string is defined else date_string }} "


def write_rows(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model and data, whose files tests change and bring back."""
    folder = tmp_path_factory.mktemp("home")
    real.write_tokenizer(folder / "tokenizer")
    tokenizer = tokenizer_lib.load(folder / "tokenizer")
    real.write_model(folder / "model", tokenizer, vocab_size=16)
    write_rows(folder / "train.jsonl.gz", ROWS)
    (folder / "flags.json").write_text('["p5"]')
    tests = [{**row, "id": f"t{i}", "problem": "so so"} for i, row in enumerate(ROWS)]
    table = pyarrow.Table.from_pylist(tests)
    parquet.write_table(table, folder / "test.parquet")
    return folder


def make_config(home, **changes):
    """Steps of GRPO, which reads a reference policy."""
    config = real.make_config(home / "model", home, "grpo")
    changes = {
        "num_steps": 1,
        "task.test.prompt_template": "{problem}",
        "data.exclude_ids": str(home / "flags.json"),
        "eval.at_start": False,
        "eval.k": 1,
        "eval.greedy": False,
        "eval.num_problems": 2,
        "checkpoint.export_hf": False,
        **changes,
    }
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config.lock()


@pytest.fixture(scope="module")
def begun(home, tmp_path_factory):
    """The folder of a run that has made its first step."""
    workdir = tmp_path_factory.mktemp("begun")
    train.train(make_config(home), str(workdir))
    return workdir


@pytest.fixture
def workdir(begun, tmp_path):
    """A copy, which a test may go on with."""
    return shutil.copytree(begun, tmp_path / "run")


@contextlib.contextmanager
def changed(path, change):
    """A file that is another inside; `change` maps its bytes."""
    before = path.read_bytes()
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


def with_rows(change):
    """For a file of rows: `change` maps them."""

    def of_bytes(data):
        rows = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        text = "".join(json.dumps(row) + "\n" for row in change(rows))
        return gzip.compress(text.encode())

    return of_bytes


def with_json(**values):
    return lambda data: json.dumps(json.loads(data) | values).encode()


def with_tensor(name, change):
    """For a safetensors file: `change` maps one tensor."""

    def of_bytes(data):
        tensors = safetensors.numpy.load(data)
        tensors[name] = np.ascontiguousarray(change(tensors[name]))
        return safetensors.numpy.save(tensors, {"format": "pt"})

    return of_bytes


def answer_of(index, answer):
    return lambda rows: [
        row | {"answer": answer} if i == index else row for i, row in enumerate(rows)
    ]


def gold_of(index):
    """For a Parquet file of problems: another answer."""

    def of_bytes(data):
        rows = parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
        rows[index]["answer"] = "7"
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()

    return of_bytes


def end_tokens(data):
    return json.dumps({**json.loads(data), "eos_token_id": [3]}).encode()


CHANGES = {
    "a row removed": (
        "train.jsonl.gz",
        with_rows(lambda rows: rows[1:]),
        "task.train: number was 5, now 4",
    ),
    "fewer rows than a round": (
        "train.jsonl.gz",
        with_rows(lambda rows: rows[:2]),
        "task.train: number was 5, now 2",
    ),
    "rows in another order": (
        "train.jsonl.gz",
        with_rows(lambda rows: rows[::-1]),
        "task.train: the same rows in another order",
    ),
    "an answer changed": (
        "train.jsonl.gz",
        with_rows(answer_of(2, "2")),
        "task.train: other answers",
    ),
    "a prompt changed": (
        "train.jsonl.gz",
        with_rows(lambda rows: [rows[0] | {"problem": "so so 1"}, *rows[1:]]),
        "task.train: other prompts, tokens",
    ),
    "an id changed": (
        "train.jsonl.gz",
        with_rows(lambda rows: [rows[0] | {"id": "q"}, *rows[1:]]),
        "task.train: other ids",
    ),
    "a list of excluded problems": (
        "flags.json",
        lambda data: b'["p4"]',
        "task.train: other ids, prompts, answers, tokens",
    ),
    "the evaluation's gold": (
        "test.parquet",
        gold_of(-1),  # of a problem that no step evaluates
        "evaluation set test: other answers",
    ),
    "the chat template": (
        "model/chat_template.jinja",
        lambda data: data.replace(b"<|im_end|>", b""),
        "task.train: other tokens",
    ),
    "a word of the tokenizer that no prompt has": (
        "model/tokenizer.json",
        lambda data: data.replace(b'"####"', b'"##"'),
        "tokenizer: other entries",
    ),
    "a special token made an ordinary one": (
        "model/tokenizer.json",
        lambda data: data.replace(b'"special": true', b'"special": false'),
        "tokenizer: other entries",
    ),
    "the stop tokens": (
        "model/generation_config.json",
        end_tokens,
        "tokenizer: stop_ids was [3, 1], now [3]",
    ),
    "an angle of the model": (
        "model/config.json",
        with_json(rope_theta=77.0, rope_parameters=None),
        "model: rope_theta was 10000.0, now 77.0",
    ),
    "the weights": (
        "model/model.safetensors",
        with_tensor("model.norm.weight", lambda x: 1.01 * x),
        "weights: other sampled values",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_input_is_refused_with_its_file(home, workdir, name):
    file, change, words = CHANGES[name]
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    config = make_config(home, num_steps=2)
    with changed(home / file, change), pytest.raises(ValueError) as error:
        train.train(config, str(workdir))
    message = str(error.value)
    assert f"  {words}" in message
    assert f"Changed files: {home / file}." in message
    assert f"remove {workdir / 'inputs.json'}" in message
    # Nothing of the folder has been touched.
    assert before == {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def numbers(workdir):
    """What training says of itself, by step; graders remember since their start."""
    left_out = ("time/", "perf/", "grading/", "eval/")
    return [
        {k: v for k, v in line.items() if not k.startswith(left_out)}
        for line in records_lib.read_metrics(workdir)
    ]


@pytest.mark.slow
def test_an_unchanged_run_goes_on_to_the_same_bits(home, workdir, tmp_path, caplog):
    """Files that were written anew, with what means nothing changed, are the same."""
    config = make_config(home, num_steps=2)
    with (
        changed(home / "model" / "config.json", with_json(note="of the hub")),
        changed(home / "train.jsonl.gz", with_rows(lambda rows: rows)),
        caplog.at_level(logging.INFO, "hapo_jax"),
    ):
        train.train(config, str(workdir))
    assert "inputs.json" not in caplog.text
    train.train(config, str(tmp_path / "whole"))
    # At 0 the doctor tells of the problems that are repeated.
    assert [m["step"] for m in numbers(workdir)] == [0, 1, 2]
    assert numbers(workdir) == numbers(tmp_path / "whole")
    starts = json.loads((workdir / "config.json").read_text())["starts"]
    assert starts[0]["inputs"] == starts[1]["inputs"]
    assert starts[0]["inputs"].keys() >= {"task.train", "weights", "reference policy"}


def test_the_reference_is_compared_to_the_bit(home, workdir, monkeypatch):
    """Where the sample of a large tensor does not see a change, its values do."""
    monkeypatch.setattr(huggingface, "_SAMPLE_BYTES", 2 * 4 * 32)
    monkeypatch.setattr(huggingface, "_SAMPLE_BLOCKS", 2)
    config = make_config(home, num_steps=2)
    noted = inputs_lib.read(workdir)
    noted["weights"]["crc sampled values"] = inputs_lib._crc(
        huggingface.sample_weights(home / "model")["model.safetensors"]
    )
    (workdir / "inputs.json").write_text(json.dumps(noted))

    def one_number(x):
        x = x.copy()
        x[len(x) // 2, 0] += 1
        return x

    name = "model.layers.0.mlp.down_proj.weight"
    file = home / "model" / "model.safetensors"
    with (
        changed(file, with_tensor(name, one_number)),
        pytest.raises(ValueError, match="reference policy: other values in") as error,
    ):
        train.train(config, str(workdir))
    assert "weights: other" not in str(error.value)


@pytest.mark.slow
def test_a_folder_of_an_older_version_is_told_once_and_noted(home, workdir, caplog):
    (workdir / "inputs.json").unlink()
    caplog.set_level(logging.INFO, "hapo_jax")
    file, change, words = CHANGES["an answer changed"]
    with changed(home / file, change):
        # So goes on too whoever takes what there is now, as the refusal says.
        train.train(make_config(home, num_steps=2), str(workdir))
        assert caplog.text.count("has no inputs.json") == 1
        train.train(make_config(home, num_steps=2), str(workdir))
        assert caplog.text.count("has no inputs.json") == 1
    with pytest.raises(ValueError, match=words):
        train.train(make_config(home, num_steps=3), str(workdir))


@pytest.mark.parametrize("text", ['{"task.train": ', "", "null", "[]", '{"a": 1}'])
def test_a_broken_note_is_named_with_its_remedy(home, workdir, text):
    (workdir / "inputs.json").write_text(text)
    with pytest.raises(ValueError, match=r"inputs\.json .*remove it: what"):
        train.train(make_config(home, num_steps=2), str(workdir))


def test_other_sets_may_be_evaluated_on(home, workdir, tmp_path, caplog):
    """What the user asks for is no change of a file; what they ask for again is."""
    write_rows(tmp_path / "other.jsonl.gz", ROWS[:3])
    caplog.set_level(logging.INFO, "hapo_jax")
    sets = {"eval.sets": f"math:{tmp_path / 'other.jsonl.gz'}"}
    train.train(make_config(home, num_steps=1, **sets), str(workdir))
    assert "Step 1 has eval/avg@1" in caplog.text
    assert "another protocol (problems: was '2, crc" in caplog.text
    noted = inputs_lib.read(workdir)
    assert noted["evaluation set other"]["number"] == 3
    assert noted["evaluation set test"]["number"] == len(ROWS)
    with (
        changed(home / "test.parquet", gold_of(-1)),
        pytest.raises(ValueError, match="evaluation set test: other answers"),
    ):
        train.train(make_config(home), str(workdir))


@pytest.mark.long
def test_weights_may_lie_in_other_files_or_be_gone_where_nobody_reads_them(
    home, tmp_path
):
    """Without a KL term a run that has a checkpoint needs no weights to go on."""
    whole = tmp_path / "run"
    config = make_config(home, **{"algo.kl.strength": 0.0})
    train.train(config, str(whole))
    model = home / "model"
    single = model / "model.safetensors"
    tensors = safetensors.numpy.load_file(single)
    halves = [dict(list(tensors.items())[i::2]) for i in range(2)]
    map_of = {}
    for i, half in enumerate(halves):
        safetensors.numpy.save_file(half, model / f"half_{i}.safetensors")
        map_of |= dict.fromkeys(half, f"half_{i}.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": map_of}))
    away = tmp_path / "away.safetensors"
    single.rename(away)
    try:
        train.train(config, str(whole))
        index.unlink()
        train.train(config, str(whole))
        noted = inputs_lib.read(whole)
        assert noted["weights"] and "reference policy" not in noted
    finally:
        away.rename(single)
        index.unlink(missing_ok=True)
        for i in range(2):
            (model / f"half_{i}.safetensors").unlink()


def test_processes_that_read_other_files_are_refused_all(home, monkeypatch):
    inputs = {"task.train": {"number": 3, "crc answers": "a", "crc rows": "a"}}
    other = {"task.train": {"number": 3, "crc answers": "b", "crc rows": "b"}}

    def gather(arrays):
        message = np.frombuffer(json.dumps(other).encode(), np.uint8)
        return [arrays, arrays, {"inputs": message}]

    monkeypatch.setattr(inputs_lib.distributed, "gather", gather)
    with pytest.raises(ValueError, match=r"(?s)process 2 .*task.train: other answers"):
        inputs_lib.agree(inputs)


# ---- templates ---------------------------------------------------------------------


@pytest.fixture
def dated(home):
    """The model's template names today, as Llama 3.2's does."""
    path = home / "model" / "chat_template.jinja"
    with changed(path, lambda data: DATED.encode() + data):
        yield


def make_sft(home, **changes):
    c = defaults.default_sft()
    c.num_steps = 1
    c.task.name = "math"
    options = dict(path=str(home / "train.jsonl.gz"), prompt_template="{problem} so")
    c.task.train = dict(split="train", size=0, **options)
    c.task.test = dict(split="test", size=4, **options)
    c.model.path = str(home / "model")
    c.mesh.update(data=1, fsdp=4, tensor=2)
    c.update(max_prompt_tokens=12, max_completion_tokens=8)
    c.learner.update(batch_rows=4, warmup_steps=0)
    c.update_from_flattened_dict(changes)
    return c.lock()


DAY = {"task.template_options.date_string": "26 Jul 2024"}
OTHER_DAY = {"task.template_options.date_string": "so 1 so"}  # in known words


def start(program, home, workdir, **changes):
    """Trains, fine-tunes or evaluates."""
    if program == "train":
        train.train(make_config(home, **changes), str(workdir))
    elif program == "sft":
        sft.sft(make_sft(home, **changes), str(workdir))
    else:
        config = make_config(home, **changes)
        sets = eval_sets.parse("", config)
        evaluate.evaluate_checkpoint(config, home / "model", sets=sets, out=workdir)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("train", marks=pytest.mark.slow),
        pytest.param("sft", marks=pytest.mark.slow),
        "evaluate",
    ],
)
def test_a_template_that_asks_for_the_time_needs_a_day(home, dated, tmp_path, program):
    with pytest.raises(ValueError, match=r"template_options\.date_string='26 Jul"):
        start(program, home, tmp_path / "run")
    # The remedy that the message names.
    start(program, home, tmp_path / "run", **DAY)
    start(program, home, tmp_path / "run", **DAY)
    with pytest.raises(ValueError) as error:
        start(program, home, tmp_path / "run", **OTHER_DAY)
    words = "prompts" if program == "evaluate" else "date_string: was '26 Jul 2024'"
    assert words in str(error.value)


def test_a_run_of_an_older_version_may_be_given_a_day(home, dated, workdir):
    """It may have had another day in each of its starts."""
    (workdir / "inputs.json").unlink()
    path = workdir / "config.json"
    saved = json.loads(path.read_text())
    del saved["config"]["task"]["template_options"]
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="asks for the time"):
        start("train", home, workdir)
    start("train", home, workdir, **DAY)
    noted = records_lib.read_config(workdir)["task"]["template_options"]
    assert noted == {"date_string": "26 Jul 2024"}
    with pytest.raises(ValueError, match="date_string: was '26 Jul 2024', now 'so 1"):
        start("train", home, workdir, **OTHER_DAY)


@pytest.mark.parametrize("program", ["train", "sft", "evaluate"])
def test_an_option_that_a_template_does_not_read_is_refused(home, tmp_path, program):
    changes = {"task.template_options.enable_thinking": False}
    with pytest.raises(ValueError, match="reads no 'enable_thinking'"):
        start(program, home, tmp_path / "run", **changes)


# ---- supervised runs ---------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(home, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned")
    sft.sft(make_sft(home), str(workdir))
    return workdir


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            "train.jsonl.gz",
            with_rows(lambda rows: [*rows[:5], rows[5] | {"solution": "so #### 2"}]),
            "task.train: other completions, tokens",
        ),
        (
            "train.jsonl.gz",
            with_rows(lambda rows: [*rows[:4], rows[5], rows[4]]),
            "task.train: the same rows in another order",
        ),
        (
            "model/chat_template.jinja",
            lambda data: data.replace(b"<|im_end|>", b""),
            "task.test: other tokens",
        ),
        (
            "model/model.safetensors",
            with_tensor("model.norm.weight", lambda x: -x),
            "weights: other sampled values",
        ),
    ],
)
def test_a_supervised_run_refuses_other_demonstrations(
    home, tuned, file, change, words
):
    config = make_sft(home, num_steps=2)
    with changed(home / file, change), pytest.raises(ValueError) as error:
        sft.sft(config, str(tuned))
    assert words in str(error.value)
    assert f"Changed files: {home / file}." in str(error.value)


# ---- evaluations -------------------------------------------------------------------


def evaluated(home, source, out, **changes):
    config = make_config(home, **changes)
    sets = eval_sets.parse("", config)
    return evaluate.evaluate_checkpoint(config, source, sets=sets, out=out)


@pytest.fixture(scope="module")
def results(home, tmp_path_factory):
    """The folder of an evaluation of the model."""
    return evaluated(home, home / "model", tmp_path_factory.mktemp("eval") / "out")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            "model/chat_template.jinja",
            lambda data: data.replace(b"<|im_end|>", b""),
            "prompts: was '",
        ),
        (
            "model/tokenizer.json",
            lambda data: data.replace(b'"####"', b'"##"'),
            "tokenizer: was '",
        ),
        ("model/generation_config.json", end_tokens, "stop_ids: was [1, 3], now [3]"),
        (
            "model/config.json",
            with_json(rms_norm_eps=1e-3),
            "model: was '",
        ),
        (
            "model/model.safetensors",
            with_tensor("model.norm.weight", lambda x: -x),
            "checkpoint: was '",
        ),
        (
            "test.parquet",
            gold_of(0),
            "problems: was '",
        ),
    ],
)
def test_an_evaluation_does_not_go_on_with_other_inputs(
    home, results, file, change, words
):
    with changed(home / file, change), pytest.raises(ValueError) as error:
        evaluated(home, home / "model", results)
    assert f"  {words}" in str(error.value)
    assert f"Changed files: {home / file}." in str(error.value)


def test_an_evaluation_of_an_older_version_goes_on(home, results, tmp_path, caplog):
    out = shutil.copytree(results, tmp_path / "out")
    path = evaluations.settings_path(out, "test")
    saved = json.loads(path.read_text())
    for key in ("prompts", "model", "tokenizer", "stop_ids", "files"):
        del saved[key]
    path.write_text(json.dumps(saved))
    note = "that did not note files, model, prompts, stop_ids, tokenizer"
    evaluated(home, home / "model", out)
    assert caplog.text.count(note) == 1
    evaluated(home, home / "model", out)
    assert caplog.text.count(note) == 1
    assert json.loads(path.read_text()) == json.loads(
        evaluations.settings_path(results, "test").read_text()
    )


def test_what_saw_other_prompts_or_golds_is_not_paired(home, results, tmp_path):
    assert "test avg@1" in compare.compare(results, results)
    template = "model/chat_template.jinja", CHANGES["the chat template"][1]
    for file, change, words in (
        (*template, r"prompts: '\w+' and '\w+'"),
        ("test.parquet", gold_of(0), "problems: '2, crc"),
    ):
        out = tmp_path / pathlib.Path(file).stem
        with changed(home / file, change):
            evaluated(home, home / "model", out)
        with pytest.raises(ValueError, match=words):
            compare.compare(results, out)
    # Another vocabulary has other ids for the same prompts; that is said.
    file, change, _ = CHANGES["a word of the tokenizer that no prompt has"]
    with changed(home / file, change):
        evaluated(home, home / "model", tmp_path / "words")
    found = compare.compare(results, tmp_path / "words")
    assert "test: prompts, stop_ids could not be compared" in found


def test_a_run_is_evaluated_with_the_tokenizer_that_it_was_trained_with(
    home, begun, tmp_path
):
    file, change, words = CHANGES["a word of the tokenizer that no prompt has"]
    with (
        changed(home / file, change),
        pytest.raises(ValueError, match=words) as error,
    ):
        evaluated(home, begun, tmp_path / "out")
    assert f"Changed files: {home / file}." in str(error.value)
    # Further stop tokens are the evaluation's to choose.
    evaluated(home, begun, tmp_path / "out", **{"model.stop_tokens": ("so",)})


# ---- as programs -------------------------------------------------------------------

SMALL = (
    "--config.rollout.batch_prompts=4",
    "--config.rollout.round_prompts=4",
    "--config.learner.minibatch_prompts=4",
    "--config.rollout.max_completion_tokens=8",
    "--config.eval.num_problems=2",
    "--config.eval.at_start=False",
    "--config.eval.k=1",
    "--config.mesh.cpu_devices=1",
)


def command(home, workdir, *flags):
    return [
        *(sys.executable, "-m", "hapo_jax.train", "--config=configs/countdown.py"),
        *(f"--config.model.path={home}", f"--workdir={workdir}", *SMALL, *flags),
    ]


def swap_answers(model):
    """Puts the two last words of a completion in each other's place, in no prompt."""
    path, swap = model / "tokenizer.json", {"yes": "no", "no": "yes"}
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {swap.get(w, w): i for w, i in words.items()}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_the_program_ends_with_status_2_and_the_file(tmp_path):
    home = shutil.copytree(ROOT / "configs" / "countdown_warm", tmp_path / "model")

    def run(*flags):
        line = command(home, tmp_path / "run", *flags)
        return subprocess.run(
            line, cwd=ROOT, env=of_program(), capture_output=True, text=True
        )

    done = run("--config.num_steps=1", "--config.task.template_options.date_string=x")
    assert done.returncode == 2 and "template_options={'date_string': 'x'}" in (
        done.stderr
    )
    done = run("--config.num_steps=1")
    assert done.returncode == 0, done.stderr[-3000:]
    path = swap_answers(home)
    done = run("--config.num_steps=2")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "tokenizer: other entries" in done.stderr
    assert f"Changed files: {path}." in done.stderr


@pytest.mark.slow
def test_all_of_several_processes_are_refused(tmp_path):
    """Each reads its own files; here the second finds another order of words."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    home = shutil.copytree(ROOT / "configs" / "countdown_warm", tmp_path / "0")
    other = shutil.copytree(home, tmp_path / "1")
    swap_answers(other)
    processes = [
        subprocess.Popen(
            [
                *command(tmp_path / str(i), tmp_path / "run"),
                *(f"--coordinator=localhost:{port}", "--num_processes=2"),
                f"--process_id={i}",
            ],
            cwd=ROOT,
            env=of_program(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    for error in errors:
        assert "process 1 reads something else than process 0" in error
        assert "tokenizer: other entries" in error
    assert not (tmp_path / "run" / "config.json").exists()
