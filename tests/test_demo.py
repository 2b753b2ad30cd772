"""The demo page in a browser, opened as a file: what a person can see, do and reach by keyboard."""

import base64
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from factory import EXPORTED_CLASSES, ROOT
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_serve import serving

from stages import demo
from stages.errors import UserError
from stages.images.decode import decode
from stages.inference.answers import answers
from stages.inference.exported import load_exported

CLASSIFY = """
const [base64, done] = arguments;
loaded.then(() => backend.classify(new Blob([bytes(base64)])))
  .then((answer) => done({ answer }), (error) => done({ error: error.message }));
"""


@pytest.fixture(scope="session")
def written(exported, tmp_path_factory):
    """The folder in which the demo was written. Without its packages skipped, but for CI=true."""
    if not demo.RUNTIME.exists():
        missing = f"{demo.RUNTIME} is missing; make test installs it where there is npm"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    folder = tmp_path_factory.mktemp("demo")
    write(folder, exported)
    return folder


def write(folder: Path, exported: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["demo", "--export", str(exported)])
        demo.main()


@pytest.fixture
def page(browser, written):
    """The demo, open at 1200 x 900; fails if the console shows an error."""
    browser.set_window_size(1200, 900)
    browser.get((written / "reports/demo/index.html").as_uri())
    yield browser
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert not errors


@pytest.fixture(scope="session")
def server(exported):
    """The service over the exported model."""
    with serving(exported / "model.onnx") as server:
        yield server


@pytest.fixture
def served(browser, server):
    """The page of the service, open at 1200 x 900; fails if the console shows an error."""
    browser.set_window_size(1200, 900)
    browser.get(server.address + "/")
    yield browser
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert not errors


def saved(pixels: np.ndarray, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def text(page, selector: str) -> str:
    return page.find_element(By.CSS_SELECTOR, selector).get_attribute("textContent")


def answered(page) -> list[str]:
    """The classes on the page once the answer is there, the most probable first."""
    WebDriverWait(page, 20).until(
        lambda _: page.find_element(By.ID, "more").is_displayed() or text(page, "#error")
    )
    return [e.text for e in page.find_elements(By.CSS_SELECTOR, "#classes .name")]


def classify(page, data: bytes) -> dict:
    done = page.execute_async_script(CLASSIFY, base64.b64encode(data).decode())
    assert "error" not in done, done
    return done["answer"]


def test_answers_are_those_of_predict(page, exported):
    model, observe = load_exported(exported / "model.onnx")
    for golden in model.golden:
        data = (exported / golden.image).read_bytes()
        seen = observe(decode(data, model.preprocess)[None])
        (expected,) = answers(seen, model.classes, model.judgement, model.judgement.top_k)
        answer = classify(page, data)
        shown = [(one["name"], one["probability"]) for one in answer["classes"]]
        assert [name for name, _ in shown] == [name for name, _ in expected.ranked]
        assert dict(shown) == pytest.approx(dict(expected.ranked), abs=1e-3)
        assert answer["distance"] == pytest.approx(expected.distance, abs=1e-4)
        assert answer["nearest"] == expected.nearest
        assert (answer["set"], answer["unlike"]) == (expected.set, expected.unlike)
        np.testing.assert_allclose(answer["heat"], seen.heat[0], atol=1e-4)


def test_the_page_of_the_service_shows_what_it_answers(served, server, exported):
    for at, button in enumerate(served.find_elements(By.CSS_SELECTOR, "#examples button")[:3]):
        button.click()
        WebDriverWait(served, 20).until(
            lambda page, name=f"Test image {at + 1}": (
                text(page, "figcaption") == name and page.find_element(By.ID, "more").is_displayed()
            )
        )
        data = (exported / f"golden/{at}.png").read_bytes()
        _, _, found = server.ask("/predict", data, {"content-type": "image/png"})
        (answer,) = found["predictions"]
        assert answered(served) == [one["name"] for one in answer["classes"]]
        assert all(name in text(served, "#verdict") for name in answer["set"])
        assert bool(text(served, "#unlike")) == answer["unlike"]
        assert all(e.is_displayed() for e in served.find_elements(By.CLASS_NAME, "thumbnail"))
        assert served.find_element(By.ID, "toggle").is_displayed()
    assert "sent to the server" in text(served, "footer")


def test_the_service_says_on_its_page_why_it_refuses_a_file(browser, server, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    browser.get(server.address + "/")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "notes.txt"))
    answered(browser)
    assert text(browser, "[role=alert]") == "notes.txt: not an image"
    browser.get_log("browser")  # Chromium notes that the answer was 422


def test_what_the_service_sends_of_its_page_is_in_no_need_of_anything_else(served, server):
    status, headers, html = server.ask("/")
    assert status == 200
    assert "default-src" in headers["content-security-policy"]
    assert b"unsafe" not in html
    assert not served.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        ".filter((name) => !name.startsWith(location.origin + '/') && !/^(data|blob):/.test(name))"
    )


def test_a_chosen_file_is_pictured_and_its_classes_are_listed_as_they_are(page, exported, tmp_path):
    name = "<b>x & photo.png"
    shutil.copyfile(exported / "golden/0.png", tmp_path / name)
    page.find_element(By.ID, "file").send_keys(str(tmp_path / name))
    classes = answered(page)
    assert set(classes) <= set(EXPORTED_CLASSES)
    assert classes[0] in text(page, "#verdict")
    assert text(page, "figcaption") == name
    assert page.find_element(By.CSS_SELECTOR, "#picture img").get_property("naturalWidth") == 40
    assert page.find_elements(By.CSS_SELECTOR, "b, i, main script") == []
    assert text(page, "#nearest .name") in EXPORTED_CLASSES


def test_the_nearest_training_images_are_those_of_the_answer(page, exported):
    labels = load_exported(exported / "model.onnx")[0].neighbours.labels
    page.find_element(By.CSS_SELECTOR, "#examples button").click()
    answered(page)
    nearest = classify(page, (exported / "golden/0.png").read_bytes())["nearest"]
    thumbnails = page.find_elements(By.CLASS_NAME, "thumbnail")
    for number, thumbnail in zip(nearest, thumbnails, strict=True):
        place = f"{-(number % 8) * 96}px {-(number // 8) * 96}px"
        assert place in thumbnail.get_attribute("style")
        assert EXPORTED_CLASSES[labels[number]] in thumbnail.accessible_name
    loaded = page.execute_script(
        "const image = new Image(); image.src = 'neighbours.jpg';"
        "return image.decode().then(() => true)"
    )
    assert loaded


VEIL = """
const { width, height } = document.querySelector("#heat");
const context = document.querySelector("#heat").getContext("2d");
const { data } = context.getImageData(0, height / 2, width, 1);
return [0.2, 0.8].map((x) => data[4 * Math.floor(x * width) + 3]);
"""


@pytest.mark.parametrize("which", ["page", "served"])
def test_heat_lies_over_the_picture_where_the_class_is_seen(which, request, tmp_path):
    page = request.getfixturevalue(which)
    pixels = np.full((60, 120, 3), 100, np.uint8)
    pixels[:, 80:, 0] = 250  # what is reddest speaks for red
    (tmp_path / "part.png").write_bytes(saved(pixels))
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "part.png"))
    *_, red = EXPORTED_CLASSES
    assert answered(page)[0] == red
    canvas, toggle = (page.find_element(By.CSS_SELECTOR, f"#{name}") for name in ("heat", "toggle"))
    assert not canvas.is_displayed()
    assert text(page, "#toggle").strip() == f"Show what speaks for {red}"
    toggle.find_element(By.TAG_NAME, "input").send_keys(Keys.SPACE)
    assert canvas.is_displayed()
    assert canvas.accessible_name.endswith("right")
    assert canvas.rect == page.find_element(By.CSS_SELECTOR, "#picture img").rect
    left, right = page.execute_script(VEIL)
    assert right < left
    page.find_element(By.CSS_SELECTOR, "#examples button").click()
    answered(page)
    assert canvas.is_displayed()  # until it is taken off again
    toggle.click()
    assert not canvas.is_displayed()


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_can_be_pasted_or_dropped(page, exported, way):
    data = base64.b64encode((exported / "golden/1.png").read_bytes()).decode()
    page.execute_script(
        """
        const [base64, way] = arguments, transfer = new DataTransfer();
        transfer.items.add(new File([bytes(base64)], "one.png", { type: "image/png" }));
        transfer.items.add(new File([bytes(base64)], "two.png", { type: "image/png" }));
        const options = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(way === "drop"
          ? new DragEvent("drop", { ...options, dataTransfer: transfer })
          : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
        """,
        data,
        way,
    )
    assert answered(page)
    assert text(page, "figcaption") == "one.png"
    assert "first of 2 images" in text(page, "#meaning")


def test_everything_can_be_reached_by_keyboard(page):
    reached = []
    for _ in range(3):
        ActionChains(page).send_keys(Keys.TAB).perform()
        element = page.switch_to.active_element
        reached.append(element.get_attribute("id") or element.tag_name)
        outline = page.execute_script(
            "const e = document.activeElement;"
            "return getComputedStyle(e.closest('label') ?? e).outlineStyle"
        )
        assert outline != "none", reached
    assert reached == ["file", "button", "button"]  # a photo can be taken on phones alone
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert answered(page)
    assert text(page, "figcaption") == "Test image 2"


def test_the_answer_is_told_to_screen_readers(page):
    page.find_element(By.CSS_SELECTOR, "#examples button").click()
    answered(page)
    status = page.find_element(By.CSS_SELECTOR, "[role=status]")
    assert text(page, "#verdict") in status.text
    for element in page.find_elements(By.CSS_SELECTOR, "img, input, button, canvas, .thumbnail"):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(page, theme):
    commands = {
        "Emulation.setDeviceMetricsOverride": {
            "width": 390,
            "height": 844,
            "deviceScaleFactor": 2,
            "mobile": True,
        },
        "Emulation.setTouchEmulationEnabled": {"enabled": True},
        "Emulation.setEmulatedMedia": {
            "features": [{"name": "prefers-color-scheme", "value": theme}]
        },
    }
    try:
        for name, options in commands.items():
            page.execute_cdp_cmd(name, options)
        page.refresh()
        assert page.find_element(By.ID, "camera").is_displayed()
        page.find_element(By.CSS_SELECTOR, "#examples button").click()
        answered(page)
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        light = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(255, 255, 255)") == (theme == "light")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_file_that_is_no_image_is_named_in_a_line_and_the_next_one_is_answered(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "notes.txt"))
    answered(page)
    said = text(page, "[role=alert]")
    assert said.startswith("notes.txt: this browser cannot read the file as an image")
    assert not text(page, "#verdict")
    page.find_element(By.CSS_SELECTOR, "#examples button").click()
    WebDriverWait(page, 10).until(lambda _: page.find_element(By.ID, "more").is_displayed())
    assert not text(page, "#error")


def test_the_page_takes_nothing_from_elsewhere(page, written):
    page.find_element(By.CSS_SELECTOR, "#examples button").click()
    answered(page)
    html = (written / "reports/demo/index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not re.search(r"unsafe-(inline|eval)'", html.replace("'wasm-unsafe-eval'", ""))
    for source in re.findall(r'(?:src|href)="([^"]*)"', html):
        assert source == "data:," or (written / "reports/demo" / source).is_file()


def test_the_same_model_gives_the_same_bytes(written, exported, tmp_path):
    write(tmp_path, exported)
    files = sorted((written / "reports/demo").iterdir())
    assert [file.name for file in files] == sorted(os.listdir(tmp_path / "reports/demo"))
    for file in files:
        assert file.read_bytes() == (tmp_path / "reports/demo" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "add onnx to export.formats"),
        (lambda folder: (folder / "neighbours.jpg").unlink(), "neighbours.jpg"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"other"), "its bytes are not those"),
    ],
)
def test_what_cannot_be_written_leaves_the_earlier_page(written, exported, tmp_path, damage, said):
    shutil.copytree(exported, tmp_path / "export")
    shutil.copytree(written / "reports", tmp_path / "reports")
    before = sorted(os.listdir(tmp_path / "reports/demo"))
    damage(tmp_path / "export")
    with pytest.raises((UserError, FileNotFoundError), match=re.escape(said)):
        write(tmp_path, tmp_path / "export")
    assert sorted(os.listdir(tmp_path / "reports/demo")) == before
    assert os.listdir(tmp_path / "reports") == ["demo"]


def test_without_the_packages_of_npm_one_line_says_what_to_do(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "RUNTIME", tmp_path)
    with pytest.raises(UserError, match="make demo installs it"):
        write(tmp_path, exported)


def test_every_package_of_npm_is_checked_and_no_registry_is_named():
    lock = json.loads((ROOT / "stages/serving/package-lock.json").read_text(encoding="utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert "node_modules/onnxruntime-web" in packages
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
