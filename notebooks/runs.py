"""The runs that the notebooks open, and how they came into `notebooks/runs/`.

hapo-sweep --config=notebooks/runs.py --workdir=runs/notebooks --jobs=2
python notebooks/runs.py runs/notebooks

The first command trains for about ten minutes on two cores; the second keeps what the
notebooks read: settings, metrics, records of tokens, and of evaluations the scores.
"""

import json
import pathlib
import sys
from collections.abc import Collection

import pyarrow as pa
from pyarrow import parquet

from hapo_jax import config
from hapo_jax.config import arguments
from hapo_jax.runs import inputs, records
from hapo_jax.sweeps import sweep_folder

ROOT = pathlib.Path(__file__).parent.parent
KEPT = ROOT / "notebooks" / "runs"
MOST_BYTES = 3_000_000  # of all that is kept
TEMPERATURES = (0.5, 0.8, 1.0, 1.1)
# For replay: a whole step, the tenth, at a rate at which ratios move and clips fire.
WHOLE = {
    "num_steps": 10,
    "rollout.batch_prompts": 6,
    "learner.minibatch_prompts": 1,
    "learner.learning_rate": 4e-4,
    "learner.schedule": "constant",
    "eval.at_start": False,
    "eval.every_steps": 0,
    "eval.num_problems": 4,
    "log.record_groups": "all",
}


def get_config(arg=None):
    """The demo's task with eight updates a step, so that ratios move and clips fire."""
    args = config.parse_arg(arg, method="hapo", seed=0)
    demo = str(ROOT / "configs" / "countdown.py")
    c = arguments.load_file(demo, demo).get_config(
        f"method={args.method},seed={args.seed}"
    )
    c = c.unlock()
    c.num_steps = 40
    c.learner.minibatch_prompts = 4
    c.eval.every_steps = 10
    c.eval.num_problems = 100
    c.checkpoint.every_steps = 25
    c.checkpoint.export_hf = False
    c.log.record_every_steps = 10
    c.log.record_groups = 8
    c.log.tensorboard = False
    return c.lock()


def sweep(add):
    """Two methods, two seeds each; and the first policy at several temperatures.

    Those sample twice without learning: the second time, the adaptive temperature has
    the statistics of the first. Every group is kept, so that accuracies are unbiased.
    """
    for seed in range(2):
        for method in ("hapo", "dapo"):
            add({":method": method, "seed": seed}, name=method)
    still = {
        "num_steps": 2,
        "learner.learning_rate": 1e-12,  # not allowed to be 0
        "rollout.dynamic_sampling": False,
        "rollout.batch_prompts": 40,
        "learner.minibatch_prompts": 40,
        "eval.at_start": False,
        "eval.every_steps": 0,
        "eval.num_problems": 8,
        "log.record_every_steps": 2,
        "log.record_groups": 40,
    }
    for temperature in TEMPERATURES:
        base = {":method": "dapo", "rollout.base_temperature": temperature}
        add({**base, **still}, name=f"fixed_{temperature}")
    add({":method": "hapo", **still}, name="adaptive")
    add({":method": "hapo", **WHOLE}, name="whole")


_OF_EVALUATION = ("set", "id", "protocol", "scores", "lengths", "entropy", "truncated")
_OF_EVALUATION += ("majority_score", "greedy_score")
_OF_MACHINE = ("perf/", "grading/")  # metrics that are left out
_DIGITS = 4
_TEXT = [*records.PER_COMPLETION, "tokens", "token_strings"]
# What says where a run was made, and nothing about it.
_WITHOUT = {records.CONFIG: {"starts": []}, inputs.NAME: {"files": {}}}


def keep(
    sweep: pathlib.Path, out: pathlib.Path = KEPT, without: Collection[str] = ()
) -> int:
    """Copies what the notebooks read of a sweep's runs; returns its size in bytes.

    Paths are given from the repository's root; starts and what tells of the machine are
    left out; numbers of metrics and evaluations have four digits. Tokens keep all of
    theirs: as streams of bytes they take a quarter less room. Columns of texts that
    are named in `without` are kept empty.
    """
    found = sweep_folder.read(sweep)
    for variant in found.variants:
        source = found.run_folder(variant)
        target = out / variant.name.replace("+seed=", "_")
        target.mkdir(parents=True)
        for name in (records.CONFIG, inputs.NAME):
            text = (source / name).read_text().replace(f"{ROOT}/", "")
            given = json.loads(text) | _WITHOUT[name]
            (target / name).write_text(json.dumps(given))
        lines = records.read_metric_lines(source)
        records.write_lines(target / records.METRICS, map(_shorter, lines))
        for path in sorted((source / records.EVAL).glob("*.jsonl")):
            rows = [
                {k: _rounded(row[k]) for k in _OF_EVALUATION if k in row}
                for row in records.read_lines(path)
            ]
            records.write_lines(target / records.EVAL / path.name, rows)
        whole = sorted((source / records.BATCHES).glob("*.parquet"))
        for path in whole:
            _keep_tokens(path, target / records.BATCHES / path.name)
        for path in sorted((source / records.ROLLOUTS).glob("*.parquet")):
            # Of whole steps the numbers are in their batches, and the text here.
            columns = _TEXT if whole else None
            _keep_tokens(path, target / records.ROLLOUTS / path.name, columns, without)
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def _shorter(line):
    """Of a step; the pivot keeps its digits, since tokens are compared with it."""
    line = {k: v for k, v in line.items() if not k.startswith(_OF_MACHINE)}
    return _rounded(line) | {k: v for k, v in line.items() if k.startswith("stats/")}


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [*map(_rounded, value)]
    if isinstance(value, float) and not value.is_integer():
        return float(f"{value:.{_DIGITS}g}")
    return value


def _keep_tokens(
    source: pathlib.Path,
    target: pathlib.Path,
    columns: Collection[str] | None = None,
    without: Collection[str] = (),
) -> None:
    table = parquet.read_table(source, columns=columns)
    for name in without:
        place = table.schema.get_field_index(name)
        empty = pa.array([""] * len(table), pa.string())
        table = table.set_column(place, table.schema.field(place), empty)
    floats = [
        f"{field.name}.list.element"
        for field in table.schema
        if pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type)
    ]
    target.parent.mkdir(exist_ok=True)
    parquet.write_table(
        table,
        target,
        compression="zstd",
        compression_level=19,
        use_dictionary=False,
        use_byte_stream_split=floats,
    )


if __name__ == "__main__":
    size = keep(pathlib.Path(sys.argv[1]))
    print(f"{KEPT}: {size / 1e6:.2f} MB; at most {MOST_BYTES / 1e6:g} are to be kept")
