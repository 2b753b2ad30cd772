"""Write the demo page: the exported model inside the browser, on files alone.

    make demo    # then open reports/demo/index.html, by a double click or from any web server

The folder is all that the page needs: send it to whoever shall try the model. The browser decodes,
and stages/serving/resize.js resizes as stages/images/resize.py does. What goes into the net is the
same for PNG (to within a level of 255 where it is transparent or has 16 bits), and for JPEG that
is decoded at its full size; at a part of it, JPEG differs by less than a level on average.
"""

import argparse
import base64
import gzip
import shutil
import sys
from pathlib import Path

from stages.arguments import Parser
from stages.errors import UserError, run
from stages.files import DEMO, EXPORT
from stages.serving.page import demo_page
from stages.store.exported import FILES, read_exported, read_model
from stages.store.outputs import replace, restore

# Where the Makefile has npm install onnxruntime-web.
RUNTIME = Path(sys.prefix, "node/node_modules/onnxruntime-web/dist")


def main() -> None:
    options = _options()
    model = options.export / FILES["onnx"]
    if not model.exists():
        raise UserError(
            f"{model} is missing, which the page runs; add onnx to export.formats in params.yaml, "
            "then make export and dvc repro export"
        )
    files = demo_files(model)
    new = DEMO.with_name(f".{DEMO.name}.tmp")
    restore(DEMO)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        for name, content in files.items():
            (new / name).write_bytes(content)
        replace(new, DEMO)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    size = sum(map(len, files.values()))
    print(f"{DEMO / 'index.html'}, {size / 1e6:.1f} MB with what lies beside it")


def demo_files(model: Path) -> dict[str, bytes]:
    """The files of the page for the exported `model`, by name."""
    exported, format = read_exported(model)
    content = read_model(model, exported.files[format])
    files = demo_page(model.parent, exported, "browser")
    files["ort.js"] = _runtime("ort.wasm.min.js")
    module, wasm = (_runtime(f"ort-wasm-simd-threaded.{kind}") for kind in ("mjs", "wasm"))
    files["runtime.js"] = _packed(module=module, wasm=wasm)
    files["model.js"] = _packed(model=content)
    return files


def _options() -> argparse.Namespace:
    parser = Parser("demo", __doc__)
    parser.add_argument(
        "--export", type=Path, default=EXPORT, help="folder of the exported model: %(default)s"
    )
    return parser.parse_args()


def _runtime(name: str) -> bytes:
    try:
        return (RUNTIME / name).read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{RUNTIME / name} is missing, by which the page runs the model; make demo installs it"
        ) from None


def _packed(**parts: bytes) -> bytes:
    """A script that holds `parts`: a page opened as a file may load scripts, but no bytes."""
    texts = {
        name: base64.b64encode(gzip.compress(content, mtime=0)).decode()
        for name, content in parts.items()
    }
    return "".join(f'packed.{name} = "{text}";\n' for name, text in texts.items()).encode()


if __name__ == "__main__":
    run(main)
