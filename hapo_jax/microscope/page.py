"""The page: styles, modules and data of a report in one HTML file.

The modules of `assets/` are put in as they are, as data URLs behind an import map, so
there is nothing to build. The content security policy lets nothing else run: no other
script, no attribute with code, and no address outside the file.

`assets/uplot/` holds files of the npm package uplot, version 1.6.32, unchanged; to
renew it, in that folder:

    npm pack uplot@1.6.32 && tar -xzf uplot-1.6.32.tgz
    cp package/LICENSE package/dist/uPlot.iife.min.js package/dist/uPlot.min.css .
    sha256sum LICENSE uPlot.* > SHA256SUMS && rm -r package uplot-1.6.32.tgz
"""

import base64
import hashlib
import html
import json
import pathlib
from collections.abc import Mapping
from typing import Any

ASSETS = pathlib.Path(__file__).parent / "assets"
_MAIN = 'import { start } from "microscope/main";\nstart();\n'


def page(title: str, index: Mapping[str, Any], blocks: Mapping[str, str]) -> str:
    """An HTML file.

    Args:
      title: of the window.
      index: what is known without a block; JSON.
      blocks: name → block in base64, see `block.pack`.
    """
    modules = {
        f"microscope/{path.stem}": _module(path) for path in sorted(ASSETS.glob("*.js"))
    }
    # No content can end a script element: JSON has its < escaped, base64 has none.
    data = json.dumps(index, allow_nan=False).replace("<", "\\u003c")
    scripts = [
        ("importmap", json.dumps({"imports": modules})),
        ("text/javascript", _licensed()),
        ("module", _MAIN),
    ]
    styles = [(ASSETS / "uplot/uPlot.min.css").read_text()]
    styles.append((ASSETS / "style.css").read_text())
    policy = (
        "default-src 'none'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hashes(styles)}; "
        f"script-src data: {_hashes(text for _, text in scripts)}"
    )
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(_utf8(title))}</title>",
        *(f"<style>{style}</style>" for style in styles),
    ]
    parts = [f'<script type="application/json" id="index">{data}</script>']
    parts += [
        f'<script type="text/plain" id="{name}">{text}</script>'
        for name, text in blocks.items()
    ]
    body = (ASSETS / "body.html").read_text()
    run = [f'<script type="{kind}">{text}</script>' for kind, text in scripts]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>"]
    lines += ["<body>", body, *parts, *run, "</body>", "</html>", ""]
    return "\n".join(lines)


def _module(path: pathlib.Path) -> str:
    """A module as a data URL, under its own name in the browser's debugger."""
    text = f"{path.read_text()}\n//# sourceURL=microscope/{path.name}\n"
    return f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"


def _licensed() -> str:
    """uPlot, below its licence."""
    licence = (ASSETS / "uplot/LICENSE").read_text()
    return f"/*\n{licence}*/\n{(ASSETS / 'uplot/uPlot.iife.min.js').read_text()}"


def _hashes(texts) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)


def _utf8(text: str) -> str:
    """Names of folders may be no text; what is none becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
