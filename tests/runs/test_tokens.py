"""What is recorded of a step's tokens, and of which completions."""

import types

import numpy as np

from hapo_jax.algo.terms import Rows, Terms
from hapo_jax.learner.head import Scores
from hapo_jax.learner.learn import Learnt
from hapo_jax.runs import tokens
from tests import tiny


class Folder:
    """Keeps what it is given."""

    def log_histograms(self, step, values):
        self.histograms = values

    def save_rollouts(self, step, **columns):
        self.rollouts = columns

    def log_table(self, step, name, columns, rows):
        self.table = rows


def test_what_is_imitated_beside_the_batch_is_not_recorded():
    batch = tiny.batch(2, 4)
    beside = np.arange(8) % 4 == 3  # the last of each group
    batch = batch._replace(beside=beside)
    numbers = np.zeros(batch.completion_mask.shape, np.float32)
    of_rows = dict.fromkeys(Rows._fields, numbers)
    terms = Terms(**dict.fromkeys(Terms._fields, numbers))
    problem = types.SimpleNamespace(id="a")
    folder = Folder()
    tokens.save(
        folder,
        1,
        Learnt(batch=batch, old=None, rows=Rows(**of_rows), prepared=None),
        terms,
        Scores(logprobs=numbers, entropy=numbers),
        prompts=types.SimpleNamespace(problems=[problem] * 2),
        tokenizer=types.SimpleNamespace(decode=str, pieces=list),
        num_rows=8,
    )
    own = batch.completion_mask[~beside]
    assert len(folder.rollouts["per_completion"]["group"]) == 6 == len(folder.table)
    np.testing.assert_array_equal(folder.rollouts["completion_mask"], own)
    assert len(folder.histograms["tokens/entropy"]) == own.sum()
    assert len(folder.histograms["completions/length"]) == 6
