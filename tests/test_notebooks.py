"""The notebooks run, show what was recorded, and are kept with what they show."""

import base64
import collections
import html.parser
import io
import json
import re
import subprocess

import matplotlib.image
import numpy as np
import pytest

from hapo_jax.config import arguments, upgrade
from hapo_jax.runs import records as records_lib
from hapo_jax.sweeps import sweep_folder, variants
from tests import test_train
from tests.environment import of_program

REASON = "notebooks are executed with the extra `test`: pip install -e '.[test]'"
nbclient = pytest.importorskip("nbclient", reason=REASON)
nbformat = pytest.importorskip("nbformat", reason=REASON)
pytest.importorskip("ipykernel", reason=REASON)

FOLDER = test_train.ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FIRST_RUN = FOLDER / "first_run.ipynb"
FIGURES = ("curves", "entropy", "strings", "temperature", "ratios")
MOST_SECONDS = 180  # of a notebook
CALLS_OF_FIGURES = re.compile(
    r"^(?:figures\.\w+|report\.curves|replay\.picture)\(", re.M
)


def execute(path, monkeypatch, tmp_path, workdir=None):
    """The notebook's code cells with their outputs, by cell id."""
    if workdir is None:
        monkeypatch.delenv("HAPO_WORKDIR", raising=False)
    else:
        monkeypatch.setenv("HAPO_WORKDIR", str(workdir))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # not the user's
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=MOST_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    return code_cells(notebook)


def code_cells(notebook):
    return {c.id: c for c in notebook.cells if c.cell_type == "code"}


def displayed(outputs, kind):
    """What a cell displayed, of one MIME type."""
    return [o.data[kind] for o in outputs if kind in o.get("data", {})]


def check_picture(cell):
    """It shows one picture, which is not blank."""
    (png,) = displayed(cell.outputs, "image/png")
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))
    colors = np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)
    assert len(colors) > 20, f"{cell.id} is blank"


class Page(html.parser.HTMLParser):
    """What a browser would find.

    Attributes:
      tokens: (text, title, style) of every shaded token.
      rows: the texts of the cells of every row of a table.
    """

    def __init__(self, source):
        super().__init__()
        self.tokens, self.rows = [], []
        self._text, self._attributes = "", {}
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("span", "td", "th"):
            self._text, self._attributes = "", dict(attrs)

    def handle_data(self, data):
        self._text += data

    def handle_endtag(self, tag):
        a = self._attributes
        if tag == "span" and a.get("class") == "token":
            self.tokens.append((self._text, a["title"], a["style"]))
        if tag in ("td", "th"):
            self.rows[-1].append(self._text)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Four steps, so large that clips fire; records of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("notebook") / "run"
    env = of_program()
    flags = ("--config.num_steps=4", "--config.learner.learning_rate=0.01")
    done = subprocess.run(
        test_train.command(folder, *test_train.SMALL, *flags),
        cwd=test_train.ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_notebook_shows_what_the_run_recorded(workdir, monkeypatch, tmp_path):
    cells = execute(FIRST_RUN, monkeypatch, tmp_path, workdir)

    text = "".join(o.get("text", "") for o in cells["curves"].outputs)
    assert "greedy" in text and "step 4" in text
    for name in FIGURES:
        check_picture(cells[name])

    steps = records_lib.rollout_steps(workdir)
    assert steps == [2, 4]
    check_group(displayed(cells["group"].outputs, "text/html"), workdir, step=4)
    records = [r for step in steps for r in records_lib.read_rollouts(workdir, step)]
    check_tables(cells, records)


def check_group(pages, workdir, *, step):
    """Every token of the group in its place, with its numbers, quantile and clips."""
    (page,) = pages
    records = records_lib.read_rollouts(workdir, step)
    (metrics,) = (m for m in records_lib.read_metrics(workdir) if m["step"] == step)
    quantile = np.exp(metrics["stats/log_entropy_quantile"])
    fired = 0
    shown = iter(Page(page).tokens)
    for record in records:
        for t, token in enumerate(record["token_strings"]):
            text, title, style = next(shown)
            assert text == token
            low, high = 1 - record["clip_low"][t], 1 + record["clip_high"][t]
            for number in (
                f"entropy {record['entropy'][t]:.4f} nats",
                f"temperature {record['temperature'][t]:.3f}",
                f"advantage {record['advantages'][t]:+.3f}",
                f"ratio {record['ratio'][t]:.4f}, counts in [{low:.3f}, {high:.3f}]",
            ):
                assert number in title
            clips = [
                name.replace("_", " ")
                for name in ("clipped_low", "clipped_high", "dual_clipped")
                if record[name][t]
            ]
            fired += len(clips)
            assert all(name in title for name in clips)
            assert ("outline" in style) == bool(clips)
            assert ("border-bottom" in style) == (record["entropy"][t] > quantile)
    assert next(shown, None) is None
    assert fired > 0  # or the comparison of clips says nothing


def check_tables(cells, records):
    """Tokens are counted right, and so are the clips of both kinds."""
    (page,) = displayed(cells["tokens"].outputs, "text/html")
    counts = collections.Counter(s for r in records for s in r["token_strings"])
    head, _, *rows = Page(page).rows
    assert head[1] == "count" and rows
    frequent = [count for _, count in counts.most_common(18) if count >= 10]
    assert [int(count) for _, count, *_ in rows] == frequent
    for token, count, *_ in rows:
        assert int(count) == counts[token], token

    (summary,) = displayed(cells["clips"].outputs, "text/html")
    (listed,) = displayed(cells["clipped"].outputs, "text/html")
    signal = [r for r in records if (r["base_advantages"] != 0).any()]
    total = sum(len(r["tokens"]) for r in signal)
    _, *rows = Page(summary).rows
    for side in ("low", "high"):
        own = {kind: line for _, s, kind, *line in rows if s == side}
        hits = {kind: int(line[0]) for kind, line in own.items()}
        assert hits["all"] == sum(r[f"clipped_{side}"].sum() for r in signal)
        assert hits["confident"] + hits["uncertain"] == hits["all"]
        assert int(own["all"][1]) == total
    names = ("clipped_low", "clipped_high", "dual_clipped")
    clipped = sum(r[name].sum() for r in records for name in names)
    assert len(Page(listed).rows) - 1 == min(20, clipped) > 0


def test_a_folder_without_a_run_says_how_to_make_one(monkeypatch, tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError) as error:
        execute(FIRST_RUN, monkeypatch, tmp_path, tmp_path / "absent")
    assert "make demo" in error.value.evalue and "absent" in error.value.evalue


def words_of(cell):
    """What a cell shows as text, of tables and prints."""
    return [
        o["text"] if "text" in o else o["data"]["text/plain"]
        for o in cell.outputs
        # A library may warn in one environment and not in another.
        if "image/png" not in o.get("data", {}) and o.get("name") != "stderr"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_kept_outputs_are_those_of_the_executed_notebook(path, monkeypatch, tmp_path):
    kept = code_cells(nbformat.read(path, as_version=4))
    made = execute(path, monkeypatch, tmp_path)
    for name, cell in made.items():
        assert words_of(kept[name]) == words_of(cell), name
        if CALLS_OF_FIGURES.search(cell.source):
            check_picture(cell)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_kept_with_their_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [c.execution_count for c in cells.values()] == [*range(1, len(cells) + 1)]
    for name, cell in cells.items():
        assert cell.outputs, name
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
        if CALLS_OF_FIGURES.search(cell.source):
            check_picture(cell)
    assert sum(bool(CALLS_OF_FIGURES.search(c.source)) for c in cells.values()) >= 2
    for definition in ("def ", "class ", "lambda "):  # the package owns what is needed
        assert not any(definition in c.source for c in cells.values())


def test_recorded_runs_are_small_and_say_nothing_of_where_they_were_made():
    files = [path for path in (FOLDER / "runs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    for path in files:
        if path.suffix in (".json", ".jsonl"):
            assert not re.search(r'"/\w', path.read_text()), path


def test_recorded_runs_are_those_of_the_sweep():
    file = FOLDER / "runs.py"
    experiment, found = variants.read(str(file))
    kept = {path.name for path in (FOLDER / "runs").iterdir()}
    assert kept == {variant.name.replace("+seed=", "_") for variant in found}
    for variant in found:
        folder = FOLDER / "runs" / variant.name.replace("+seed=", "_")
        # What an earlier version did not know has its default.
        saved = upgrade.from_saved(records_lib.read_config(folder)).to_dict()
        config = experiment.config(variant.changes).to_dict()
        for key in ("seed", "method", "num_steps", "algo", "log", "task", "data"):
            assert json.dumps(saved[key]) == json.dumps(config[key]), (folder, key)


def test_keeping_leaves_tokens_and_scores_as_they_are(tmp_path):
    """Of a sweep of one variant, whose run stands beside the notebooks."""
    keep = arguments.load_file(str(FOLDER / "runs.py"), "runs.py").keep
    source = FOLDER / "runs" / "hapo_0"
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "hapo_0").symlink_to(source)
    experiment = variants.Experiment(str(FOLDER / "runs.py"))
    one = variants.Variant("hapo_0", "hapo", {})
    sweep_folder.write(sweep_folder.Sweep(sweep, experiment, [one]))
    size = keep(sweep, tmp_path / "kept")
    assert 100_000 < size < 1_000_000
    for step in records_lib.rollout_steps(source):
        before = records_lib.read_rollouts(source, step)
        after = records_lib.read_rollouts(tmp_path / "kept" / "hapo_0", step)
        for a, b in zip(before, after, strict=True):
            for name in records_lib.SCHEMA.names:
                np.testing.assert_array_equal(a[name], b[name])
    for step in records_lib.eval_steps(source):
        before = records_lib.read_eval(source, step)
        after = records_lib.read_eval(tmp_path / "kept" / "hapo_0", step)
        assert [r["scores"] for r in before] == [r["scores"] for r in after]
