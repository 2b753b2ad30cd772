"""Small pictures inside the page."""

import base64
import io

import numpy as np
from PIL import Image

SIDE = 112  # pixels of the longer side; smaller images keep their size
LOSSLESS = 48  # up to this side PNG is as small as JPEG, and exact


def data_uri(image: np.ndarray) -> str:
    """uint8 (h, w, c) as a data: URI, reduced to at most `SIDE` pixels."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    if max(picture.size) <= LOSSLESS:
        picture.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(file, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
