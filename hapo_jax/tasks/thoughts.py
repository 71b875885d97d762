"""Models that think aloud: what they say in the end."""

_END = "</think>"


def after(completion: str) -> str:
    """What follows a model's thoughts; all of it where they never end, or say all."""
    _, _, rest = completion.rpartition(_END)
    return rest if rest.strip() else completion
