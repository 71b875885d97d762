"""The scripts in examples/ run, and show what they say.

test_commands.py has the runs with an own method and an own verifier.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from examples import find_forks, hapo_on_an_array, own_method, own_verifier

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")))
def test_an_example_fits_on_a_page(path):
    assert len(path.read_text().splitlines()) <= 60


def test_the_four_components_on_an_array():
    found = hapo_on_an_array.main()
    score, advantage = found["score"], found["advantage"]
    np.testing.assert_allclose([score.min(), score.max()], [-1, 1], rtol=1e-6)
    # A: cooler where the policy is confident, hotter where it is not.
    assert found["temperature"][0, 2] < 1 < found["temperature"][2, 2]
    # B: over the 6 tokens of the first prompt, 4 of which have reward 1: mean 2/3,
    # deviation sqrt(2)/3.
    np.testing.assert_allclose(advantage[0], 0.7071, rtol=1e-3)
    np.testing.assert_allclose(advantage[1, :2], -1.4142, rtol=1e-3)
    # C: a ratio of 1.3 is outside the neutral zone, so uncertain tokens count more.
    uncertain = score > 0
    expected = advantage * np.where(uncertain, 1 + score, 1)
    np.testing.assert_allclose(found["redistributed"], expected, rtol=1e-6)
    # D: the ends are doubled at scores of -1 and 1.
    np.testing.assert_allclose(found["low"].max(), 0.4, rtol=1e-6)
    np.testing.assert_allclose(found["high"].max(), 0.56, rtol=1e-6)


def test_an_own_method():
    """d/dlog π of -A r + A pull (r - 1)^3 at r = e^0.5, A = 1/sqrt(2)."""
    plain, pulled = own_method.main()
    r, a = np.exp(0.5), np.sqrt(0.5)
    np.testing.assert_allclose(plain, -a * r, rtol=1e-4)
    np.testing.assert_allclose(pulled, -a * r + a * 2 * 3 * (r - 1) ** 2 * r, rtol=1e-4)


def test_an_own_verifier_in_processes_of_its_own():
    assert own_verifier.main() == [1.0, 0.0, 0.0]


def test_an_own_verifier_as_a_script():
    """Its folder is not on PYTHONPATH; graders find it all the same."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "examples/own_verifier.py"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'It is level.': score 1, read 'level'" in done.stdout


def test_forks_that_entropy_finds_are_counted():
    """By hand: of four pairs one is the wrong way round and one is a tie."""
    prompt = "over 8 3 5 7 / 3 9 1 :"
    answer = json.dumps({"rows": ["3 5 7", "3 9 1"], "sense": "over", "goal": 8})
    row = {
        "problem_id": prompt,
        "token_strings": ["3", "9", "7", "<eos>"],
        "old_entropy": np.array([0.5, 0.7, 0.1, 0.1], np.float32),
    }
    numbers = find_forks.found([row], {prompt: answer})
    np.testing.assert_allclose(numbers, [(2 + 0.5) / 4, 0.4, 0.3], rtol=1e-6)
