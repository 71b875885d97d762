"""The notebook on the folder of a short run: it runs, and shows what was recorded."""

import base64
import collections
import html.parser
import io
import subprocess

import matplotlib.image
import numpy as np
import pytest

from hapo_jax.runs import records as records_lib
from tests import test_train
from tests.environment import of_program

REASON = "notebooks are executed with the extra `test`: pip install -e '.[test]'"
nbclient = pytest.importorskip("nbclient", reason=REASON)
nbformat = pytest.importorskip("nbformat", reason=REASON)
pytest.importorskip("ipykernel", reason=REASON)

NOTEBOOK = test_train.ROOT / "notebooks" / "first_run.ipynb"
FIGURES = ("curves", "entropy", "temperature", "ratios")


def execute(workdir, monkeypatch, tmp_path):
    """The outputs of the notebook on a run, by cell id."""
    monkeypatch.setenv("HAPO_WORKDIR", str(workdir))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # not the user's
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    ).execute()
    return {c.id: c.outputs for c in notebook.cells if c.cell_type == "code"}


def displayed(outputs, kind):
    """What a cell displayed, of one MIME type."""
    return [o.data[kind] for o in outputs if kind in o.get("data", {})]


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
    outputs = execute(workdir, monkeypatch, tmp_path)

    text = "".join(o.get("text", "") for o in outputs["curves"])
    assert "greedy" in text and "step 4" in text
    for cell in FIGURES:
        (png,) = displayed(outputs[cell], "image/png")
        picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))
        colors = np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)
        assert len(colors) > 20, f"{cell} is blank"

    steps = records_lib.rollout_steps(workdir)
    assert steps == [2, 4]
    check_group(displayed(outputs["group"], "text/html"), workdir, step=4)
    records = [r for step in steps for r in records_lib.read_rollouts(workdir, step)]
    check_tables(outputs, records)


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


def check_tables(outputs, records):
    """Tokens are counted right, and so are the clips of both regions."""
    (page,) = displayed(outputs["tokens"], "text/html")
    counts = collections.Counter(s for r in records for s in r["token_strings"])
    _, *rows = Page(page).rows
    assert len(rows) == min(18, len(counts))
    for token, count, *_ in rows:
        assert int(count) == counts[token[1:-1]], token

    summary, clipped = map(Page, displayed(outputs["clips"], "text/html"))
    _, *rows = summary.rows
    totals = {}
    for name, confident, uncertain, _ in rows:
        pairs = [map(int, cell.split(" of ")) for cell in (confident, uncertain)]
        hits, tokens = map(sum, zip(*pairs))
        assert tokens == counts.total()
        totals[name.replace(" ", "_")] = hits
    assert totals == {name: sum(r[name].sum() for r in records) for name in totals}
    assert len(clipped.rows) - 1 == min(20, sum(totals.values()))


def test_a_folder_without_a_run_says_how_to_make_one(monkeypatch, tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError) as error:
        execute(tmp_path / "absent", monkeypatch, tmp_path)
    assert "make demo" in error.value.evalue and "absent" in error.value.evalue


@pytest.mark.parametrize(
    "path", sorted(NOTEBOOK.parent.glob("*.ipynb")), ids=lambda p: p.stem
)
def test_notebooks_are_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
