"""The demo page, by which a person shows an image to the model: on a server, or all of it inside
the browser."""

import json
from pathlib import Path
from typing import Literal

from stages.store.exported import Exported

FOLDER = Path(__file__).parent
THEME = FOLDER.parent / "report/theme.css"
SCRIPTS = {"server": ("server.js",), "browser": ("resize.js", "browser.js")}

# Nothing from elsewhere, and no script but those beside the page; ONNX Runtime makes one of a blob.
POLICY = "; ".join(
    f"{name} {sources}"
    for name, sources in {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": "'self'",
    }.items()
)
POLICIES = {
    "server": f"{POLICY}; script-src 'self'; img-src 'self' blob: data:; connect-src 'self'",
    "browser": f"{POLICY}; script-src 'self' blob: 'wasm-unsafe-eval'; img-src 'self' blob: data:",
}
SHOWN = {"classes", "preprocess", "judgement", "neighbours"}


def page(
    exported: Exported, backend: Literal["server", "browser"], examples: list[str]
) -> dict[str, str]:
    """The files of the page by name; index.html is where it begins.

    `examples` are URLs of images to try. The sprite of neighbours has to lie beside the page.
    """
    scripts = SCRIPTS[backend]
    html = _read("demo.html").replace("{{ policy }}", POLICIES[backend])
    tags = "\n".join(f'<script src="{name}"></script>' for name in scripts)
    known = exported.model_dump(include=SHOWN) | {"examples": examples}
    return {
        "index.html": html.replace("{{ backend }}", tags),
        "theme.css": THEME.read_text(encoding="utf-8"),
        "exported.js": f"const exported = {json.dumps(known)};\n",
        **{name: _read(name) for name in ("demo.css", "demo.js", *scripts)},
    }


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
