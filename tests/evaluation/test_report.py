"""Figures against hand-worked numbers; the picture is drawn from whatever there is."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from hapo_jax.evaluation import report

BEFORE = {
    "eval/avg@8": 0.30,
    "eval/avg@8_low": 0.256,
    "eval/avg@8_high": 0.34,
    "eval/greedy": 0.4,
    "eval/length": 12.34,
    "eval/entropy": 0.5,
    "loss/policy": 1.0,
}


def test_table_shows_intervals_and_the_change():
    after = BEFORE | {"eval/avg@8": 0.625, "eval/entropy": 0.25, "eval/pass@8": 0.9}
    lines = report.table({"warm start": BEFORE, "trained": after}).splitlines()
    # pass@8 is left out: the first policy does not have it.
    assert lines[0].split() == ["greedy", "avg@8", "length", "entropy"]
    assert lines[1].split() == ["%", "%", "tokens", "nats/token"]
    assert lines[3].split("  ")[0] == "warm start"
    assert lines[3].split()[2:] == "40.0 30.0 [25.6, 34.0] 12.3 0.500".split()
    assert lines[5].split() == ["change", "+0.0", "+32.5", "+0.0", "-0.250"]
    assert lines[-1] == "[ ] 95 % interval over problems"
    assert len({len(line) for line in lines[:-1]}) == 1
    assert "change" not in report.table({"one": BEFORE})
    assert "change" not in report.table({"a": BEFORE, "b": after}, change=False)
    for rows in ({}, {"none": {"loss/policy": 1.0}}):
        with pytest.raises(ValueError, match="no metric of an evaluation"):
            report.table(rows)


def write_metrics(path, rows):
    path.joinpath("metrics.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows)
    )


def test_curves_are_drawn_from_what_there_is(tmp_path):
    rows = [{"step": 0, "eval/avg@8": 0.3, "eval/greedy": 0.35}]
    for step in range(1, 61):
        row = {"step": step, "rollout/reward": 0.01 * step, "time/step": 1.5}
        row |= {
            f"temperature/{k}": v for k, v in [("min", 0.8), ("mean", 1), ("max", 1.2)]
        }
        rows.append(row)
    rows.append({"step": 60, "eval/avg@8": 0.6, "eval/greedy": None})
    write_metrics(tmp_path, rows)
    path = report.plot_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_a_line_breaks_off_where_another_protocol_begins():
    key, other = "eval/avg@8", "eval/protocol"
    rows = [
        {"step": 10 * i, key: 0.1 * i, other: protocol}
        for i, protocol in enumerate([5, 5, 7, 7, 5])
    ]
    # Of other metrics nothing breaks, nor of a run that noted no protocol.
    rows += [{"step": i, "length/mean": 1.0} for i in range(5)]
    pieces = [[row["step"] for row in piece] for piece in report._pieces(rows, key)]
    assert pieces == [[0, 10], [20, 30], [40]]
    axis = Figure().subplots()
    report._draw(axis, report.PANELS[1], [key], rows)
    assert [line.get_xdata().tolist() for line in axis.lines] == pieces
    assert len(report._pieces(rows, "length/mean")) == 1
    old = [{"step": i, key: 0.1} for i in range(3)]
    assert report._pieces(old, key) == [old]


def test_only_steps_of_the_last_protocol_are_set_beside_it():
    figures = {0: 1, 10: 1, 20: 2, 30: 1}
    figures = {step: {"eval/protocol": p} for step, p in figures.items()}
    assert report.of_last_protocol(figures, [0, 10, 20, 30]) == [0, 10, 30]
    assert report.of_last_protocol(figures, [0, 10, 20]) == [20]
    # Steps of a version that noted none are not known to be alike.
    figures[0], figures[10] = {}, {}
    assert report.of_last_protocol(figures, [0, 10]) == [0, 10]
    assert report.of_last_protocol(figures, [0, 10, 30]) == [30]


def test_every_panel_shows_its_data_and_cuts_only_the_peak():
    rows = [
        {"step": i, "length/mean": 20.0 + i, "time/step": 90.0 if i == 0 else 1.0}
        for i in range(50)
    ]
    for panel in report.PANELS:
        keys = report._matching(panel.keys, {"length/mean", "time/step"})
        if keys:
            axis = Figure().subplots()
            report._draw(axis, panel, keys, rows)
            low, high = axis.get_ylim()
            assert low == 0
            assert high == 3.0 if panel.robust else 69 < high < 80


def test_a_run_without_metrics_has_no_curves(tmp_path):
    write_metrics(tmp_path, [{"step": 1, "grad/norm": 1.0}])
    with pytest.raises(ValueError, match="no metrics to draw"):
        report.plot_curves(tmp_path)


def test_running_mean_keeps_straight_lines_straight():
    line = np.arange(100.0)
    found = report._running(np.mean, line)
    np.testing.assert_allclose(found[10:-10], line[10:-10])
    assert 0 < found[0] < 5
    peak = np.where(line == 50, 1e3, 1.0)
    np.testing.assert_array_equal(report._running(np.median, peak), 1.0)
