"""Methods that are not offered under their papers' names, and what is missing."""

from typing import NamedTuple


class Missing(NamedTuple):
    """Attributes:
    source: the paper.
    known: what is known of the method.
    missing: what would have to be made up, or what it would need.
    """

    source: str
    known: str
    missing: str


NOT_OFFERED = {
    "paec": Missing(
        "arXiv 2606.08543",
        "a soft mask of positions by nucleus entropy and by the gap of the two best "
        "log-probs; a one-sided quadratic penalty that keeps their entropy above an "
        "anchor",
        "all constants, and what the anchor is",
    ),
    "erpo": Missing(
        "arXiv 2603.28204",
        "a gate sigmoid(5 Norm_G(H)), and progress 0.1 (log π - log π_ref), normalised "
        "within windows of relative progress, which shapes advantages by 0.2",
        "number and edges of the windows, the statistics of Norm_G, the last "
        "normalisation",
    ),
    "bayesian_shaping": Missing(
        "arXiv 2504.16272",
        "the outcome's reward spread by attributions of tokens, whose weights Bayesian "
        "optimisation chooses over whole runs of PPO",
        "the settings of the attributions; and it is a loop around runs, no stage of "
        "a step",
    ),
    "gatera": Missing(
        "arXiv 2511.17582",
        "HiRA adapters behind a gate per token and layer, and the gate's binary "
        "entropy in the loss",
        "that entropy's weight, ranks, the first bias of the gate; and adapters",
    ),
    "rsi_s": Missing("arXiv 2606.31575", "its abstract", "the method"),
    "etpo": Missing(
        "arXiv 2402.06700",
        "a soft Bellman backup per token, with a critic over the vocabulary",
        "a critic of that kind, and episodes of several turns",
    ),
    "espo": Missing(
        "arXiv 2512.03759",
        "a ratio of evidence bounds instead of sequence probabilities",
        "a masked-diffusion model: a decoder has the probabilities themselves",
    ),
}
