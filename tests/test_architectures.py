"""Architectures are found by file name, have the size they claim, and fail with clear words."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.architectures import _build, adapt_model, build_model, names, pool_early, portable
from stages.architectures._layers import (
    BareConv2D,
    BiasedMaxPooling2D,
    FusedBatchNormalization,
    MatmulGradientConv2D,
)
from stages.architectures.backbone import _find, _preprocess, networks
from stages.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "shape", "outputs", "parameters"),
    [
        ("convnet", (28, 28, 1), 10, 93_322),
        ("gap", (32, 32, 3), 10, 68_026),
        ("two_part", (32, 32, 3), 10, 356_810),
        ("binary_photo", (300, 300, 3), 1, 5_046_369),
        ("shallow", (200, 200, 3), 4, 10_250_788),
        ("residual", (32, 32, 3), 10, 2_782_154),
        ("efficientnet_lite0", (224, 224, 3), 1000, 4_694_024),
        ("efficientnet_lite2", (260, 260, 3), 1000, 6_150_168),
    ],
)
def test_an_architecture_has_exactly_so_many_parameters(name, shape, outputs, parameters):
    assert build_model(name, shape, outputs).count_params() == parameters


@pytest.mark.parametrize("name", [name for name in names() if name != "backbone"])
def test_every_architecture_turns_uint8_images_into_float32_logits(name):
    model = build_model(name, (32, 32, 3), 4)
    adapt_model(name, model, IMAGES)
    logits = model(IMAGES).numpy()
    assert logits.shape == (6, 4)
    assert logits.dtype == np.float32
    assert np.ptp(logits) > 0
    assert np.abs(logits).max() < 50, "the scaling of 0 to 255 belongs to the model"


@pytest.mark.parametrize("name", ["speednet", "residual", "gap"])
def test_fully_convolutional_nets_take_images_of_any_size(name):
    model = build_model(name, (None, None, 3), 4)
    assert model(IMAGES).shape == model(IMAGES[:, :24, :24]).shape == (6, 4)


def test_the_two_parts_are_models_that_can_be_used_alone():
    model = build_model("two_part", (32, 32, 3), 10)
    features = model.get_layer("feature_learning")(IMAGES / np.float32(255))
    alone = model.get_layer("classification")(features)
    np.testing.assert_allclose(alone, model(IMAGES), atol=1e-5)


def test_whitening_makes_the_outputs_of_the_first_layer_uncorrelated():
    images = np.repeat(IMAGES[:, ::4, ::4], 4, axis=1).repeat(4, axis=2)  # neighbours alike
    model = build_model("speednet", (32, 32, 3), 10)
    adapt_model("speednet", model, images)
    whiten = model.get_layer("whiten")
    first = keras.Model(model.input, whiten.output)(images).numpy().reshape(-1, 24)
    covariance = first.T @ first / len(first)
    np.testing.assert_allclose(covariance[:12, :12], np.eye(12), atol=0.05)
    np.testing.assert_allclose(first[:, 12:], -first[:, :12], atol=1e-4)
    assert [weight.path for weight in model.trainable_weights if "whiten" in weight.path] == [
        whiten.bias.path
    ]


@pytest.mark.parametrize("shape", [(64, 5, 5, 8), (2, 1, 1, 8), (1, 1, 2, 8), (1, 1, 1, 8)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_fused_batch_normalization_trains_and_predicts_as_keras_own(shape, dtype):
    x = np.random.default_rng(1).normal(3, 2, shape).astype("float32")
    kinds = FusedBatchNormalization, keras.layers.BatchNormalization
    ours, keras_own = (kind(momentum=0.6, dtype=dtype) for kind in kinds)
    close = {"atol": 1e-4} if dtype == "float32" else {"atol": 0.05}
    for _ in range(3):
        outputs = [tf.cast(layer(x, training=True), "float32") for layer in (ours, keras_own)]
        np.testing.assert_allclose(*outputs, **close)
    for mine, theirs in zip(ours.get_weights(), keras_own.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        *(tf.cast(layer(x), "float32") for layer in (ours, keras_own)), **close
    )


def test_fused_batch_normalization_knows_the_batch_of_a_compiled_step():
    layer = FusedBatchNormalization(momentum=0.0)
    layer.build((None, 3, 3, 2))
    step = tf.function(
        lambda x: layer(x, training=True), [tf.TensorSpec((None, 3, 3, 2))], autograph=False
    )
    for count in (2, 5):
        x = np.random.default_rng(count).normal(size=(count, 3, 3, 2)).astype("float32")
        step(x)
        np.testing.assert_allclose(layer.moving_variance, x.var((0, 1, 2)), rtol=1e-5)


def test_the_kernel_gradient_by_matrix_products_is_that_of_the_convolution():
    random = np.random.default_rng(2)
    images = tf.cast(random.normal(size=(8, 7, 5, 16)), "bfloat16")
    weights = tf.cast(random.normal(size=(8, 7, 5, 24)), "bfloat16")
    kernel = tf.cast(random.normal(size=(3, 3, 16, 24)) / 12, "bfloat16")

    def gradients(kind, dtype):
        layer = kind(24, 3, padding="same", dtype=dtype)
        layer.build(images.shape)
        layer.kernel.assign(tf.cast(kernel, "float32"))
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(
                tf.cast(layer(images) * tf.cast(weights, layer.compute_dtype), "float32")
            )
        return tape.gradient(total, [images, layer.kernel.value, layer.bias.value])

    ours = gradients(MatmulGradientConv2D, "mixed_bfloat16")
    keras_own = gradients(keras.layers.Conv2D, "mixed_bfloat16")
    assert [one.dtype for one in ours] == [one.dtype for one in keras_own]
    # Where the processor has no AVX-512, Keras' own sums up the kernel's gradient in bfloat16.
    by_kernel = gradients(keras.layers.Conv2D, "float32")[1]
    for mine, expected in zip(ours, (keras_own[0], by_kernel, keras_own[2]), strict=True):
        mine, expected = np.array(mine, "float32"), np.array(expected, "float32")
        np.testing.assert_allclose(mine, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "pooled"),
    [("two_part", 3), ("shallow", 2), ("convnet", 2), ("binary_photo", 3), ("gap", 2)],
)
def test_pooling_early_computes_the_same(name, pooled):
    model = build_model(name, (32, 32, 3), 4)
    biases = [weight for weight in model.weights if weight.path.endswith("bias")]
    for number, bias in enumerate(biases):
        bias.assign(np.random.default_rng(number).normal(size=bias.shape))
    early = pool_early(model)
    kinds = [type(layer) for layer in early._flatten_layers()]
    assert kinds.count(BareConv2D) == kinds.count(BiasedMaxPooling2D) == pooled
    assert [weight.path for weight in early.weights] == [weight.path for weight in model.weights]
    np.testing.assert_array_equal(early(IMAGES), model(IMAGES))
    gradients = []
    for net in (early, model):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(net(IMAGES) ** 2)
        gradients.append(tape.gradient(loss, net.trainable_variables))
    for ours, keras_own in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, keras_own, atol=1e-5 * np.abs(keras_own).max())


def test_pooling_is_early_only_where_nothing_else_sees_the_convolution():
    first, second, third = (
        keras.layers.Conv2D(4, 3, padding="same", activation=name)
        for name in ("relu", "gelu", "relu")
    )
    first_part = keras.Sequential([keras.Input((32, 32, 3)), first, keras.layers.MaxPooling2D()])
    images = keras.Input((32, 32, 3))
    both = [keras.layers.Flatten()(output) for output in (first(images), first_part(images))]
    model = keras.Model(images, keras.layers.Concatenate()(both))
    assert pool_early(model) is model
    model = keras.Sequential([keras.Input((32, 32, 3)), second, keras.layers.MaxPooling2D(), third])
    assert pool_early(model) is model


@pytest.mark.parametrize("name", ["speednet", "residual", "two_part", "backbone"])
def test_the_portable_copy_predicts_the_same_and_loads_with_keras_alone(name, tmp_path):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = build_model(name, (32, 32, 3), 4)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    adapt_model(name, model, IMAGES)
    copy = portable(model)
    np.testing.assert_allclose(copy(IMAGES), model(IMAGES), atol=0.05)
    copy.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={})
    assert {layer.__module__.split(".")[0] for layer in loaded._flatten_layers()} == {"keras"}
    assert {weight.dtype for weight in loaded.weights} <= {"float32", "int32", "int64"}
    np.testing.assert_allclose(loaded(IMAGES), model(IMAGES), atol=0.05)


def test_weights_come_back_from_a_file(tmp_path):
    path = tmp_path / "saved.weights.h5"
    model = build_model("gap", (32, 32, 3), 4)
    model.save_weights(path)
    again = build_model("gap", (32, 32, 3), 4, weights=str(path))
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))


def test_a_users_own_architecture_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import keras\n"
        "def build(shape, outputs, units=3):\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(),\n"
        "        keras.layers.Dense(units), keras.layers.Dense(outputs)])\n"
    )
    import stages.architectures

    monkeypatch.setattr(stages.architectures, "__path__", [str(tmp_path)])
    assert build_model("mine", (4, 4, 1), 2, {"units": 5}).count_params() == 17 * 5 + 6 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "convnett"}, "did you mean convnet?"),
        ({"name": "zebra"}, "there are backbone, "),
        ({"settings": {"filter": 3}}, "model.settings.filter is not a setting of convnet; it has"),
        ({"settings": {"filters": 3}}, "filters = 3: it should be a list such as [32, 64, 64]"),
        ({"settings": {"filters": []}}, "filters = []: it should be a list such as"),
        ({"settings": {"filters": [4, 4]}}, "convnet cannot be built"),
        ({"settings": {"filters": [4, 0, 4]}}, "convnet cannot be built"),
        ({"settings": {"filters": [4, -1, 4]}}, "convnet cannot be built"),
        ({"settings": {"filters": ["4", 4, 4]}}, "filters = ['4', 4, 4]: it should be a list"),
        ({"settings": {"filters": [[4], 4, 4]}}, "filters = [[4], 4, 4]: it should be a list"),
        ({"settings": {"filters": [4.5, 4, 4]}}, "filters = [4.5, 4, 4]: it should be a list"),
        ({"settings": {"dense": float("nan")}}, "dense = nan: it should be a whole number such"),
        ({"settings": {"dense": True}}, "dense = True: it should be a whole number such as 64"),
        ({"settings": {"dropout": float("inf")}}, "dropout = inf: it should be a number such as"),
        ({"settings": {"dropout": 2}}, "convnet cannot be built"),
        (
            {"settings": {"filters": [10**6] * 3}},
            "training its weights takes more than the 1.0 GiB",
        ),
        ({"settings": {"dense": 10**30}}, "training its weights takes more than the 1.0 GiB"),
        ({"name": "speednet", "settings": {"residual": 1}}, "residual = 1: it should be true or"),
        ({"shape": (8, 8, 1)}, "of 8x8 with 1 channel: they are too small for it; raise"),
        ({"shape": (None, None, 1)}, "one size only; leave train.image_sizes empty"),
        ({"name": "backbone", "settings": {"network": "vgg16"}}, "did you mean VGG16?"),
        ({"weights": "imagenet"}, "model.weights: imagenet is for model.name: backbone"),
        (
            {"name": "backbone", "weights": "bundled"},
            "model.weights: bundled is for model.name: efficientnet_lite0 or efficientnet_lite2; ",
        ),
        (
            {"name": "efficientnet_lite0", "weights": "imagenet"},
            "imagenet is for model.name: backbone; efficientnet_lite0 has no weights of that name",
        ),
        ({"weights": "nowhere.h5"}, "there is no file nowhere.h5"),
        ({"name": "backbone", "settings": {"network": "ResNet"}}, "not in keras.applications; did"),
    ],
)
def test_what_cannot_be_built_is_one_clear_error(arguments, message):
    with pytest.raises(UserError) as caught:
        build_model(
            **{"name": "convnet", "shape": (28, 28, 1), "outputs": 10, "memory": 2**30, **arguments}
        )
    assert message in str(caught.value)


def test_a_net_of_absurd_depth_is_refused_while_it_is_built(monkeypatch):
    monkeypatch.setattr(_build, "TENSORS", 40)
    with pytest.raises(UserError, match="more than 40 weights of layers; make it less deep"):
        build_model("residual", (32, 32, 3), 4, {"blocks": 10**9, "widths": [2]})


@pytest.mark.parametrize("architecture", ["convnet", "backbone"])
def test_weights_that_cannot_be_used_are_one_clear_error(tmp_path, architecture):
    other = build_model("gap", (32, 32, 3), 4)
    other.save_weights(tmp_path / "other.weights.h5")
    whole = (tmp_path / "other.weights.h5").read_bytes()
    files = {
        "empty.weights.h5": b"",
        "noise.h5": b"garbage" * 100,
        "cut.weights.h5": whole[: len(whole) // 2],
        "noise.keras": b"PK\x03\x04garbage",
        "other.txt": whole,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.weights.h5").mkdir()
    for name in [*files, "other.weights.h5", "folder.weights.h5", "missing.h5"]:
        with pytest.raises(UserError, match=r"^model\.weights: .*" + name):
            build_model(architecture, (32, 32, 3), 4, weights=str(tmp_path / name))


def test_weights_that_are_not_finite_are_one_clear_error(tmp_path):
    path = tmp_path / "diverged.weights.h5"
    model = build_model("gap", (32, 32, 3), 4)
    model.layers[1].kernel.assign(model.layers[1].kernel * np.nan)
    model.save_weights(path)
    with pytest.raises(UserError, match=r"diverged\.weights\.h5 holds values that are not finite"):
        build_model("gap", (32, 32, 3), 4, weights=str(path))


def test_a_backbone_has_its_preprocessing_inside_and_can_be_frozen():
    model = build_model("backbone", (32, 32, 3), 4, {"network": "MobileNetV2"})
    backbone = model.get_layer("backbone")
    inside = keras.applications.mobilenet_v2.preprocess_input(IMAGES.astype("float32"))
    head = model.layers[-1]
    np.testing.assert_allclose(head(backbone(inside, training=False)), model(IMAGES), atol=1e-4)
    backbone.trainable = False
    assert len(model.trainable_weights) == 2


def test_backbone_weights_come_from_a_local_file(tmp_path):
    path = tmp_path / "own.weights.h5"
    first = build_model("backbone", (32, 32, 3), 4)
    first.get_layer("backbone").save_weights(path)
    again = build_model("backbone", (32, 32, 1), 2, {}, str(path))
    for mine, theirs in zip(
        again.get_layer("backbone").get_weights(),
        first.get_layer("backbone").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("network", networks())
def test_every_network_gets_pixels_as_its_own_preprocessing_makes_them(network):
    _, module = _find(network)
    images = keras.Input((32, 32, 3))
    net = keras.Model(images, _preprocess(images, module))
    pixels = IMAGES.astype("float32")
    np.testing.assert_allclose(net(pixels), module.preprocess_input(pixels.copy()), atol=1e-4)
