"""The commands on the pages: small ones are run, and the others at least read.

The commands of a page run in their order and in one folder, so that a later one finds
what an earlier one left. Models and data that they name are stood in for by tiny ones
in the same places; settings appended here make the runs short.
"""

import ast
import gzip
import importlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from examples import own_verifier, read_a_run
from hapo_jax import cli, tasks
from hapo_jax.config import check
from hapo_jax.model import tokenizer as tokenizer_lib
from hapo_jax.runs import records as records_lib
from hapo_jax.sweeps import variants
from tests.environment import of_program
from tests.test_docs import PAGES, ROOT
from tests.test_real_input import GOLD, write_model, write_tokenizer

PROGRAMS = {
    "hapo-train": "hapo_jax.train",
    "hapo-eval": "hapo_jax.evaluate",
    "hapo-sft": "hapo_jax.sft",
    "hapo-plan": "hapo_jax.plan",
    "hapo-sweep": "hapo_jax.sweeps.program",
    "hapo-report": "hapo_jax.microscope.program",
    "hapo-doctor": "hapo_jax.doctor.program",
}
# Beginnings of commands that are read alone, each with its reason.
NOT_RUN = {
    "make": "installs an environment, or runs this very suite",
    "hapo-plan": "needs libtpu and minutes; tests/test_plan.py plans a small model",
    "hapo-sweep": "starts runs; tests/sweeps/test_sweep.py starts small ones",
    "hapo-doctor": "its status says what it finds; tests/doctor/ has made runs",
}
# What makes a program's run tiny.
SHORTER = {
    "hapo_jax.train": {
        "num_steps": 1,
        "rollout.batch_prompts": 4,
        "rollout.dynamic_sampling": False,
        "rollout.max_prompt_tokens": 64,
        "rollout.max_completion_tokens": 16,
        "learner.minibatch_prompts": 4,
        "eval.at_start": False,
        "eval.num_problems": 4,
        "eval.k": 2,
        "grading.workers": 1,
        "log.record_every_steps": 1,
        "log.record_groups": 4,
    },
    "hapo_jax.evaluate": {"eval.num_problems": 2, "eval.k": 2, "grading.workers": 1},
    "hapo_jax.sft": {
        "num_steps": 2,
        "learner.batch_rows": 8,
        "task.train.num_problems": 50,
        "task.train.size": 50,
        "task.test.size": 8,
    },
}
# Programs whose arguments are folders of runs.
OF_FOLDERS = ("hapo_jax.microscope.program", "hapo_jax.doctor.program")
# Files whose docstrings hold commands.
SCRIPTS = [
    *sorted((ROOT / "configs").rglob("*.py")),
    *(ROOT / f"{name.replace('.', '/')}.py" for name in PROGRAMS.values()),
]
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.S)


def commands(page: pathlib.Path) -> list[str]:
    """The lines of the page's `sh` blocks, without comments."""
    blocks = [text for kind, text in BLOCK.findall(page.read_text()) if kind == "sh"]
    return [line for line in "".join(blocks).splitlines() if shlex.split(line, True)]


def in_text(page: pathlib.Path) -> list[str]:
    """Whole commands between the words of the page."""
    text = BLOCK.sub("", page.read_text())
    needed = "--(?:config|checkpoint)="
    found = re.findall(rf"`((?:{'|'.join(PROGRAMS)}) {needed}[^`]+)`", text)
    return [" ".join(command.split()) for command in found]


def in_docstring(script: pathlib.Path) -> list[str]:
    """Commands of a file's docstring, each line of them without its backslash."""
    text = ast.get_docstring(ast.parse(script.read_text()))
    lines = map(str.strip, re.sub(r"\\\n\s*", "", text).splitlines())
    return [line for line in lines if re.match(rf"(?:{'|'.join(PROGRAMS)}) --", line)]


def parts(line: str) -> tuple[str, list[str]]:
    """(module, arguments) of a command with one of our programs."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "python":
        dash_m, module, *arguments = arguments
        assert dash_m == "-m"
        return module, arguments
    return PROGRAMS[program], arguments


def files(page: pathlib.Path) -> dict[str, str]:
    """Name → text of the files that the page shows: `name` … : and a block."""
    found, text = {}, page.read_text()
    for block in BLOCK.finditer(text):
        words = text[: block.start()].rstrip().rpartition("\n\n")[2]
        if words.endswith(":"):
            names = re.findall(r"`(\w+\.(?:py|jsonl))`", words)
            found |= dict.fromkeys(names, block[2])
    return found


def everything(which, pages=PAGES) -> list:
    return [
        pytest.param(page, line, id=f"{page.name}: {line[:70]}")
        for page in pages
        for line in which(page)
    ]


@pytest.fixture
def parse(monkeypatch):
    """Lets a program read its arguments, and nothing more; the config if it has one."""

    def parse(module, arguments):
        program = importlib.import_module(module)
        own = {cli.__name__, module, "absl.flags"}

        def read(main, flags_parser):
            rest = flags_parser([module, *arguments])[1:]
            both = 2 * ("--compare" in arguments)  # the folders of both
            assert rest if module in OF_FOLDERS else len(rest) == both
            known = flags.FLAGS.flags_by_module_dict()
            names = {flag.name for name in own for flag in known.get(name, ())}
            given = (a.lstrip("-").partition("=")[0] for a in arguments if a[0] == "-")
            assert {n for n in given if not n.startswith("config.")} <= names

        monkeypatch.setattr(cli.app, "run", read)
        # Two programs have a flag --out, and flagsaver forgets which of them had it.
        by_module = flags.FLAGS.flags_by_module_dict()
        before = {name: [*found] for name, found in by_module.items()}
        with (
            flagsaver.flagsaver(),
            mock.patch.dict(os.environ),
            mock.patch.dict(by_module, before),
        ):
            program.run()
            if module == PROGRAMS["hapo-sweep"]:
                # Its argument may name a sweep of the file.
                experiment, found = variants.read(cli.given()[0])
                assert found
                return experiment.config(found[0].changes)
            config = cli.config()
            return config and cli.override(config)

    cached = jax.config.jax_enable_compilation_cache  # which hapo-plan does without
    yield parse
    jax.config.update("jax_enable_compilation_cache", cached)


@pytest.mark.parametrize(
    ("page", "line"),
    everything(lambda page: commands(page) + in_text(page))
    + everything(in_docstring, SCRIPTS),
)
def test_a_command_is_understood(page, line, parse, tmp_path, monkeypatch):
    """Its program exists, and takes its flags, its config and its settings."""
    if line.startswith("make "):
        target = shlex.split(line, comments=True)[1]
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
        return
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    config = parse(*parts(line))
    if config is not None:
        check.check_alone(config)


def test_reasons_are_of_commands_that_there_are():
    lines = [line for page in PAGES for line in commands(page)]
    for beginning in NOT_RUN:
        assert any(line.startswith(f"{beginning} ") for line in lines)


def is_run(line: str) -> bool:
    return line.split()[0] not in NOT_RUN


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with all that commands name: configs, and tiny models and data."""
    folder = tmp_path_factory.mktemp("root")
    for name in ("configs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    write_tokenizer(folder / "tokenizer")
    tokenizer = tokenizer_lib.load(folder / "tokenizer")
    for page in PAGES:
        for name in set(re.findall(r'[= "]/models/([\w.-]+)', page.read_text())):
            write_model(folder / "models" / name, tokenizer, vocab_size=16)
    rows = ({"problem": f"so {gold}", "answer": gold} for gold in GOLD)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "DATA").mkdir()
    (folder / "DATA/gsm8k_train.jsonl.gz").write_bytes(gzip.compress(lines))
    for name in ("gsm8k_test", "math500", "amc23"):
        (folder / f"DATA/{name}.jsonl").write_bytes(lines)
    for page in PAGES:
        for name, text in files(page).items():
            (folder / name).write_text(text.replace('"/models/', f'"{folder}/models/'))
    return folder


@pytest.fixture(scope="module")
def ends(root):
    """How each command ended that is run: line → status; and what was said.

    All of them run in one process and one folder: what a page leaves shall not be in
    the way of another page.
    """
    env = of_program(PYTHONPATH=str(ROOT))
    lines = [line for page in PAGES for line in commands(page) if is_run(line)]
    given = []
    for line in lines:
        module, arguments = parts(line.replace("=/models/", f"={root}/models/"))
        short = [f"--config.{k}={v}" for k, v in SHORTER.get(module, {}).items()]
        given.append(json.dumps([module, *arguments, *short]))
    results = root / "results.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "tests.run_commands", str(results)],
        input="\n".join(given),
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    found = map(json.loads, results.read_text().splitlines())
    return dict(zip(lines, found)), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "line"), everything(lambda page: filter(is_run, commands(page)))
)
def test_a_command_runs(page, line, root, ends):
    found, said = ends
    status, seconds = found[line]
    assert status == 0, said[-10000:]
    print(f"{seconds:.1f} s")
    if workdir := re.search(r"--workdir=(\S+)", line):
        assert records_lib.read_metrics(root / workdir[1])
        assert list((root / workdir[1] / "hf").glob("*.safetensors"))


@pytest.mark.slow
def test_a_run_whose_method_is_ones_own_is_read(root, ends, capsys):
    del ends
    means = read_a_run.main(str(root / "runs" / "own"))
    assert means["entropy"] > 0 and means["ratio"] == pytest.approx(1, abs=0.2)
    said = capsys.readouterr().out
    assert "step    1  reward" in said and "clip range" in said


@pytest.mark.slow
def test_an_own_verifier_decides_the_rewards_of_a_run(root, ends):
    del ends
    workdir = root / "runs" / "palindrome"
    task = tasks.get("examples.own_verifier:palindrome")
    problems = task.problems("train", path=str(root / "words.jsonl"))
    answers = {problem.id: problem.answer for problem in problems}
    (metrics,) = (m for m in records_lib.read_metrics(workdir) if m["step"] == 1)
    records = records_lib.read_rollouts(workdir, 1)
    assert len(records) == metrics["rollout/completions"] == 4 * 8
    for record in records:
        expected = own_verifier.palindrome(
            record["completion"], answers[record["problem_id"]]
        )
        assert record["reward"] == record["score"] == expected[0]
    mean = np.mean([record["score"] for record in records])
    assert 0 < mean < 1
    assert metrics["rollout/accuracy"] == metrics["rollout/reward"] == mean
    assert metrics["reward/correctness"] == mean
    assert metrics["grading/crashed"] == 0
    # Advantages, and with them the gradient, are of these rewards.
    assert any(np.any(record["base_advantages"] > 0) for record in records)
    assert metrics["grad/norm"] > 0
