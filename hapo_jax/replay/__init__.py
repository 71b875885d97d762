"""Replay: what a recorded step would have been under another method or setting.

    from hapo_jax import replay

    replay.picture("runs/demo", 20, {"algo.redistribution.strength": 0.0})

A run with log.record_groups=all records whole batches; nothing here needs a model.
"""

from hapo_jax.replay.picture import picture
from hapo_jax.replay.step import Replayed, of_record, replay
from hapo_jax.replay.summary import summary

__all__ = ["Replayed", "of_record", "picture", "replay", "summary"]
