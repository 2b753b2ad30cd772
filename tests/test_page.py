"""reports/report.html in a browser: what a person can see, click and reach by keyboard."""

import csv
import json
import re
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from factory import COLOUR_CLASSES
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from stages.files import ISSUES_COLUMNS, SUSPECTS_COLUMNS
from stages.store.tables import read_table, write_table

RED, GREEN, BLUE = COLOUR_CLASSES
RED_FOLDER = RED.replace("/", "_")
ODD = f"01{7:014x}"  # a correction of it makes a class that is not there yet


@pytest.fixture
def page(browser, finished_job):
    """The page of the finished job, open at 1200 x 900; fails if the console shows an error."""
    browser.set_window_size(1200, 900)
    browser.get((finished_job / "reports/report.html").as_uri())
    yield browser
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert not errors


def rendered(folder, size=10**6):
    from stages.parameters.whole import Parameters
    from stages.report.page import render_page
    from stages.report.results import read_results

    settings = Parameters().model_dump()
    return "".join(render_page(read_results(folder), settings, settings, {}, [], size))


def texts(page, selector):
    return [element.text for element in page.find_elements(By.CSS_SELECTOR, selector)]


def tiles(page, where="#browser"):
    return page.find_elements(By.CSS_SELECTOR, f"{where} .tile")


def shown(page):
    """(actual, predicted or None) of the images in the browser."""
    return [
        tuple(
            "".join(part.get_attribute("textContent") for part in found) or None
            for found in (tile.find_elements(By.CSS_SELECTOR, f".{name}") for name in ("is", "not"))
        )
        for tile in tiles(page)
    ]


def choose(page, name, text):
    Select(page.find_element(By.NAME, name)).select_by_visible_text(text)


def found(page):
    """How many images pass the filters, as the page says it."""
    return int(page.find_element(By.ID, "found").text.split()[0].replace(",", ""))


def focused(page):
    return page.switch_to.active_element


def matrix_names(page):
    return [
        th.get_attribute("title") for th in page.find_elements(By.CSS_SELECTOR, "#matrix tbody th")
    ]


def cell(page, row, column):
    return page.find_element(
        By.CSS_SELECTOR, f"#matrix tbody tr:nth-child({row + 1}) td:nth-of-type({column + 1})"
    )


def test_the_page_needs_nothing_but_itself(page, finished_job):
    html = (finished_job / "reports/report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html)
    assert "@import" not in html
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert not [name for name in loaded if not name.startswith("data:")]


def test_the_headline_gives_accuracy_interval_and_count(page):
    assert re.fullmatch(
        r"\d+\.\d % of 90 test images right \(95 % interval \d+\.\d % to \d+\.\d %\)",
        texts(page, "h1")[0],
    )


def test_headings_of_figures_are_words(page):
    body = page.find_element(By.TAG_NAME, "body").text
    assert "Among the top 2\n" in body
    assert "_" not in page.find_element(By.CLASS_NAME, "tiles").text


def test_names_of_classes_and_files_are_shown_as_they_are(page):
    assert sorted(texts(page, "#class-table tbody th")) == sorted(COLOUR_CLASSES)
    assert page.find_elements(By.CSS_SELECTOR, "b, i") == []  # from <b>red</b>, <i>broken</i>.jpg
    page.find_element(By.XPATH, "//summary[contains(., 'could not be read')]").click()
    assert "<i>broken</i>.jpg" in page.find_element(By.ID, "data").text


def test_the_run_is_named_and_its_model_leads_to_the_commit(page, finished_job):
    model = json.loads((finished_job / "models/model.json").read_text(encoding="utf-8"))
    named = dict(zip(texts(page, ".run dt"), texts(page, ".run dd"), strict=True))
    assert named == {
        "Data": "digits",
        "Images": "180 of 3 classes",
        "Pixels": "16 x 16 x 3",
        "Architecture": "convnet",
        "Epochs": "3",
        "Model": model["sha256"][:12],
    }
    assert f"git log -S {named['Model']} --" in page.find_element(By.ID, "reproduce").text


def test_classes_are_listed_weakest_first(page):
    f1 = [float(text) for text in texts(page, "#class-table td:nth-child(2)")]
    assert f1 == sorted(f1)


def test_exported_models_stand_beside_the_one_judged(page):
    assert "Exported models" in texts(page, "nav a")
    assert "on all 90 test images" in page.find_element(By.ID, "exported").text
    head = texts(page, "#exported thead th")
    assert texts(page, "#exported tbody th") == ["model.keras", "litert_int8"]
    cells = texts(page, "#exported tbody tr:last-child td")
    row = dict(zip(head[1:], cells, strict=True))
    assert row == {
        "File": "0.38 MB",
        "Accuracy": "87.78 %",
        "Same class": "97.78 %",
        "Largest difference": "0.012",
        "Mean difference": "4.6e-05",
        "Broken": "2",
        "Fixed": "0",
        "McNemar's p": "0.500",
    }


def test_without_exported_models_the_page_has_no_section_of_them(finished_job, tmp_path):
    shutil.copytree(finished_job, tmp_path, dirs_exist_ok=True)
    (tmp_path / "reports/parity.json").write_text("{}")
    html = rendered(tmp_path)
    assert 'id="exported"' not in html
    assert "#exported" not in html


def test_a_click_or_enter_on_a_heading_sorts_the_table(page):
    f1 = page.find_element(By.CSS_SELECTOR, "#class-table th:nth-child(2)")
    f1.find_element(By.TAG_NAME, "button").click()
    values = [float(text) for text in texts(page, "#class-table td:nth-child(2)")]
    assert f1.get_attribute("aria-sort") == "descending"
    assert values == sorted(values, reverse=True)
    f1.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert f1.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in texts(page, "#class-table td:nth-child(2)")] == values[::-1]


def test_the_confusion_matrix_can_be_ordered_and_normalised(page):
    assert matrix_names(page) == COLOUR_CLASSES
    classes, scores = (texts(page, f"#class-table tbody {cell}") for cell in ("th", ".bar"))
    f1 = dict(zip(classes, scores, strict=True))
    Select(page.find_element(By.ID, "matrix-order")).select_by_value("f1")
    assert matrix_names(page) == sorted(COLOUR_CLASSES, key=lambda name: float(f1[name]))
    Select(page.find_element(By.ID, "matrix-order")).select_by_value("similar")
    assert sorted(matrix_names(page)) == sorted(COLOUR_CLASSES)
    for of, total in (("count", 90), ("actual", 300), ("predicted", 300)):
        Select(page.find_element(By.ID, "matrix-of")).select_by_value(of)
        cells = [float(text or 0) for text in texts(page, "#matrix td[data-i]")]
        assert sum(cells) == pytest.approx(total, abs=0.5)


def test_pointing_at_a_cell_reads_it_out(page):
    from selenium.webdriver import ActionChains

    ActionChains(page).move_to_element(cell(page, 0, 1)).perform()
    readout = page.find_element(By.ID, "matrix-readout")
    assert readout.text.startswith(f"actual {RED}, predicted {GREEN}: ")
    assert readout.get_attribute("aria-live") == "polite"
    assert cell(page, 0, 1).get_attribute("aria-label") == readout.text


def test_the_matrix_works_by_keyboard_and_leads_to_the_images(page):
    assert len(page.find_elements(By.CSS_SELECTOR, "#matrix td[tabindex='0']")) == 1
    cell(page, 0, 0).send_keys(Keys.ARROW_DOWN)
    focused(page).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert focused(page) == cell(page, 1, 2)
    focused(page).send_keys(Keys.ENTER)
    assert set(shown(page)) == {(GREEN, BLUE)}
    assert focused(page) == tiles(page)[0]


def test_the_page_opens_on_the_most_confident_mistakes(page, finished_job):
    with open(finished_job / "reports/predictions.csv", encoding="utf-8") as file:
        wrong = [row for row in csv.DictReader(file) if row["actual"] != row["predicted"]]
    wrong.sort(key=lambda row: -round(float(row["confidence"]), 3))
    assert found(page) == len(wrong)
    pairs = [(row["actual"], row["predicted"]) for row in wrong]
    assert shown(page)[:3] == pairs[:3]


def test_every_image_is_found_by_side_class_prediction_issue_and_path(page):
    page.find_element(By.ID, "everything").click()
    assert found(page) == 180
    choose(page, "side", "train")
    assert found(page) == 30
    assert {predicted for _, predicted in shown(page)} == {None}
    choose(page, "judged", "wrong")
    assert found(page) == 0
    choose(page, "side", "test")
    choose(page, "label", RED)
    assert {actual for actual, _ in shown(page)} == {RED}
    page.find_element(By.ID, "everything").click()
    choose(page, "issue", "near-duplicate")
    assert found(page) == 2
    page.find_element(By.ID, "everything").click()
    page.find_element(By.NAME, "path").send_keys("EXTRA 7.jpg")
    assert found(page) == 1
    assert tiles(page)[0].text.endswith("extra 7.jpg")
    assert page.find_element(By.ID, "found").get_attribute("role") == "status"


def test_more_images_are_shown_on_demand(page):
    page.find_element(By.ID, "everything").click()
    before = len(tiles(page))
    page.find_element(By.ID, "more").send_keys(Keys.ENTER)
    assert before < len(tiles(page)) == 180
    assert focused(page) == tiles(page)[before]


def test_an_image_is_enlarged_and_arrow_keys_go_through_those_found(page):
    first, second = tiles(page)[:2]
    first.send_keys(Keys.ARROW_RIGHT)
    assert focused(page) == second
    second.send_keys(Keys.ENTER)
    viewer = page.find_element(By.ID, "viewer")
    assert viewer.is_displayed()
    assert page.find_element(By.ID, "viewer-picture").get_property("naturalWidth") == 16
    total = found(page)
    assert page.find_element(By.ID, "viewer-place").text == f"2 of {total}"
    focused(page).send_keys(Keys.ARROW_RIGHT)
    assert page.find_element(By.ID, "viewer-place").text == f"3 of {total}"
    assert "sure" in page.find_element(By.ID, "viewer-facts").text
    focused(page).send_keys(Keys.ESCAPE)
    assert not viewer.is_displayed()
    assert focused(page) == tiles(page)[2]


def test_a_frequent_confusion_leads_to_its_images(page):
    first = page.find_element(By.CSS_SELECTOR, "#confusion tbody button.show")
    row = first.find_element(By.XPATH, "./ancestor::tr")
    actual, predicted, count = [td.text for td in row.find_elements(By.TAG_NAME, "td")[:3]]
    first.click()
    assert shown(page) == [(actual, predicted)] * int(count)


def test_the_threshold_says_what_it_would_answer_and_how_right(page, finished_job):
    with open(finished_job / "reports/predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sure = [row for row in rows if float(row["confidence"]) >= 0.5]
    right = sum(row["actual"] == row["predicted"] for row in sure)
    slider = page.find_element(By.ID, "threshold")
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 100)
    said = page.find_element(By.ID, "threshold-readout").text
    assert f"With at least 50.0 % it answers {len(sure)} of 90 images" in said
    assert f"{100 * right / len(sure):.1f} % of the answers are right" in said
    assert said.endswith(f"{len(sure) - right} wrong.")


def test_the_page_follows_the_systems_theme_and_the_button_turns_it(page):
    def background():
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    def prefer(scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    prefer("light")
    assert background() == "rgb(255, 255, 255)"
    prefer("dark")
    dark = background()
    assert dark != "rgb(255, 255, 255)"
    ink = "return getComputedStyle(document.querySelector('figure svg text')).fill"
    assert page.execute_script(ink) != "rgb(27, 27, 28)"  # charts take the page's colour
    prefer("light")
    page.find_element(By.ID, "theme").click()
    assert background() == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_any_cell_of_the_matrix_is_legible(page, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    contrasts = page.execute_script(
        """
        const canvas = document.createElement("canvas");
        const pen = canvas.getContext("2d", { willReadFrequently: true });
        const luminance = (colour) => {
          pen.fillStyle = colour;
          pen.fillRect(0, 0, 1, 1);
          const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((byte) =>
            byte <= 10 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const cell = document.querySelector("#matrix td[data-i]");
        const contrasts = [];
        for (cell.className of ["", "same"]) for (let value = 0; value <= 1; value += 0.125) {
          cell.style.setProperty("--v", value);
          const { backgroundColor, color } = getComputedStyle(cell);
          const both = [luminance(backgroundColor), luminance(color)].sort((a, b) => a - b);
          contrasts.push((both[1] + 0.05) / (both[0] + 0.05));
        }
        return contrasts;
        """
    )
    assert len(contrasts) == 18
    assert min(contrasts) >= 4.5
    assert max(contrasts) > 10


@pytest.mark.parametrize("width", [390, 500, 1200])
def test_the_page_fits_the_window(page, width):
    page.set_window_size(width, 900)
    wide, window = page.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= window


def test_on_a_telephone_names_in_tables_do_not_fall_into_letters(page):
    page.set_window_size(390, 900)
    narrow = page.execute_script(
        """
        const pen = document.createElement("canvas").getContext("2d");
        return [...document.querySelectorAll("th, td")].filter((cell) => {
          if (cell.closest("#matrix") || !cell.checkVisibility()) return false;
          pen.font = getComputedStyle(cell).font;
          const words = cell.innerText.split(/[\\s/-]+/);
          return Math.max(...words.map((word) => pen.measureText(word).width)) > cell.clientWidth;
        }).map((cell) => cell.textContent);
        """
    )
    assert not narrow
    for button in page.find_elements(By.CSS_SELECTOR, "#confusion td button"):
        assert button.size["height"] < 40
    page.set_window_size(1200, 900)


def test_a_table_that_goes_on_to_the_right_says_so(page):
    hint = page.find_element(By.CSS_SELECTOR, "#classes .hint")
    assert not hint.is_displayed()
    page.set_window_size(390, 900)
    WebDriverWait(page, 5).until(lambda _: hint.is_displayed())
    assert hint.text == "More to the right →"
    page.set_window_size(1200, 900)


def test_a_screen_reader_finds_its_way(page):
    missing = page.execute_script(
        """
        const unnamed = (selector, named) =>
          [...document.querySelectorAll(selector)].filter((e) => !named(e)).map((e) => e.outerHTML);
        return [
          unnamed("img", (e) => e.hasAttribute("alt")),
          unnamed("select, button, input", (e) => e.labels?.length || e.textContent.trim()),
          unnamed("[role='img']", (e) => e.getAttribute("aria-label")),
          unnamed("th", (e) => e.scope || e.closest("#matrix")),
          unnamed("[tabindex='0']:not(td):not(pre)", (e) => e.getAttribute("aria-label")),
        ].flat();
        """
    )
    assert not missing
    levels = [int(e.tag_name[1]) for e in page.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4, h5")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert page.find_elements(By.CSS_SELECTOR, "html[lang] main, nav[aria-label]")
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("href").endswith("#main")


def test_the_page_lists_layers_settings_and_how_to_reproduce(page):
    assert texts(page, "#model tbody th")[1:3] == ["features", "same"]
    changed, usual = page.find_elements(By.CSS_SELECTOR, "#settings table")
    assert "train.epochs" in changed.text  # the digits job trains longer than the default
    assert "train.sampling" not in changed.text
    assert not usual.is_displayed()
    page.find_element(By.CSS_SELECTOR, "#settings summary").click()
    assert "train.sampling" in usual.text
    assert "dvc repro" in page.find_element(By.ID, "reproduce").text


def test_near_duplicates_are_shown_side_by_side(page):
    (heading,) = texts(page, "#issues h3")
    assert heading == "Near-duplicate: 1"
    copy, original = tiles(page, "#issues .two")
    assert [re.search(r"(test|train) 0\.jpg", tile.text)[1] for tile in (copy, original)] == [
        "test",
        "train",
    ]
    assert "distance 0.0012" in page.find_element(By.CSS_SELECTOR, "#issues li").text


# Another run: labels smoothed, no validation images, a map, issues of several kinds.


@pytest.fixture(scope="module")
def other_job(finished_job, tmp_path_factory):
    from stages import plot

    folder = tmp_path_factory.mktemp("other") / "job"
    shutil.copytree(finished_job, folder)
    shutil.rmtree(folder / "reports/train/plots/metrics/val")
    (folder / "data/splits/val.csv").write_text("id,label\n")
    settings = (folder / "params.yaml").read_text(encoding="utf-8")
    settings = settings.replace("label_smoothing: 0.0", "label_smoothing: 0.1")
    settings = settings.replace("hardest: 1.0", "hardest: 0.75")
    (folder / "params.yaml").write_text(settings, encoding="utf-8")
    corners = np.linspace(0, 1, 90, dtype=np.float32)
    np.save(folder / "reports/evaluation/map.npy", np.stack([corners, corners**2], axis=1))
    np.save(folder / "reports/evaluation/unlike.npy", 1 - corners)
    scores = json.loads((folder / "reports/scores.json").read_text(encoding="utf-8"))
    scores["suspects"] = {"train": 1, "test": 2}
    scores["trust"] |= {"unlike": 2 / 90, "unlike_asked": 0.01, "unlike_threshold": 0.75}
    (folder / "reports/scores.json").write_text(json.dumps(scores), encoding="utf-8")
    judged = read_table(folder / "reports/predictions.csv").to_pylist()
    for at, row in enumerate(judged):
        row["unlike"] = "yes" if at < 2 else "no"
    rows = [row.values() for row in judged]
    write_table(folder / "reports/predictions.csv", judged[0].keys(), rows)
    header = ",".join(ISSUES_COLUMNS)
    test, train, val = (f"{number:02x}{3:014x}" for number in (2, 0, 1))
    lines = [
        f"too dark,a.jpg,x,test,,,,,0.07,{test},",
        f"left out,b.jpg,x,,c.jpg,x,train,,,{val},{train}",
        f"conflicting labels,a.jpg,x,test,c.jpg,y,train,,,{test},{train}",
    ]
    issues = "\n".join([header, *lines, ""])
    (folder / "reports/data_issues.csv").write_text(issues, encoding="utf-8")
    index = (folder / "data/processed/index.csv").read_text(encoding="utf-8")
    odd = next(line for line in index.splitlines() if line.startswith(f"01{4:014x}"))
    changed = odd.replace(next(csv.reader([odd]))[1].replace('"', '""'), '=1+1, ""é\n"" 猫.jpg')
    index = index.replace(odd, changed)
    (folder / "data/processed/index.csv").write_text(index, encoding="utf-8")
    suspects = [
        (f"00{3:014x}", "", RED, BLUE, "train", "0.0125", f"00{6:014x}", f"00{2:014x}"),
        (f"02{5:014x}", "", BLUE, GREEN, "test", "0.2000", f"00{5:014x}", f"00{4:014x}"),
        (f"02{4:014x}", "", GREEN, RED, "test", "0.3000", f"00{4:014x}", ""),
    ]
    write_table(folder / "reports/label_suspects.csv", SUSPECTS_COLUMNS, suspects)
    known = [["0" * 16, "-", "Ann", ""], [ODD, "new:wolf", "", ""]]
    known += [[f"02{5:014x}", BLUE, "", "checked"], [f"02{4:014x}", GREEN, "", ""]]
    write_table(folder / "data/corrections.csv", ("id", "label", "who", "note"), known)
    data = json.loads((folder / "reports/data.json").read_text())
    data["corrections"] = {"relabelled": 12, "removed": 3, "unmatched": 0, "moved": 0}
    (folder / "reports/data.json").write_text(json.dumps(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plot.main()
    return folder


@pytest.fixture
def other_page(browser, other_job):
    browser.set_window_size(1200, 900)
    browser.get((other_job / "reports/report.html").as_uri())
    browser.execute_script("localStorage.clear(); location.reload()")
    yield browser
    browser.execute_script("localStorage.clear()")
    assert not [entry["message"] for entry in browser.get_log("browser")]


def test_without_validation_images_no_epoch_is_called_chosen(other_page):
    said = other_page.find_element(By.ID, "training").text
    assert "The weights of the last epoch, 3, were kept" in said
    assert "chosen:" not in said
    assert ", chosen by" not in said


def test_smoothed_labels_explain_a_high_training_loss(other_page):
    said = other_page.find_element(By.CSS_SELECTOR, "#training .notes").text
    assert "softened labels (train.label_smoothing)" in said
    # -(14/15 ln 14/15 + 2/30 ln 1/30), as 0.1 is spread over 3 classes.
    assert "the least possible training loss is 0.291" in said


def test_training_on_the_hardest_images_explains_low_training_figures(other_page):
    said = other_page.find_element(By.CSS_SELECTOR, "#training .notes").text
    assert "75 % of the images, the hardest (train.hardest)" in said


def test_every_kind_of_issue_has_its_heading_conflicts_first(other_page):
    assert texts(other_page, "#issues h3") == [
        "Conflicting labels: 1, 1 with two labels",
        "Too dark: 1",
        "Left out: 1",
        "Unlike the training images: 2",
    ]
    lists = other_page.find_elements(By.CSS_SELECTOR, "#issues ul")
    assert [len(ul.find_elements(By.CSS_SELECTOR, ".tile")) for ul in lists] == [2, 1, 2, 2]
    assert [re.search(r"test \d+", tile.text)[0] for tile in tiles(lists[3], ":scope")] == [
        "test 0",
        "test 1",
    ]
    assert lists[1].text.endswith("0.07")
    assert "left out" in lists[2].text  # has no side, and a picture all the same
    assert lists[2].find_element(By.TAG_NAME, "img").get_property("naturalWidth") == 16


def test_a_rectangle_on_the_map_picks_images_by_mouse_and_by_keyboard(other_page):
    from selenium.webdriver import ActionChains

    points = other_page.find_element(By.ID, "map-points")
    other_page.execute_script("arguments[0].scrollIntoView({block: 'center'})", points)
    half, high = points.size["width"] // 2, points.size["height"] // 2
    # From inside the lower left corner, which is round.
    mouse = ActionChains(other_page).move_to_element_with_offset(points, 6 - half, high - 6)
    mouse.click_and_hold().move_by_offset(half - 5, 7 - 2 * high).release().perform()
    assert found(other_page) == 45  # the left half
    assert set(re.findall(r"^\w+", " ".join(texts(other_page, "#browser .sure")))) == {"test"}
    points.send_keys(Keys.ESCAPE)
    assert found(other_page) > 45
    points.send_keys(Keys.SPACE, *[Keys.ARROW_RIGHT] * 26, *[Keys.ARROW_UP] * 26, Keys.SPACE)
    assert 20 < found(other_page) < 30  # those beyond the middle in both directions
    points.send_keys(Keys.ENTER)
    assert other_page.find_element(By.ID, "viewer").is_displayed()


@pytest.mark.parametrize("name", ["map.npy", "unlike.npy"])
def test_what_evaluate_says_of_other_images_is_an_error(other_job, tmp_path, name):
    from stages.errors import UserError
    from stages.report.results import read_results

    shutil.copytree(other_job, tmp_path / "job")
    np.save(tmp_path / "job/reports/evaluation" / name, np.zeros((7, 2), np.float32))
    with pytest.raises(UserError, match="about other images"):
        read_results(tmp_path / "job")


# Suspected label errors, and how they are mended.


@pytest.fixture
def downloads(other_page, tmp_path):
    """Where the browser puts what it is told to save."""
    folder = tmp_path / "downloads"
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    other_page.execute_cdp_cmd("Page.setDownloadBehavior", behaviour)
    return folder


def saved_table(page, downloads):
    page.find_element(By.ID, "corrections-save").click()
    path = downloads / "corrections.csv"
    WebDriverWait(page, 5).until(lambda _: path.exists())
    return path


def counted(page):
    return page.find_element(By.ID, "corrections-count").text


def suspect_cards(page):
    return page.find_elements(By.CSS_SELECTOR, "#cards .card")


def decide(where, name):
    button = where.find_element(By.CSS_SELECTOR, f"[data-decide='{name}']")
    where.parent.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def find_image(page, path):
    page.find_element(By.ID, "everything").click()
    page.find_element(By.NAME, "path").send_keys(path)
    return tiles(page)[0]


def test_a_suspect_is_shown_with_both_classes_and_the_nearest_of_each(other_page):
    first, second, _ = suspect_cards(other_page)
    text = re.sub(r"\s+", " ", first.text)
    assert text.startswith(f"Given {RED}, suggested {BLUE} (train, score 0.0125) suspect ")
    titles = first.find_elements(By.CSS_SELECTOR, ".triple > div > span")
    assert [title.text for title in titles] == ["suspect", f"nearest {RED}", f"nearest {BLUE}"]
    pictures = first.find_elements(By.TAG_NAME, "img")
    assert [picture.get_property("naturalWidth") for picture in pictures] == [16] * 3
    assert len(second.find_elements(By.TAG_NAME, "img")) == 2  # of one class there is no neighbour
    said = other_page.find_element(By.ID, "suspects").text
    assert "3 images (train 1, test 2) whose class the model finds far less probable" in said
    assert "Test labels are never used to change training." in said
    assert "data/corrections.csv" in said
    assert "dvc repro" in said


def test_labels_are_mended_by_click_and_by_key_and_saved_as_the_pipelines_table(
    other_page, other_job, downloads, monkeypatch
):
    from stages.files import MANIFEST_COLUMNS
    from stages.store.corrections import correct, read_corrections

    first, second, third = suspect_cards(other_page)
    decide(first, "relabel")
    first.send_keys(Keys.ARROW_RIGHT)
    assert focused(other_page) == second
    second.send_keys("x", Keys.ARROW_RIGHT)
    assert focused(other_page) == third
    third.send_keys("k")
    assert counted(other_page) == (
        "1 label to correct, 1 image to remove, 1 label kept; 3 of 3 suspects looked at."
    )
    assert first.find_element(By.CLASS_NAME, "choice").text == f"{RED} becomes {BLUE}"
    for name in (GREEN, BLUE):
        Select(first.find_element(By.TAG_NAME, "select")).select_by_value(name)
        assert first.find_element(By.CLASS_NAME, "choice").text == f"{RED} becomes {name}"

    path = saved_table(other_page, downloads)
    header, *rows = csv.reader(path.open(encoding="utf-8", newline=""))
    assert header == ["id", "label", "who", "note", "path"]  # what the table has stays
    assert rows[:2] == [["0" * 16, "-", "Ann", "", ""], [ODD, "new:wolf", "", "", ""]]
    assert [f"00{3:014x}", BLUE, "", f"was {RED}", f"{RED_FOLDER}/train 3.jpg"] in rows

    lines, new = read_corrections(path)
    assert new == {"wolf"}
    index = (other_job / "data/processed/index.csv").open(encoding="utf-8", newline="")
    images = [[row.get(name, "") for name in MANIFEST_COLUMNS] for row in csv.DictReader(index)]
    columns = dict(zip(MANIFEST_COLUMNS, zip(*images, strict=True), strict=True))
    _, corrected = correct(pa.table(columns), lines, new, "the table")
    assert (corrected.relabelled, corrected.removed, corrected.moved) == (2, 2, 0)


def test_choices_outlive_a_reload_and_can_be_taken_back(other_page):
    decide(suspect_cards(other_page)[0], "relabel")
    suspect_cards(other_page)[1].send_keys("x")
    other_page.refresh()
    assert counted(other_page).startswith("1 label to correct, 1 image to remove;")
    suspect_cards(other_page)[0].send_keys("r")  # once more takes it back
    assert counted(other_page).startswith("1 image to remove;")
    pressed = ".decide [aria-pressed='true']"
    assert len(other_page.find_elements(By.CSS_SELECTOR, f"#cards {pressed}")) == 1
    other_page.find_element(By.ID, "corrections-drop").click()
    other_page.switch_to.alert.accept()
    assert not other_page.find_element(By.ID, "corrections").is_displayed()
    other_page.refresh()
    assert not other_page.find_elements(By.CSS_SELECTOR, pressed)


def test_any_image_is_mended_where_it_is_enlarged(other_page, downloads):
    find_image(other_page, "=1+1").click()
    viewer = other_page.find_element(By.ID, "viewer")
    focused(other_page).send_keys("r")  # nothing is suggested: a class must be chosen
    select = focused(other_page)
    assert select.tag_name == "select"
    path = other_page.find_element(By.ID, "viewer-path").text
    select.send_keys("bl")
    select.send_keys(Keys.ARROW_LEFT, Keys.ARROW_RIGHT)  # of the select, not to another image
    assert other_page.find_element(By.ID, "viewer-path").text == path
    assert f"becomes {BLUE}" in viewer.text
    viewer.send_keys(Keys.ESCAPE)
    assert f"becomes {BLUE}" in tiles(other_page)[0].text
    rows = list(csv.DictReader(saved_table(other_page, downloads).open(encoding="utf-8")))
    assert rows[-1]["path"] == './=1+1, "é\\x0a" 猫.jpg'  # no formula, quoted and one line
    assert rows[-1]["label"] == BLUE
    other_page.find_element(By.ID, "everything").click()
    choose(other_page, "mark", "decided by you")
    assert found(other_page) == 1


def test_suspects_are_found_among_all_images(other_page):
    other_page.find_element(By.ID, "everything").click()
    choose(other_page, "mark", "suspect")
    assert found(other_page) == 3
    find_image(other_page, f"{RED_FOLDER}/train 3.jpg").click()
    facts = other_page.find_element(By.ID, "viewer-facts").text
    assert f"given {RED}, suggested {BLUE}, score 0.0125" in facts
    assert f"Nearest {BLUE}" in facts


def test_what_was_looked_at_before_is_said(other_page):
    assert texts(other_page, "#cards .choice") == ["", "corrected before", "kept before"]
    decide(suspect_cards(other_page)[0], "keep")
    assert "2 of 3 suspects looked at" in counted(other_page)
    other_page.refresh()
    assert counted(other_page).startswith("1 label kept;")


def test_where_the_browser_keeps_nothing_the_page_works_and_says_so(other_page):
    blocked = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})"
    source = {"source": blocked}
    script = other_page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    other_page.refresh()
    decide(suspect_cards(other_page)[0], "remove")
    assert counted(other_page).endswith("keeps none of it: save before you leave the page.")
    other_page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    other_page.refresh()


def test_corrections_that_were_applied_are_counted_in_words(other_page):
    said = other_page.find_element(By.ID, "data").text
    assert "From data/corrections.csv: 12 labels corrected, 3 images removed." in said


def test_without_suspects_there_is_no_section(finished_job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_job, "job")
    header = ",".join(SUSPECTS_COLUMNS)
    (tmp_path / "job/reports/label_suspects.csv").write_text(f"{header}\n")
    assert 'id="suspects"' not in rendered(tmp_path / "job")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"{'f' * 16},a.jpg,x,{RED},test,0.1,,", "there is no image f"),
        (f"02{3:014x},a.jpg,x,elk,test,0.1,,", "there is no class elk"),
    ],
)
def test_suspects_of_other_data_are_an_error(finished_job, tmp_path, line, problem):
    from stages.errors import UserError

    shutil.copytree(finished_job, tmp_path / "job")
    text = f"{','.join(SUSPECTS_COLUMNS)}\n{line}\n"
    (tmp_path / "job/reports/label_suspects.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"label_suspects.csv is damaged .*{problem}"):
        rendered(tmp_path / "job")


def test_a_table_of_corrections_too_large_for_the_page_is_to_be_added_to(finished_job, tmp_path):
    shutil.copytree(finished_job, tmp_path / "job")
    lines = [f"{number:016x},-" for number in range(3000)]
    (tmp_path / "job/data/corrections.csv").write_text("\n".join(["id,label", *lines, ""]))
    html = rendered(tmp_path / "job", 600_000)
    assert "after the lines that are there" in html
    assert lines[-1].split(",")[0] not in html
    assert len(html.encode()) <= 600_000
    assert "after the lines that are there" not in rendered(finished_job)


def test_the_page_says_how_far_the_model_can_be_believed(other_page, other_job):
    trust = json.loads((other_job / "reports/scores.json").read_text(encoding="utf-8"))["trust"]
    calibration, sets, unlike = texts(other_page, ".trust li")
    assert f"{100 * trust['ece_before']:.1f} % before the temperature of" in calibration
    assert f"{100 * trust['coverage']:.1f} % hold the right class (95 % interval " in sets
    assert f"{100 * trust['coverage_high']:.1f} %; asked: 90.0 %" in sets
    assert f"with {trust['set_size']:.2f} classes on average" in sets
    assert "2.2 % of the test images are called so (asked: 1.0 %): farther than 0.75" in unlike


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        (0.2, "the most probable one, and every other of at least 20 %."),
        (0.9999, "the most probable one alone."),  # and no rounded "at least 100 %"
    ],
)
def test_the_page_says_what_a_prediction_set_holds(finished_job, tmp_path, threshold, said):
    shutil.copytree(finished_job, tmp_path, dirs_exist_ok=True)
    scores = json.loads((tmp_path / "reports/scores.json").read_text(encoding="utf-8"))
    scores["trust"]["set_threshold"] = threshold
    (tmp_path / "reports/scores.json").write_text(json.dumps(scores), encoding="utf-8")
    assert f"classes on average: {said}</li>" in rendered(tmp_path)


def test_an_enlarged_image_has_its_prediction_set_and_whether_it_is_unlike(other_page, other_job):
    with open(other_job / "reports/predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in (rows[0], max(rows[2:], key=lambda row: len(row["set"]))):
        find_image(other_page, row["path"]).click()
        facts = other_page.find_element(By.ID, "viewer-facts").text
        names = row["set"].replace("\\|", "\0").split("|")
        assert "Prediction set\n" + " or ".join(names).replace("\0", "|") in facts
        assert ("Unlike\nthe training images" in facts) == (row["unlike"] == "yes")
        focused(other_page).send_keys(Keys.ESCAPE)


# What gets a place on the page.


def test_a_small_page_has_a_fair_sample_of_images(finished_job, monkeypatch):
    from stages.report.images import NOT_JUDGED, facts, gallery
    from stages.report.results import read_results

    monkeypatch.chdir(finished_job)
    results = read_results()
    images = gallery(results)
    assert len(images) == 180
    assert len(set(zip(images.sides.tolist(), images.at.tolist(), strict=True))) == 180
    assert len(set(zip(images.sides[:12].tolist(), images.labels[:12].tolist(), strict=True))) == 12
    flagged = set(results.places.values())
    first = 12 + 2 * len(flagged)
    assert flagged <= set(
        zip(images.sides[:first].tolist(), images.at[:first].tolist(), strict=True)
    )

    judged = images.predicted != NOT_JUDGED
    wrong = np.flatnonzero(judged & (images.predicted != images.labels))
    pairs = 3 * images.labels[wrong] + images.predicted[wrong]
    half = len(wrong) // 2
    whole, beginning = (np.bincount(part, minlength=9) for part in (pairs, pairs[:half]))
    assert np.abs(beginning - whole * half / len(wrong)).max() <= 2

    known = facts(results, images, room=2_000)
    assert 0 < len(known["path"]) < known["total"] == 180
    assert {len(known[name]) for name in ("side", "label", "predicted", "confidence")} == {
        len(known["path"])
    }


@pytest.mark.parametrize("shape", [(16, 16, 3), (28, 28, 1), (300, 200, 3)])
def test_pictures_share_their_beginning_and_keep_to_the_room(tmp_path, shape):
    import base64
    import io

    from PIL import Image

    from stages.report.images import SMALL, thumbnails
    from stages.store.processed import Pixels

    levels = np.linspace(0, 250, 40).astype(np.uint8)
    np.save(
        tmp_path / "images-00000.npy", np.broadcast_to(levels[:, None, None, None], (40, *shape))
    )
    start, *pictures = thumbnails(Pixels(tmp_path), np.arange(40)[::-1], 10_000)
    assert len(start) + sum(len(picture) + 1 for picture in pictures) <= 10_000
    for picture, level in zip(pictures, levels[::-1], strict=False):
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(start + picture))))
        assert max(decoded.shape[:2]) == min(SMALL, max(shape[:2]))
        assert np.abs(decoded.astype(int) - level).max() <= 2
    assert len(pictures) > 5


def test_the_page_keeps_to_its_size_and_has_the_same_bytes_every_time(finished_job):
    whole = rendered(finished_job)
    assert whole == rendered(finished_job)
    small = rendered(finished_job, len(whole.encode()) - 20_000)
    assert len(small.encode()) <= len(whole.encode()) - 20_000
    assert small.endswith("</html>")
