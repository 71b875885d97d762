"""Exported lines have the fields that prime-rl's exporter writes."""

import json

import numpy as np
import pytest
from pyarrow import parquet

from hapo_jax.microscope import export, program
from hapo_jax.runs import records
from hapo_jax.system.errors import Refused
from tests.microscope import made

# Of a record of prime-rl's token exports, schema version 1.
THEIRS = {
    *("schema_version", "step", "export_step", "rank", "micro_step", "run_id"),
    *("micro_sequence_idx", "export_sequence_idx", "env_name", "token_ids", "entropy"),
    *("position_ids", "loss_mask", "advantages", "losses", "rewards", "mismatch_kl"),
    *("inference_logprobs", "trainer_logprobs", "log_importance_ratio", "prob_delta"),
    *("importance_ratio", "is_masked", "is_masked_high", "is_masked_low"),
}


@pytest.fixture
def run(tmp_path):
    return made.run(tmp_path / "run", {2: made.groups(), 4: made.groups(seed=7)})


def test_lines_have_their_fields_and_mean_the_same(run, tmp_path):
    path = tmp_path / "out" / "tokens.jsonl"
    assert export.write([run], path) == 16
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rows = records.read_rollouts(run, 2) + records.read_rollouts(run, 4)
    assert [line["step"] for line in lines] == [2] * 8 + [4] * 8
    for line, row in zip(lines, rows):
        assert line.keys() >= THEIRS and line["schema_version"] == 1
        arrays = {k: v for k, v in line.items() if k in THEIRS and isinstance(v, list)}
        assert {len(v) for v in arrays.values()} == {len(row["tokens"])}
        new, behavior = row["logprobs"], row["behavior_logprobs"]
        np.testing.assert_array_equal(line["token_ids"], row["tokens"])
        np.testing.assert_array_equal(line["trainer_logprobs"], new)
        np.testing.assert_array_equal(line["inference_logprobs"], behavior)
        difference = new.astype(float) - behavior
        np.testing.assert_allclose(line["log_importance_ratio"], difference)
        np.testing.assert_allclose(line["importance_ratio"], np.exp(difference))
        kl = np.exp(difference) - difference - 1
        np.testing.assert_allclose(line["mismatch_kl"], kl)
        np.testing.assert_array_equal(line["is_masked_high"], row["clipped_high"])
        np.testing.assert_array_equal(line["is_masked_low"], row["clipped_low"])
        assert line["losses"][0]["rl"]["advantage"] == row["advantages"][0]
        assert line["rewards"] == [row["reward"]] * len(row["tokens"])
        assert line["token_strings"] == row["token_strings"]
        assert line["env_name"] == "countdown"
    left = set(records.PER_TOKEN) - {"tokens"} - set(export._USED)
    assert left <= lines[0].keys()


def test_what_is_not_finite_is_null(tmp_path):
    row = made.record(3)
    row["advantages"][1] = np.nan
    run = made.run(tmp_path / "run", {2: [row]})
    (line,) = export.lines(run, None)
    assert line["advantages"][1] is None
    json.dumps(line, allow_nan=False)


def test_records_of_an_earlier_version_are_refused(run, tmp_path):
    (path, *_) = sorted((run / "rollouts").glob("*.parquet"))
    parquet.write_table(parquet.read_table(path).drop_columns(["counted"]), path)
    with pytest.raises(Refused, match="without counted; export a run of this version"):
        export.write([run], tmp_path / "tokens.jsonl")
    assert [*tmp_path.glob("*tokens.jsonl*")] == []


def test_the_program_writes_a_page_or_lines(run, tmp_path, capsys):
    program.main([str(run)], out=str(tmp_path / "new" / "report.html"))
    said = capsys.readouterr().out
    assert "report.html, " in said and " MB; open it in a browser" in said
    program.main([str(run)], export=str(tmp_path / "t.jsonl"), steps=[4])
    assert capsys.readouterr().out == f"written: {tmp_path}/t.jsonl, 8 completions\n"
    with pytest.raises(Refused, match=r"--out=.* is a folder; name a file"):
        program.main([str(run)], out=str(tmp_path))
    with pytest.raises(Refused, match="--steps='x' is no step"):
        program._step("x")
