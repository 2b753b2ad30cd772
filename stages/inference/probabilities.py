"""Class probabilities of images, in batches, optionally averaged over views of each image, and
the features that the net decides by."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stages.errors import UserError
from stages.inference.seen import MOST_FEATURES, NEAREST, SMALLEST, Seen, Sizes, signs
from stages.inference.trust import directions


def probabilities(
    model: keras.Model, batches: Iterable[np.ndarray], tta: str = "none"
) -> Iterator[np.ndarray]:
    """Yield float32 (n, classes) for each of `batches`, uint8 (n, height, width, channels)."""
    yield from map(classifier(model, tta), batches)


def classifier(model: keras.Model, tta: str = "none") -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 (n, height, width, channels) to float32 (n, classes), n >= 0.

    `tta`, test-time averaging: `none`; `flip`, each image and its mirror image; `flip_shift`,
    both of these centred (weight 1/2) and moved one pixel up-left and down-right (1/4 each),
    as in airbench (Jordan 2024, arXiv:2404.00498).

    Why it helps: the class does not change when a picture is mirrored or moved a little, but the
    net's answer does, and those errors partly cancel in the mean of several answers. The mean is
    taken of the logarithms of the probabilities. These differ from the logits by one constant for
    each view, and a constant does not change a softmax: this is the softmax of the mean logits.
    """
    observe = observer(model, tta)
    return lambda images: observe(images).probabilities


def observer(
    model: keras.Model, tta: str = "none", trained: np.ndarray | None = None
) -> Callable[[np.ndarray], Seen]:
    """A function like that of `classifier`, that gives all of `Seen` but `nearest`, which is -1:
    `graph_of` as NumPy sees it. No stage names the nearest, and to find them takes as long as the
    distances.

    Raises `UserError` at the first images if `trained` has another width.
    """
    forward = graph_of(model, tta, trained, nearest=False)

    def observe(images: np.ndarray) -> Seen:
        if not len(images):  # convolutions do not take an empty batch
            shapes = forward.get_concrete_function().structured_outputs
            sizes = Sizes(shapes["features"].shape[-1])
            return Seen.empty(shapes["probabilities"].shape[-1], sizes)
        return Seen.of({name: part.numpy() for name, part in forward(images).items()})

    return observe


def graph_of(
    model: keras.Model,
    tta: str = "none",
    trained: np.ndarray | None = None,
    heat: bool = False,
    nearest: bool = True,
) -> tf.types.experimental.PolymorphicFunction:
    """From uint8 `images` (n, height, width, channels) to a dict of what is in `Seen`, in one pass
    of the net. It is what evaluate runs, and what is exported.

    `trained` (m, d) are features of training images. Features, distance, nearest and heat are those
    of the image as it is, not averaged over views; nearest is -1 if it is not asked for; `heat` is
    there if it is asked for and the net is such that it can be told. The distances are a part of
    the graph: beside it, in NumPy, they took as long as a small net (the threads of both wait for
    each other).
    A `model` that takes features instead of images is given these, float32 (n, d).
    """
    layer = _last(model, lambda one: getattr(one, "kernel", None) is not None)
    pool = _last(model, lambda one: isinstance(one, keras.layers.GlobalAveragePooling2D))
    known = None if trained is None or not len(trained) else tf.constant(directions(trained).T)
    takes = tf.uint8 if len(model.input_shape) > 2 else tf.float32
    signature = [tf.TensorSpec(model.input_shape, takes, "images")]

    @tf.function(input_signature=signature, autograph=False)
    def forward(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with _calls_of(layer, pool) as calls:
            answers = [
                (weight, model(view, training=False)) for weight, view in _views(images, tta)
            ]
        probabilities = answers[0][1]
        calls = calls[: len(calls) // len(answers)]  # the first view is the image as it is
        taken = [call.takes for call in calls if call.layer is layer]
        # A net without kernels has its answer only.
        features = _flat(taken[0] if taken else probabilities)
        if tta != "none":
            logs = [weight * tf.math.log(tf.maximum(each, SMALLEST)) for weight, each in answers]
            probabilities = tf.nn.softmax(tf.add_n(logs))
        count = tf.shape(images)[0]
        distance, places = tf.fill([count], np.float32(np.nan)), tf.fill([count, NEAREST], -1)
        if known is not None:
            if known.shape[0] != features.shape[-1]:
                raise UserError(
                    f"the model compares {features.shape[-1]} features of an image with "
                    f"{known.shape[0]}: its file is damaged; train it again with dvc repro"
                )
            cosines = tf.math.l2_normalize(features, axis=1, epsilon=1e-30) @ known
            distance = 1 - tf.reduce_max(cosines, axis=1)
        if known is not None and nearest:
            few = min(NEAREST, known.shape[1])
            places = tf.math.top_k(cosines, few).indices  # of equals the first
            places = tf.pad(places, [[0, 0], [0, NEAREST - few]], constant_values=-1)
        outputs = {
            "probabilities": probabilities,
            "features": features,
            "distance": distance,
            "nearest": places,
        }
        maps = _class_maps(calls, probabilities) if heat else None
        return outputs if maps is None else outputs | {"heat": maps}

    return forward


def _last(model: keras.Model, wanted: Callable[[keras.Layer], bool]) -> keras.Layer | None:
    """The layer that is `wanted` and run last, however deeply models are nested."""
    last = None
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            last = _last(layer, wanted) or last
        elif wanted(layer):
            last = layer
    return last


class _Call(NamedTuple):
    """What a `layer` took and gave."""

    layer: keras.Layer
    takes: tf.Tensor
    gives: tf.Tensor


@contextmanager
def _calls_of(*layers: keras.Layer | None) -> Iterator[list[_Call]]:
    """Collects each call of one of `layers` while the block runs."""
    calls: list[_Call] = []

    def watch(layer: keras.Layer) -> None:
        call = layer.call

        def watched_call(tensor: tf.Tensor, *args: object, **kwargs: object) -> tf.Tensor:
            gives = call(tensor, *args, **kwargs)
            calls.append(_Call(layer, tensor, gives))
            return gives

        layer.call = watched_call

    watched = [layer for layer in layers if layer is not None]
    for layer in watched:
        watch(layer)
    try:
        yield calls
    finally:
        for layer in watched:
            del layer.call


def _class_maps(calls: list[_Call], probabilities: tf.Tensor) -> tf.Tensor | None:
    """How much each place speaks for the predicted class, float32 (n, h, w), 0 to 1.

    The class activation map of Zhou et al. 2016 (arXiv:1512.04150): where the logits are one Dense
    layer of the means of maps, or the means themselves, a logit is the mean over all places of what
    each adds to it, so no gradient is needed. What speaks against the class counts as nothing, and
    the highest is 1.

    `calls` of the last layer with a kernel and of the last pooling. None for any other net.
    """
    if len(calls) < 2:
        return None
    before, last = calls[-2:]
    classes = probabilities.shape[-1]
    if isinstance(last.layer, keras.layers.Dense):
        maps, kernel = before.takes, last.layer.kernel
        ends_so = _origin(last.takes) is _origin(before.gives)
    else:
        maps, kernel = last.takes, np.eye(last.gives.shape[-1], dtype=np.float32)
        ends_so = isinstance(last.layer, keras.layers.GlobalAveragePooling2D)
    if classes == 2 and kernel.shape[-1] == 1:  # the logit of class 1, and against class 0
        kernel = tf.concat([-kernel, kernel], axis=1)
    if not ends_so or len(maps.shape) != 4 or kernel.shape[-1] != classes:
        return None
    weights = tf.gather(tf.transpose(kernel), tf.argmax(probabilities, axis=1))
    maps = tf.cast(maps, tf.float32) * tf.cast(weights, tf.float32)[:, None, None, :]
    heat = tf.nn.relu(tf.reduce_sum(maps, axis=3))
    return heat / tf.maximum(tf.reduce_max(heat, axis=[1, 2], keepdims=True), SMALLEST)


def _origin(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor that has the same numbers as `tensor`, and was there first."""
    while tensor.op.type in ("Cast", "Identity", "Reshape"):
        tensor = tensor.op.inputs[0]
    return tensor


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    """float32 (n, d): maps of features become their means over the picture.

    More than `MOST_FEATURES` are folded, see `stages.inference.seen.few`.
    """
    tensor = tf.cast(tensor, tf.float32)
    features = tf.reduce_mean(tensor, axis=list(range(1, len(tensor.shape) - 1)))
    width = features.shape[-1]
    if width <= MOST_FEATURES:
        return features
    folds = -(-width // MOST_FEATURES)
    missing = folds * MOST_FEATURES - width
    padded = tf.pad(features * signs(width), [[0, 0], [0, missing]])
    return tf.reduce_sum(tf.reshape(padded, [-1, folds, MOST_FEATURES]), axis=1)


def _views(images: tf.Tensor, tta: str) -> list[tuple[float, tf.Tensor]]:
    """The views of `images` for `tta`, with their weights, which sum to one; first as they are."""
    if tta == "none":
        return [(1.0, images)]
    shifts = [(1.0, images)]
    if tta == "flip_shift":
        # One row and column more on each side, mirrored from within: a window of the old size
        # that begins one pixel further down and right shows the image moved up and left.
        padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
        up_left, down_right = padded[:, 2:, 2:], padded[:, :-2, :-2]
        shifts = [(0.5, images), (0.25, up_left), (0.25, down_right)]
    return [
        (weight / 2, view)
        for weight, shifted in shifts
        for view in (shifted, tf.reverse(shifted, axis=[2]))
    ]
