"""The features stage and the last layer fitted to what it leaves."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from training_workspace import (
    EMBEDDING,
    FLIP,
    FROZEN,
    WEIGHTS,
    make_workspace,
    outputs,
    set_parameters,
)

import stages.architectures
from stages import evaluate, features, train
from stages.errors import UserError
from stages.files import (
    EMBEDDED_SO_FAR,
    FEATURES,
    INDEX,
    PRETRAINED,
    PROCESSED,
    RELATIVES_COLUMNS,
)
from stages.images.fingerprints import digests
from stages.inference.deployable import Deployable
from stages.inference.probabilities import observer
from stages.inference.seen import MOST_FEATURES
from stages.parameters.model import Model as ModelSettings
from stages.parameters.whole import Parameters
from stages.recipe import write_recipe
from stages.store.features import (
    CLASSIFIER,
    MIRRORED,
    PLAIN,
    Features,
    read_member,
    shard_path,
    write_embedding,
    write_shard,
)
from stages.store.image_set import load_image_set
from stages.store.model import load_model, load_reference, read_info, save_model
from stages.store.processed import Pixels
from stages.store.tables import read_table, write_table
from stages.training.head import FOLDS, Photos, first_of_class, fit_head, folds, threads_within

PLAIN_NET = """
import keras

def build(shape, outputs, weights=None):
    parts = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(outputs)]
    return keras.Sequential(parts)
"""


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Makes a workspace with weights for a small architecture of its own, and works in it."""
    (tmp_path / "embedding.py").write_text(EMBEDDING)
    (tmp_path / "without_backbone.py").write_text(PLAIN_NET)
    monkeypatch.setattr(stages.architectures, "__path__", [str(tmp_path)])
    keras.utils.set_random_seed(3)
    net = stages.architectures.build_model("embedding", (18, 18, 1), 3)

    def make(name="work", **settings):
        settings = {"model": FROZEN, "augment": FLIP} | settings
        folder = make_workspace(tmp_path / name, **settings)
        monkeypatch.chdir(folder)
        PRETRAINED.mkdir(parents=True)
        net.get_layer("backbone").save_weights(WEIGHTS)
        return folder

    return make


def features_as_written() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(FEATURES.iterdir())}


def test_features_are_what_the_backbone_makes_of_each_image_and_its_mirror_image(workspace):
    workspace()
    features.main()
    net = stages.architectures.build_model("embedding", (18, 18, 1), 3, {}, str(WEIGHTS))
    pixels = Pixels(PROCESSED)
    rows = np.array([40, 3, 71])
    images = pixels.take(rows).astype("float32") / 255
    for view, seen in ((PLAIN, images), (MIRRORED, images[:, :, ::-1])):
        found = Features(FEATURES, pixels.starts, view).take(rows)
        np.testing.assert_allclose(found, net.get_layer("backbone")(seen), rtol=1e-4, atol=1e-5)


def test_without_mirror_images_in_training_none_are_seen(workspace):
    workspace(augment={})
    features.main()
    with pytest.raises(ValueError, match="mirrored"):
        read_member(shard_path(FEATURES, 0), MIRRORED)


def test_a_trained_backbone_needs_no_features(workspace, capsys):
    workspace(model={"name": "convnet"})
    features.main()
    assert "no features to compute" in capsys.readouterr().out
    assert features_as_written() == {"features.json": b"null\n"}


def add_images(count: int) -> None:
    """Put `count` new images in front of those of the second shard."""
    path = PROCESSED / "images-00001.npy"
    new = np.random.default_rng(9).integers(0, 256, (count, 18, 18, 1), np.uint8)
    np.save(path, np.concatenate([new, np.load(path)]))
    table = read_table(PROCESSED / INDEX)
    rows = table.to_pylist()
    for line in rows:
        line["row"] += count * (line["shard"] == path.name)
    empty = dict.fromkeys(table.column_names, "")
    for row, digest in enumerate(digests(new)):
        line = {"id": f"new{row}", "label": "kind 0", "shard": path.name, "row": row}
        rows.append(empty | line | {"pixels": digest, "width": 18, "height": 18, "bytes": 1})
    write_table(PROCESSED / INDEX, table.column_names, [list(line.values()) for line in rows])


def test_only_new_images_are_computed_and_the_bytes_are_those_of_a_fresh_run(workspace, capsys):
    workspace()
    features.main()
    assert "72 computed, 0 reused" in capsys.readouterr().out
    add_images(5)
    features.main()
    assert "features of 77 images: 5 computed, 72 reused" in capsys.readouterr().out
    grown = features_as_written()
    shutil.rmtree(FEATURES)
    features.main()
    assert "77 computed" in capsys.readouterr().out
    assert features_as_written() == grown


def test_other_weights_are_another_network(workspace, capsys):
    workspace()
    features.main()
    net = stages.architectures.build_model("embedding", (18, 18, 1), 3)
    net.get_layer("backbone").save_weights(WEIGHTS)
    features.main()
    assert capsys.readouterr().out.count("72 computed, 0 reused") == 2


@pytest.mark.parametrize("name", ["features-00001.npz", "features.json"])
def test_damaged_features_are_made_anew(workspace, capsys, name):
    workspace()
    features.main()
    before = features_as_written()
    damaged = bytearray(before[name])
    damaged[len(damaged) // 2] ^= 255
    (FEATURES / name).write_bytes(damaged)
    features.main()
    assert "reused" in capsys.readouterr().out
    assert features_as_written() == before


def test_a_run_that_failed_leaves_its_features_to_the_next(workspace, capsys):
    workspace()
    features.main()
    expected = features_as_written()
    key = json.loads(expected["features.json"])["key"]
    shutil.rmtree(FEATURES)
    in_the_way = shard_path(EMBEDDED_SO_FAR / key, 1)
    in_the_way.mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        features.main()
    assert not FEATURES.exists()
    in_the_way.rmdir()
    capsys.readouterr()
    features.main()
    assert "36 computed, 36 reused" in capsys.readouterr().out
    assert features_as_written() == expected
    assert not EMBEDDED_SO_FAR.exists()


def test_a_frozen_backbone_gives_one_ordinary_model(workspace, capsys):
    folder = workspace()
    features.main()
    train.main()
    assert "in cross-validation" in capsys.readouterr().out
    model, info = load_model("models/model.keras")
    net = stages.architectures.build_model("embedding", (18, 18, 1), 3, {}, str(WEIGHTS))
    for ours, given in zip(
        model.layers[1].get_layer("backbone").get_weights(),
        net.get_layer("backbone").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, given)
    validation = load_image_set(PROCESSED, "data/splits/val.csv")
    right = model(validation.images()).numpy().argmax(axis=1) == validation.labels
    logged = json.loads((folder / "reports/train/metrics.json").read_text())
    assert logged["val"]["accuracy"] == pytest.approx(right.mean())
    assert right.mean() > 0.9
    assert info.train["epochs"] == 0
    assert (folder / "models/augmented.npy").exists()


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_the_model_of_a_frozen_backbone_is_in_bytes_what_keras_writes(workspace, output):
    settings = FROZEN | {"output": output}
    workspace(model=settings, classes=2)
    features.main()
    train.main()
    model, info = load_model("models/model.keras")
    keras.utils.clear_session()
    deployable = Deployable(ModelSettings(**settings), info.shape, len(info.classes))
    deployable.net.set_weights(model.layers[1].get_weights())
    deployable.set_temperature(info.calibration.temperature)
    reference = load_reference("models/model.keras")
    save_model(deployable.model, "by_keras.keras", info, reference)
    assert Path("by_keras.keras").read_bytes() == Path("models/model.keras").read_bytes()


def test_a_last_layer_may_do_without_validation_images(workspace):
    workspace(val_images=0)
    features.main()
    train.main()
    assert read_info("models/model.keras").calibration.images == 0
    assert not len(load_reference("models/model.keras").held_out)


def test_features_of_many_numbers_are_compared_as_the_net_compares_them(workspace):
    workspace(model=FROZEN | {"settings": {"strides": 1}})
    features.main()
    train.main()
    model, _ = load_model("models/model.keras")
    validation = load_image_set(PROCESSED, "data/splits/val.csv")
    expected = observer(model)(validation.images()).features
    found = load_reference("models/model.keras").held_out
    assert found.shape == (24, MOST_FEATURES)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_fitting_a_last_layer_takes_no_tensorflow(workspace):
    folder = workspace()
    features.main()
    code = (
        "import sys; from stages import train; train.main()\n"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(train.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("[]\n")
    assert load_model("models/model.keras")


@pytest.mark.parametrize("part", ["directory", "weights"])
def test_a_damaged_classifier_among_the_features_is_named(workspace, part):
    workspace()
    features.main()
    path = FEATURES / CLASSIFIER
    content = bytearray(path.read_bytes())
    if part == "directory":
        del content[-100:]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data/features is damaged.*classifier\.keras"):
        train.main()
    assert not Path("models/model.keras").exists()


def test_a_classifier_of_other_classes_is_refused(workspace):
    workspace()
    features.main()
    path = PROCESSED / "dataset.json"
    dataset = json.loads(path.read_text())
    path.write_text(json.dumps(dataset | {"classes": [*dataset["classes"], "more"]}))
    with pytest.raises(UserError, match=r"lacks weights of the shapes.*dvc repro features"):
        train.main()


def test_a_frozen_job_gives_the_same_bytes_twice(workspace):
    folders = []
    for name in "ab":
        folders.append(workspace(name))
        features.main()
        train.main()
    assert outputs(folders[0]) == outputs(folders[1])


@pytest.mark.parametrize("backbone", ["frozen", "fine_tuned"])
def test_labels_are_doubted_by_layers_that_never_saw_the_image(workspace, backbone):
    workspace(model=FROZEN | {"backbone": backbone}, train={"epochs": 1})
    path = Path("data/splits/train.csv")
    lines = path.read_text().splitlines()
    for line in (8, 30):  # the header is line 0
        at, name = lines[line].split(",")
        lines[line] = f"{at},kind {(int(name[-1]) + 1) % 3}"
    path.write_text("\n".join([*lines, ""]))
    features.main()
    train.main()
    confidence = np.load("models/label_confidence.npy")
    assert set(np.argsort(confidence)[:2]) == {7, 29}
    assert confidence[[7, 29]].max() < 0.3 < np.median(confidence)


def test_related_images_are_not_judged_by_what_was_learned_from_each_other(workspace):
    workspace()
    path = Path("data/splits/train.csv")
    named = [line.split(",") for line in path.read_text().splitlines()[1:]]
    series = [id for id, name in named if name == "kind 0"]
    rows = [(id, series[0]) for id in series]
    write_table("data/splits/relatives.csv", RELATIVES_COLUMNS, rows)
    features.main()
    train.main()
    confidence = np.load("models/label_confidence.npy")
    kinds = np.array([name for _, name in named])
    assert confidence[kinds == "kind 0"].max() < 1e-6  # no layer that judges it has seen the kind
    assert np.median(confidence[kinds != "kind 0"]) > 0.9


def test_images_that_are_all_related_cannot_be_cross_validated(workspace):
    workspace()
    ids = [
        line.split(",")[0] for line in Path("data/splits/train.csv").read_text().splitlines()[1:]
    ]
    write_table("data/splits/relatives.csv", RELATIVES_COLUMNS, [(id, ids[0]) for id in ids])
    features.main()
    with pytest.raises(UserError, match="all training images are related"):
        train.main()


def test_a_last_layer_that_does_not_fit_into_memory_is_refused(workspace):
    workspace(train={"memory_limit": 1e-6})
    features.main()
    with pytest.raises(UserError, match=r"train\.memory_limit = 1e-06: fitting the last layer"):
        train.main()


def test_settings_that_a_frozen_backbone_has_no_use_for_are_named(workspace, capsys):
    workspace(
        augment=FLIP | {"rotation": 5.0, "fill": "wrap"},
        train={"label_smoothing": 0.1, "debug": {"data_fraction": 0.5, "max_steps": 2}},
    )
    features.main()
    train.main()
    said = "augment.rotation, train.label_smoothing, train.debug.max_steps have no effect\n"
    assert said in capsys.readouterr().out


def test_no_recipe_of_a_frozen_backbone_sets_what_has_no_effect():
    recipes = Path(__file__).parent.parent / "recipes"
    texts = [write_recipe(path.stem, recipes) for path in recipes.glob("*.yaml")]
    jobs = [Parameters.model_validate(yaml.safe_load(text)) for text in texts]
    unused = [
        train.without_effect(job.augment, job.train)
        for job in jobs
        if job.model.backbone == "frozen"
    ]
    assert unused
    assert not any(unused)


def test_the_curve_tells_how_many_photos_are_enough(workspace):
    folder = workspace()
    features.main()
    train.main()
    rows = read_table(folder / "reports/train/learning_curve.csv").to_pylist()
    assert [int(row["photos"]) for row in rows] == [1, 2, 5, 10, 13]
    assert [int(row["images"]) for row in rows] == [3, 6, 15, 30, 38]
    assert int(rows[-1]["right"]) > int(rows[0]["right"])
    assert {row["judged"] for row in rows} == {"48"}


def test_fine_tuning_is_kept_only_where_it_is_better_on_the_validation_images(workspace):
    folder = workspace(
        model=FROZEN | {"backbone": "fine_tuned"},
        train={"monitor": "val/loss", "optimizer": {"name": "sgd", "learning_rate": 50.0}},
    )
    features.main()
    train.main()
    assert read_info("models/model.keras").train["best_epoch"] == 0
    frozen = workspace("frozen")
    features.main()
    train.main()
    images = load_image_set(PROCESSED, "data/splits/val.csv").images()
    models = [load_model(at / "models/model.keras")[0] for at in (folder, frozen)]
    np.testing.assert_allclose(models[0](images), models[1](images), atol=1e-5)
    gentle = {"monitor": "val/loss", "optimizer": {"name": "adam", "learning_rate": 0.003}}
    set_parameters(frozen, model=FROZEN | {"backbone": "fine_tuned"}, train=gentle)
    features.main()
    train.main()
    assert read_info("models/model.keras").train["best_epoch"] > 0


def test_features_of_another_network_are_refused(workspace):
    workspace()
    features.main()
    net = stages.architectures.build_model("embedding", (18, 18, 1), 3)
    net.get_layer("backbone").save_weights(WEIGHTS)
    with pytest.raises(UserError, match="those of another network"):
        train.main()


@pytest.fixture
def judged(workspace):
    """Makes a workspace with a trained model; evaluates it: probabilities, Grad-CAM, figures."""
    folder = workspace()
    splits = folder / "data/splits"
    shutil.copyfile(splits / "val.csv", splits / "test.csv")
    write_table(splits / "extra.csv", ("id", "label"), [])
    (folder / "reports").mkdir()
    (folder / "reports/data.json").write_text("{}")
    features.main()
    train.main()

    def judge():
        evaluate.main()
        times = json.loads((folder / "reports/timing.json").read_text())["evaluate"]
        names = ("probabilities", "unlike", "map", "grad_cam")
        return [np.load(folder / f"reports/evaluation/{name}.npy") for name in names], set(times)

    return judge


def test_what_the_features_say_is_what_the_net_says(judged):
    found, times = judged()
    assert times == {"model", "seconds"}  # the net was not run, so its speed is not known
    write_embedding(FEATURES, None)
    expected, times = judged()
    assert "images_per_second" in times
    for ours, given in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, given, atol=1e-5)


def test_evaluate_asks_no_features_of_another_backbone(judged):
    expected, _ = judged()
    embedding = json.loads((FEATURES / "features.json").read_text())
    (FEATURES / "features.json").write_text(json.dumps(embedding | {"key": "another"}))
    for path in FEATURES.glob("*.npz"):
        path.unlink()
    found, times = judged()
    assert "images_per_second" in times
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


def test_evaluate_refuses_features_that_are_not_those_of_the_images(judged):
    """Its mistakes are explained by the net as it is, which does not make them."""
    for shard in (0, 1):
        path = shard_path(FEATURES, shard)
        found = {name: read_member(path, name) for name in (PLAIN, MIRRORED)}
        write_shard(path, read_member(path, "pixels"), {k: v[::-1] for k, v in found.items()})
    with pytest.raises(UserError, match=r"as it is answers otherwise than by data/features"):
        judged()


def test_evaluate_says_which_features_are_damaged(judged):
    path = shard_path(FEATURES, 1)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"data/features is damaged.*features-00001.*dvc repro fe"):
        judged()


def test_part_of_the_photos_needs_no_new_features(workspace):
    workspace(train={"debug": {"data_fraction": 0.5}})
    features.main()
    train.main()
    assert read_info("models/model.keras").train["images"] == 24


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"weights": None}, "would keep random weights"),
        ({"name": "without_backbone"}, "weights in a layer named backbone"),
    ],
)
def test_what_cannot_be_frozen_is_said(workspace, model, said):
    folder = workspace()
    (folder / "params.yaml").write_text(json.dumps({"model": FROZEN | model}))
    with pytest.raises(UserError, match=said):
        features.main()


# The last layer


def photos(labels, seed=0, width=30, weights=None, noise=1.0) -> Photos:
    labels = np.asarray(labels)
    random = np.random.default_rng(seed)
    centres = random.normal(size=(labels.max() + 1, width))
    seen = centres[labels][:, None] + noise * random.normal(size=(len(labels), 2, width))
    weights = np.ones(labels.max() + 1) if weights is None else np.array(weights)
    return Photos(seen.astype(np.float32), labels, np.arange(len(labels)), weights)


def test_relatives_are_in_one_fold_and_classes_in_equal_shares():
    labels = np.repeat([0, 1], [40, 12])
    relatives = np.arange(52)
    relatives[[3, 7, 9]] = 3
    found = folds(labels, relatives, seed=1)
    assert len(set(found[[3, 7, 9]])) == 1
    for label, count in ((0, 40), (1, 12)):
        shares = np.bincount(found[labels == label], minlength=FOLDS)
        assert abs(shares - count / FOLDS).max() <= 3
    assert (folds(labels, relatives, seed=2) != found).any()


def test_the_first_of_each_class_are_taken():
    assert first_of_class(np.array([1, 0, 1, 1, 0]), 2).tolist() == [0, 1, 2, 4]


def test_no_image_is_judged_by_a_layer_that_saw_it():
    """Labels drawn by lot cannot be told on images that were held out."""
    labels = np.random.default_rng(0).integers(0, 2, 200)
    given = photos(np.zeros(200, int), width=300)
    head = fit_head(Photos(given.features, labels, given.relatives, np.ones(2)), 0, 2)
    assert abs((head.held_out.argmax(axis=1) == labels).mean() - 0.5) < 0.12
    assert head.strength < 0.01


def test_clear_classes_are_told_apart_and_probabilities_are_sound():
    given = photos(np.arange(90) % 3)
    head = fit_head(given, 0, 2)
    assert (head.held_out.argmax(axis=1) == given.labels).mean() > 0.95
    np.testing.assert_allclose(head.held_out.sum(axis=1), 1, atol=1e-6)


def test_the_fit_takes_no_more_memory_than_it_is_given():
    given = photos(np.arange(2000) % 3, width=400)
    size = given.features.nbytes
    for threads in (1, 2):
        limit = size * (1 + 1.1 * threads) + 1
        assert threads_within(limit, *given.features.shape) == threads
        tracemalloc.start()
        fit_head(given, 0, threads)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size + peak < 1.1 * limit  # and some numbers for each image
    with pytest.raises(UserError, match=r"train\.memory_limit = 0\.0\d+: .* of 2,000 images"):
        threads_within(2 * size, *given.features.shape)


def test_the_number_of_threads_makes_no_difference():
    given = photos(np.arange(90) % 3)
    one, several = (fit_head(given, 0, threads) for threads in (1, 3))
    assert one.layer.kernel.tobytes() == several.layer.kernel.tobytes()
    assert one.held_out.tobytes() == several.held_out.tobytes()


def test_each_layer_is_fitted_by_one_thread_whatever_is_imported_before():
    """A library that is loaded after the limit is set would use all cores, and sum otherwise."""
    code = """
import numpy as np
from threadpoolctl import threadpool_info
from stages.training.head import Photos, fit_head

class Watched(np.ndarray):
    threads = set()
    def mean(self, **options):
        Watched.threads |= {(pool["prefix"], pool["num_threads"]) for pool in threadpool_info()}
        return np.asarray(self).mean(**options)

labels = np.arange(40) % 2
features = np.random.default_rng(0).normal(size=(40, 1, 8)).astype("float32").view(Watched)
fit_head(Photos(features, labels, np.arange(40), np.ones(2)), 0, 1)
print(len(Watched.threads) > 1, *{threads for _, threads in Watched.threads})
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True", "1"]


def test_one_output_says_the_same_as_two():
    given = photos(np.arange(60) % 2)
    layer = fit_head(given, 0, 2).layer
    kernel, bias = layer.weights(1)
    logits = given.features[:, 0] @ kernel + bias
    one = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    np.testing.assert_allclose(one, layer.probabilities(given.features[:, 0])[:, 1], atol=1e-5)


def test_balanced_weights_find_more_of_a_rare_class():
    labels = np.repeat([0, 1], [190, 10])
    recalls = [
        (fit_head(photos(labels, weights=weights, noise=4.0), 0, 2).held_out[190:, 1] > 0.5).mean()
        for weights in ([1, 1], [200 / 380, 200 / 20])
    ]
    assert recalls[1] > recalls[0]


def test_of_few_photos_that_say_nothing_half_are_right():
    """A fold holds fewer of the class that it judges: that alone must not decide."""
    right = [
        (
            fit_head(Photos(given.features, labels, given.relatives, np.ones(2)), seed, 2).held_out,
            labels,
        )
        for seed in range(30)
        for given in [photos(np.zeros(6, int), seed=seed, width=300)]
        for labels in [np.arange(6) % 2]
    ]
    share = np.mean([(held_out.argmax(axis=1) == labels).mean() for held_out, labels in right])
    assert 0.35 < share < 0.65


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [0, 1], [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]])
def test_few_photos_are_enough_for_a_layer(labels):
    head = fit_head(photos(labels), 0, 2)
    assert np.isfinite(head.layer.kernel).all()
    assert np.isfinite(head.held_out).all()
    assert head.curve[-1].judged == len(labels)
