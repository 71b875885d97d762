"""AEPO: GRPO, and a second rollout that steers the entropy; rollout/second.py."""

from hapo_jax.algo import row

STAGES = {}
METHODS = {
    "aepo": row.Row(
        {
            **row.GRPO,
            "algo.aggregation": {"name": "token_mean"},
            "algo.clip.dual": 3.0,
            "rollout.second.share": 0.25,
        },
        source="arXiv 2510.08141 and its code",
        status="part",
        open="the code puts kept completions in the places of the batch's first ones, "
        "and here they are added, s of them with the weight s/B; its entropy is that "
        "of the last updates, here of the last rollout; later papers choose the "
        "temperature and the weight by formulas of their own",
    ),
}
