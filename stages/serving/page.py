"""The demo page, by which a person shows an image to the model: on a server, or all of it inside
the browser."""

import base64
import json
from pathlib import Path
from typing import Literal

from stages.store.exported import Exported

FOLDER = Path(__file__).parent
THEME = FOLDER.parent / "report/theme.css"
SCRIPTS = {"server": ("resize.js", "server.js"), "browser": ("resize.js", "browser.js")}

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
EXAMPLE_BYTES = 2**20  # larger golden images are not offered


def demo_page(
    folder: Path, exported: Exported, backend: Literal["server", "browser"]
) -> dict[str, bytes]:
    """The files of the page for the model `exported` in `folder`, by name; index.html shows it."""
    examples = {
        golden.image: content
        for golden in exported.golden
        if len(content := (folder / golden.image).read_bytes()) <= EXAMPLE_BYTES
    }
    urls = list(examples) if backend == "server" else [_data_url(c) for c in examples.values()]
    known = exported.model_dump(include=SHOWN) | {"examples": urls}
    tags = "\n".join(f'<script src="{name}"></script>' for name in SCRIPTS[backend])
    html = _read("demo.html").decode()
    html = html.replace("{{ policy }}", POLICIES[backend]).replace("{{ backend }}", tags)
    files = {name: _read(name) for name in ("demo.css", "demo.js", *SCRIPTS[backend])}
    files["index.html"] = html.encode()
    files["theme.css"] = THEME.read_bytes()
    files["exported.js"] = f"const exported = {json.dumps(known)};\n".encode()
    if exported.neighbours:
        name = exported.neighbours.file
        files[name] = (folder / name).read_bytes()
    return files | examples if backend == "server" else files


def _read(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def _data_url(content: bytes) -> str:
    return f"data:;base64,{base64.b64encode(content).decode()}"
