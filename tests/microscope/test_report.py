"""Reports of run folders: what is in them, and what is refused."""

import hashlib
import json
import re

import numpy as np
import pytest

from hapo_jax.microscope import block, columns, page, report, runs
from hapo_jax.runs import alarm_kinds, records
from hapo_jax.system.errors import Refused
from tests.microscope import made


def index_of(html):
    text = re.search(r'id="index">(.*?)</script>', html, re.S)[1]
    return json.loads(text)


def block_of(html, name):
    return re.search(rf'id="{name}">(.*?)</script>', html, re.S)[1]


def curves(data):
    header, parts = block.unpack(data)
    return {
        name: columns.from_planes(data, form["kind"], header["size"])
        for name, (form, data) in parts.items()
    }


@pytest.fixture
def run(tmp_path):
    alarm = {"step": 3, "alarm/no_signal": 1.0}
    steps = {2: made.groups(), 4: made.groups(seed=7)}
    return made.run(tmp_path / "run", steps, metrics=[alarm])


def test_a_report_holds_the_run(run):
    html = report.microscope(run).html
    (summary,) = index_of(html)["runs"]
    assert summary["name"] == "run"
    assert dict(summary["facts"])["method"] == "hapo"
    assert summary["findings"] == [
        {"step": 3, "name": "no_signal", "means": runs.MEANS["no_signal"]}
    ]
    assert [step["step"] for step in summary["steps"]] == [2, 4]
    (first, _) = summary["steps"][0]["groups"]
    assert first["scores"] == [0, 1, 0, 1] and first["lengths"] == [60, 65, 70, 75]
    rows = records.read_rollouts(run, 4)
    found = block.read(block_of(html, "step-0-4"))
    entropy = np.concatenate([row["entropy"] for row in rows])
    np.testing.assert_allclose(found["entropy"], entropy, rtol=2**-11, atol=3e-8)


def test_the_first_page_has_what_the_doctor_finds(tmp_path):
    step = {"grad/skipped": 0, "rollout/truncated": 0.5, "length/mean": 70.0}
    metrics = [step | {"step": k} for k in range(1, 5)]
    metrics[3]["doctor/truncation"] = 1.0  # which it has told already
    run = made.run(tmp_path / "run", {4: made.groups()}, metrics=metrics)
    (summary,) = index_of(report.microscope(run).html)["runs"]
    (found,) = [f for f in summary["findings"] if f["name"] == "truncation"]
    assert found["step"] == 1
    assert "50 % of the completions are cut off" in found["means"]
    assert "Set: rollout.max_completion_tokens higher" in found["means"]


def test_every_alarm_has_a_meaning():
    assert runs.MEANS.keys() == alarm_kinds.KINDS.keys()


def test_curves_are_those_of_the_metrics(run):
    found = curves(block_of(report.microscope(run).html, "metrics-0"))
    assert found["step"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found["rollout/reward"][1:], [0.1, 0.2, 0.3, 0.4])
    assert np.isnan(found["rollout/reward"][0])  # not logged at step 0


def test_evaluations_without_intervals_get_them_from_their_problems(run):
    first, last = index_of(report.microscope(run).html)["runs"][0]["evaluations"]
    assert (first["step"], last["step"]) == (0, 4)
    assert last["figures"]["eval/avg@2"] == 0.75
    low, high = (last["figures"][f"eval/avg@2_{end}"] for end in ("low", "high"))
    assert 0 < low < 0.75 < high <= 1


def test_a_run_may_have_no_tokens_and_a_run_that_goes_on_is_read(tmp_path):
    html = report.microscope(made.run(tmp_path / "run", {})).html
    assert index_of(html)["runs"][0]["steps"] == []


def test_a_long_run_is_thinned_and_says_so(run):
    found = report.microscope(run, tokens=700)
    (words,) = found.words
    assert words.startswith("run: Thinned: ") and "--tokens=700" in words
    assert index_of(found.html)["runs"][0]["thinned"][0] in words


def test_steps_can_be_named(run):
    html = report.microscope(run, steps=[4]).html
    assert [s["step"] for s in index_of(html)["runs"][0]["steps"]] == [4]
    with pytest.raises(Refused, match="--steps=3: not recorded"):
        report.microscope(run, steps=[3])


def test_two_runs_of_one_name_are_told_apart(run, tmp_path):
    other = made.run(tmp_path / "other" / "run", {2: made.groups()})
    html = report.microscope(run, other).html
    assert [r["name"] for r in index_of(html)["runs"]] == ["run (1)", "run (2)"]
    assert "run (1) · run (2)" in html


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(Refused, match="give folders of runs"):
        report.microscope()
    with pytest.raises(Refused, match="does not exist; give the folder of a run"):
        report.microscope(tmp_path)
    with pytest.raises(Refused, match="--tokens=0"):
        report.microscope(tmp_path, tokens=0)


def test_a_report_names_no_folder_of_its_maker(run):
    assert str(run.parent) not in report.microscope(run).html


def test_nothing_is_loaded_and_nothing_else_may_run(run):
    html = report.microscope(run).html
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    outside = re.sub(r"<script.*?</script>|<style>.*?</style>", "", html, flags=re.S)
    assert not re.search(r"https?:|\bsrc=|\bhref=\"(?!#)", outside)
    assert html.count("<script") == html.count("</script>")


def test_a_name_cannot_be_html(tmp_path):
    name = 'a"><script>x()<'  # no / in a folder's name
    html = report.microscope(made.run(tmp_path / name, {2: made.groups()})).html
    assert "<script>x()" not in html and "&lt;script&gt;x()" in html


def test_a_notebook_gets_a_frame(run):
    found = report.microscope(run)
    frame = found._repr_html_()
    assert frame.startswith("<iframe") and "&lt;!doctype html&gt;" in frame
    assert frame.count("<") == 2  # the frame's own: all else is in its srcdoc


def test_modules_are_put_in_as_they_are():
    html = page.page("x", {}, {})
    imports = json.loads(re.search(r'importmap">(.*?)</script>', html, re.S)[1])
    assert {f"microscope/{p.stem}" for p in page.ASSETS.glob("*.js")} == set(
        imports["imports"]
    )


def test_uplot_is_as_its_package_has_it():
    """The checksums were taken from the npm package; page.py has the command."""
    folder = page.ASSETS / "uplot"
    lines = [line.split() for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {p.name for p in folder.iterdir()} - {
        "SHA256SUMS"
    }
    for digest, name in lines:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    version = re.search(r"uplot, version ([\d.]+)", page.__doc__)[1]
    assert f"v{version}" in (folder / "uPlot.iife.min.js").read_text()[:300]


def test_text_of_models_never_becomes_html():
    words = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function"
    )
    for path in page.ASSETS.glob("*.js"):
        assert not re.search(words, path.read_text()), path.name


def test_the_picture_of_the_docs_is_small():
    picture = page.ASSETS.parents[2] / "docs" / "microscope.png"
    assert picture.stat().st_size <= 150_000
