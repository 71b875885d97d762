"""One group token by token, as HTML: shaded by entropy, boxed where a clip fired."""

import html

import pandas as pd
from matplotlib import colors

from hapo_jax.analysis import tables
from hapo_jax.evaluation import report

_CONFIDENT, _UNCERTAIN = report.COLORS[:2]
_SHADE = ",".join(f"{255 * part:.0f}" for part in colors.to_rgb(_UNCERTAIN))
_DARKEST = 0.75  # opacity; the text stays readable
# Or Jupyter typesets what lies between two tokens with a dollar sign.
_AS_IS = 'class="tex2jax_ignore mathjax_ignore"'
_STYLE = (
    "<style>.token{padding:1px 3px;margin:0 1px} .tokens{font-family:monospace;"
    "line-height:1.9;white-space:pre-wrap;margin:0 0 0.8em 0}</style>"
)


def group(
    tokens: pd.DataFrame, completions: pd.DataFrame, *, most_tokens: int = 500
) -> str:
    """The completions of one group, one below the other.

    The darker a token, the less certain the policy was; underlined are the uncertain
    ones, above the pivot; boxed those at which a clip fired. The numbers of a token
    show when the pointer rests on it.

    Args:
      tokens, completions: of `frames`, the rows of one group.
      most_tokens: of a completion that are shown.

    Returns:
      HTML for a notebook's `display(HTML(...))`.
    """
    first = completions.iloc[0]
    top, pivot = max(tokens["entropy"].max(), 1e-3), tokens["pivot"].iloc[0]
    parts = [
        _STYLE,
        f"<p>step {first['step']}, <b>{html.escape(first['prompt'])}</b></p>",
        _legend(top, pivot),
    ]
    by_completion = dict(iter(tokens.groupby("completion")))
    for row in completions.itertuples():
        own = by_completion[row.completion]
        end = ", stopped by the token limit" if row.truncated else ""
        left = len(own) - most_tokens
        rest = f" … and {left} more tokens" if left > 0 else ""
        shown = "".join(_shaded(t, top) for t in own.head(most_tokens).itertuples())
        parts.append(
            f"<div>reward <b>{row.reward:g}</b>, {row.length} tokens{end}, "
            f"mean entropy {row.entropy:.3f}</div>"
            f'<div class="tokens">{shown}{rest}</div>'
        )
    return "".join([f"<div {_AS_IS}>", *parts, "</div>"])


def _shaded(token, top: float) -> str:
    """A token; `top` nats get the darkest shade."""
    clips = [name for name in tables.CLIPS.values() if getattr(token, name)]
    note = (
        f"entropy {token.entropy:.4f} nats\n"
        f"temperature {token.temperature:.3f}\n"
        f"advantage {token.advantages:+.3f}\n"
        f"ratio {token.ratio:.4f}, counts in "
        f"[{1 - token.clip_low:.3f}, {1 + token.clip_high:.3f}]"
    )
    note += "".join(f"\n{name.replace('_', ' ')}" for name in clips)
    opacity = _DARKEST * max(token.entropy, 0) / top
    style = f"background:rgba({_SHADE},{opacity:.3f});"
    if token.uncertain:
        style += f"border-bottom:2px solid {_UNCERTAIN};"
    if clips:
        style += f"outline:2px solid {_CONFIDENT};"
    text = html.escape(token.string).replace("\n", "⏎\n")
    title = html.escape(note)
    # <wbr>: a line may break between tokens, which need not hold a space.
    return f'<span class="token" title="{title}" style="{style}">{text}</span><wbr>'


def _legend(top: float, pivot: float) -> str:
    shades = f"linear-gradient(to right,rgba({_SHADE},0),rgba({_SHADE},{_DARKEST}))"
    return (
        f'<p>0 <span style="display:inline-block;width:10em;height:0.8em;'
        f'background:{shades};border:1px solid #999"></span> {top:.2f} nats &emsp; '
        f'<span style="border-bottom:2px solid {_UNCERTAIN}">above the pivot, '
        f"{pivot:.3f} nats</span> &emsp; "
        f'<span style="outline:2px solid {_CONFIDENT}">&nbsp;clipped&nbsp;</span></p>'
    )
