"""Reinforcement learning of language models with entropy at every stage (HAPO), in JAX.

Start reading at `plain.py`. Letters for the dimensions of arrays, everywhere:

  B  completions in a batch, B = N * G      D  model width
  N  prompts                                F  feed-forward width
  G  completions per prompt, a group        H  query heads
  T  completion time, in tokens             K  key/value heads
  S  cache length, in tokens                J  query heads per key/value head, H / K
  V  vocabulary                             C  channels per head
  R  rows that decode with one prompt       P  columns of prompts

In `learner/` rows are packed: W columns of a row, m rows of a micro-batch, M
micro-batches, S shards of the mesh, and N places for targets on each.

Column t of every [B, T] array is about completion token t. In
`model/sharding.py` alone, `P` is `jax.sharding.PartitionSpec`.

This file imports nothing: the processes that grade completions import the package, and
they must never start JAX (an accelerator belongs to one process).
"""

__version__ = "0.1.0"
