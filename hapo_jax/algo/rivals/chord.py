"""CHORD: reinforcement learning mixed with imitation of an expert."""

from hapo_jax.algo import row

STAGES: dict = {}
METHODS = {
    "chord": row.Row(
        {
            **row.GRPO,
            "algo.aggregation": {"name": "token_mean"},
            "algo.imitation": {"name": "phi"},
            "algo.demonstrations.share": 0.2,
            "algo.demonstrations.weight": 0.1,
        },
        source="arXiv 2508.11408, its CHORD-phi, and its code",
        status="part",
        open="what its experiments vary: how many demonstrations there are beside the "
        "rollout. Its CHORD-mu is algo.imitation.name=uniform, "
        "algo.demonstrations.weight=0.9, final_weight=0.05, schedule=cosine, "
        "decay_steps=200",
    ),
}
