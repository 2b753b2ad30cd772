"""The trained model: one .keras file that Keras opens as it is, with what a user of it must know.

Inside the archive, beside Keras' own members, `pipeline.json` holds the class names, the image
shape, the preprocess settings and how the model came about.
"""

import json
import re
import zipfile
from pathlib import Path

from stages.errors import UserError
from stages.store.atomic import replace_file

INFO = "pipeline.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold


def save_model(model, path: str | Path, info: dict) -> None:
    """Write `model` and `info` to `path`; the same model gives the same bytes."""
    path = Path(path)
    with replace_file(path) as temporary:
        saved = temporary.with_name(f".{path.stem}.saving.keras")
        try:
            model.save(saved)
            with zipfile.ZipFile(saved) as source, zipfile.ZipFile(temporary, "w") as target:
                for name in sorted(source.namelist()):
                    _add(target, name, _repeatable(name, source.read(name)))
                text = json.dumps(info, indent=2, ensure_ascii=False)
                _add(target, INFO, text.encode())
        finally:
            saved.unlink(missing_ok=True)


def load_model(path: str | Path):
    """The Keras model in `path` and its info: uint8 (n, h, w, c) in, probabilities out."""
    import keras

    info = read_info(path)

    return keras.models.load_model(path, compile=False), info


def read_info(path: str | Path) -> dict:
    """What `save_model` was told of the model, without importing TensorFlow."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(INFO))
    except FileNotFoundError:
        raise UserError(f"there is no model {path}; train one with dvc repro") from None
    except (zipfile.BadZipFile, KeyError, ValueError, OSError):
        raise UserError(
            f"{path} is not a model of this pipeline (no {INFO} inside); train one with dvc repro"
        ) from None


def _repeatable(name: str, content: bytes) -> bytes:
    """`content` of Keras' member `name` without what differs from one saving to the next."""
    if name == "metadata.json":
        metadata = json.loads(content)
        metadata.pop("date_saved", None)
        return json.dumps(metadata, sort_keys=True).encode()
    if name == "config.json":  # shared objects are named by their addresses in memory
        numbers: dict[bytes, int] = {}
        return re.sub(
            rb'(?<="shared_object_id": )\d+',
            lambda found: str(numbers.setdefault(found[0], len(numbers) + 1)).encode(),
            content,
        )
    return content


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)
