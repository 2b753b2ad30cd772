"""The curves of reports/report.html in a browser: read, zoomed, smoothed, laid over another run."""

import json
import re

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHARTS = ["learning_curves", "accuracy_by_epoch", "reliability", "roc", "precision_recall"]


@pytest.fixture
def page(browser, finished_job):
    browser.set_window_size(1400, 900)
    browser.get((finished_job / "reports/report.html").as_uri())
    yield browser
    assert not [entry["message"] for entry in browser.get_log("browser")]


def panel(page, chart, number=0):
    found = page.find_elements(By.CSS_SELECTOR, f"[data-chart={chart}] .panel")[number]
    plot = found.find_element(By.CSS_SELECTOR, ":scope > svg")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    return found, plot


def readings(found):
    items = found.find_elements(By.CSS_SELECTOR, ".legend li")
    return {
        item.get_attribute("data-name"): item.find_element(By.CLASS_NAME, "value").text
        for item in items
    }


def numbers(found):
    """What stands at the axes."""
    return [text.text for text in found.find_elements(By.CSS_SELECTOR, ":scope > svg text")]


def history(job, side, what):
    path = job / f"reports/train/plots/metrics/{side}/{what}.tsv"
    return [float(line.split("\t")[1]) for line in path.read_text().splitlines()[1:]]


def test_every_chart_answers_and_its_picture_is_left_for_print(page):
    for chart in CHARTS:
        found, plot = panel(page, chart)
        ActionChains(page).move_to_element(plot).perform()
        assert any(readings(found).values()), chart
    pictures = page.find_elements(By.CSS_SELECTOR, ".static")
    assert not any(picture.is_displayed() for picture in pictures)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert all(picture.is_displayed() for picture in pictures)
        assert not any(e.is_displayed() for e in page.find_elements(By.CLASS_NAME, "live"))
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_a_script_the_pictures_stay(page):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert all(e.is_displayed() for e in page.find_elements(By.CLASS_NAME, "static"))
        assert not page.find_element(By.ID, "other-run").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_arrow_keys_read_the_values_of_an_epoch_in_both_panels(page, finished_job):
    loss, plot = panel(page, "learning_curves")
    accuracy, _ = panel(page, "learning_curves", 1)
    plot.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert loss.find_element(By.CLASS_NAME, "where").text == "epoch 2"
    expected = {
        "training": history(finished_job, "train", "loss")[1],
        "validation": history(finished_job, "val", "loss")[1],
    }
    assert {k: float(v) for k, v in readings(loss).items()} == pytest.approx(expected, rel=1e-3)
    share = 100 * history(finished_job, "val", "accuracy")[1]
    assert float(readings(accuracy)["validation"].removesuffix(" %")) == pytest.approx(share, 1e-3)
    spoken = loss.find_element(By.CSS_SELECTOR, "[aria-live]").get_attribute("textContent")
    assert spoken.startswith("epoch 2: training ")
    plot.send_keys(Keys.ESCAPE)
    assert readings(loss) == {"training": "", "validation": ""}


def test_zoom_by_keys_by_buttons_and_by_a_rectangle(page):
    found, plot = panel(page, "roc")
    whole = numbers(found)
    plot.send_keys("+")
    assert numbers(found) != whole
    plot.send_keys("0")
    assert numbers(found) == whole
    closer, wider, back = found.find_elements(By.CSS_SELECTOR, ".controls button")
    closer.click()
    assert numbers(found) != whole
    back.click()
    wider.click()
    back.click()
    assert numbers(found) == whole
    mouse = ActionChains(page).move_to_element_with_offset(plot, -80, -60)
    mouse.click_and_hold().move_by_offset(90, 50).release().perform()
    assert numbers(found) != whole
    ActionChains(page).double_click(plot).perform()
    assert numbers(found) == whole


def test_smoothing_shows_the_raw_line_behind(page):
    found, plot = panel(page, "learning_curves")
    plot.send_keys(Keys.END)
    raw = readings(found)
    slider = found.find_element(By.CSS_SELECTOR, "input[type=range]")
    slider.send_keys(*[Keys.ARROW_RIGHT] * 10)
    assert float(readings(found)["training"]) > float(raw["training"])  # the loss fell
    assert len(found.find_elements(By.CLASS_NAME, "faint")) == 2


def test_a_press_on_a_name_hides_its_line(page):
    found, _ = panel(page, "learning_curves")
    lines = len(found.find_elements(By.CSS_SELECTOR, ":scope > svg .line"))
    found.find_element(By.CSS_SELECTOR, ".legend button").click()
    assert len(found.find_elements(By.CSS_SELECTOR, ":scope > svg .line")) == lines - 1
    assert page.switch_to.active_element.get_attribute("aria-pressed") == "false"


def laid(page, path):
    page.find_element(By.CSS_SELECTOR, "#other-run input").send_keys(str(path))
    status = page.find_element(By.CSS_SELECTOR, "#other-run [role=status]")
    ActionChains(page).pause(0.5).perform()
    return status.text


def test_another_run_is_laid_over(page, finished_job, tmp_path):
    html = (finished_job / "reports/report.html").read_text(encoding="utf-8")
    start = re.search(r'id="curves-data">', html).end()
    end = html.index("</script>", start)
    curves = json.loads(html[start:end])
    curves["learning_curves"][0]["lines"][0]["y"][0] = 7.25
    other = tmp_path / "before.html"
    text = json.dumps(curves).replace("<", r"\u003c")
    other.write_text(html[:start] + text + html[end:], encoding="utf-8")

    assert laid(page, other) == "Dotted: before.html"
    found, plot = panel(page, "learning_curves")
    plot.send_keys(Keys.HOME)
    assert readings(found)["training"].endswith("(other run 7.25)")
    for chart in CHARTS:
        dotted = [
            line.get_attribute("stroke-dasharray")
            for line in panel(page, chart)[0].find_elements(By.CSS_SELECTOR, ":scope > svg .line")
        ]
        assert "2 3" in dotted, chart
    page.find_element(By.CSS_SELECTOR, "#other-run button").click()
    assert "other" not in readings(found)["training"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<p>a page</p>",
        '<script id="curves-data">{"roc": [{"title": "ROC", "lines": [{"name": "a"}]}]}</script>',
        '<script id="curves-data">{"roc": [{"title": "ROC", "lines": [{"name": "a", "x": [1], '
        '"y": ["<b>"]}]}]}</script>',
    ],
)
def test_a_file_that_is_no_report_is_refused(page, tmp_path, content):
    (tmp_path / "notes.html").write_text(content)
    said = laid(page, tmp_path / "notes.html")
    assert said == "notes.html is not a report with curves; choose a report.html."
    assert not page.find_element(By.CSS_SELECTOR, "#other-run button").is_displayed()


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_curves_fit_the_window(page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.refresh()
        for plot in page.find_elements(By.CSS_SELECTOR, ".panel > svg"):
            box = plot.rect
            assert 200 < box["width"] <= width
            assert box["x"] + box["width"] <= width
            for text in plot.find_elements(By.TAG_NAME, "text"):
                assert text.rect["x"] >= box["x"] - 1, text.text
                assert text.rect["x"] + text.rect["width"] <= box["x"] + box["width"] + 8
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
