"""Every picture is drawn, shows the numbers of its table and has words on its axes."""

import inspect
import io
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from hapo_jax.analysis import figures, frames, pages, tables, words
from tests.analysis import made_records
from tests.analysis.made_records import completion, word


def rows(seed):
    """Twelve groups of a right and a wrong completion, with clips and dual words."""
    rng = np.random.default_rng(seed)
    made = []
    for group in range(12):
        for score in (1.0, 0.0):
            sign = 2 * score - 1
            tokens = [
                word(
                    rng.choice(["a", "b", "(since", "$x"]),
                    float(rng.lognormal(-1.5, 1.5)),
                    ratio=float(rng.lognormal(0, 0.2)),
                    temperature=float(rng.uniform(0.8, 1.2)),
                    base_advantages=sign,
                    advantages=sign,
                    clipped_low=bool(rng.random() < 0.05),
                    clipped_high=bool(rng.random() < 0.05),
                )
                for _ in range(int(rng.integers(5, 12 + 6 * (score == 0))))
            ]
            made.append(completion(tokens, group=group, score=score))
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for seed, method in enumerate(("hapo", "dapo")):
        values = dict.fromkeys(tables.COMPARED, 0.5 + 0.1 * seed)
        made[method] = made_records.make(
            folder / method,
            {step: rows(10 * seed + step) for step in (1, 2)},
            metrics=values,
            method=method,
            changes=[("rollout.dynamic_sampling", False)],
        )
    return made


@pytest.fixture(scope="module")
def inputs(runs):
    return {
        "tokens": frames.tokens(runs),
        "completions": frames.completions(runs),
        "steps": frames.steps(runs),
        "runs": runs,
    }


def public(module):
    return {
        name: f
        for name, f in vars(module).items()
        if inspect.isfunction(f)
        and f.__module__ == module.__name__
        and not name.startswith("_")
    }


FIGURES = public(figures)
TABLES = public(tables) | public(words)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_with_words_on_its_axes(name, inputs):
    draw = FIGURES[name]
    first = next(iter(inspect.signature(draw).parameters))
    figure = draw(inputs[first])
    for axis in figure.axes:
        if axis.get_visible() and axis.get_label() != "<colorbar>":
            assert axis.get_title(loc="left"), name
            assert axis.get_xlabel() or axis.get_xticklabels()[0].get_text()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    buffer.seek(0)
    picture = matplotlib.image.imread(buffer)
    colors = np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)
    assert len(colors) > 20, f"{name} is blank"


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_its_table_and_says_what_it_tests(name):
    assert "Paper" in inspect.getdoc(FIGURES[name]), name
    if name == "clip_ranges":  # of the tokens themselves; the clipped are listed
        assert "clipped_tokens" in inspect.getdoc(FIGURES[name])
    else:
        assert name in TABLES


@pytest.mark.parametrize("by", ["string", "stem"])
def test_words_can_be_drawn_by_stem(by, inputs):
    figure = figures.dual_entropy(inputs["tokens"], by=by)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    table = words.dual_entropy(inputs["tokens"], by=by).sort_values("entropy")
    assert [re.sub(r"'(.*)' .*", r"\1", label) for label in labels] == [*table.index]
    figures.by_string(inputs["tokens"], by=by)


def test_bars_are_the_table(inputs):
    table = tables.clips(inputs["tokens"]).set_index(["kind", "side"])
    (axis,) = figures.clips(inputs["tokens"]).axes
    heights = [bar.get_height() for bar in axis.patches]
    wanted = [(kind, side) for kind in tables.KINDS for side in ("low", "high")]
    assert heights == pytest.approx([100 * table.loc[w, "share"] for w in wanted])


def test_a_group_as_a_page(inputs):
    tokens, completions = inputs["tokens"], inputs["completions"]

    def one(frame):
        wanted = (frame["run"] == "hapo") & (frame["step"] == 1) & (frame["group"] == 3)
        return frame[wanted]

    page = pages.group(one(tokens), one(completions))
    shown = re.findall(r'<span class="token" title="([^"]*)" style="([^"]*)">', page)
    own = one(tokens)
    assert len(shown) == len(own)
    for (title, style), token in zip(shown, own.itertuples()):
        assert f"entropy {token.entropy:.4f} nats" in title
        clipped = token.clipped_low or token.clipped_high
        assert ("outline" in style) == clipped == ("clipped" in title)
        assert ("border-bottom" in style) == token.uncertain
    assert "reward <b>0</b>" in page and "reward <b>1</b>" in page
    short = pages.group(one(tokens), one(completions), most_tokens=2)
    assert short.count('class="token"') == 4 and "more tokens" in short


def test_no_global_state_of_pyplot_is_touched():
    code = "import sys; from hapo_jax.analysis import figures\n"
    code += "assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
