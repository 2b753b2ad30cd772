"""reports/report.html in a browser: what a person can see, click and reach by keyboard."""

import re
from itertools import pairwise

import pytest
from factory import COLOUR_CLASSES
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

RED, GREEN, BLUE = COLOUR_CLASSES


@pytest.fixture
def page(browser, finished_job):
    """The page of the finished job, open at 1200 x 900; fails if the console shows an error."""
    browser.set_window_size(1200, 900)
    browser.get((finished_job / "reports/report.html").as_uri())
    yield browser
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert not errors


def texts(page, selector):
    return [element.text for element in page.find_elements(By.CSS_SELECTOR, selector)]


def shown_mistakes(page):
    """(actual, predicted) of the mistakes in the gallery that are visible."""
    items = page.find_elements(By.CSS_SELECTOR, "#gallery > li")
    return [
        tuple(
            item.find_element(By.CSS_SELECTOR, f".{part}").get_attribute("textContent")
            for part in ("is", "not")
        )
        for item in items
        if item.is_displayed()
    ]


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
    assert texts(page, "#class-table tbody th") == COLOUR_CLASSES
    assert page.find_elements(By.CSS_SELECTOR, "b, i") == []  # from <b>red</b>, <i>broken</i>.jpg
    page.find_element(By.XPATH, "//summary[contains(., 'could not be read')]").click()
    assert "<i>broken</i>.jpg" in page.find_element(By.ID, "data").text


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
    f1 = dict(zip(COLOUR_CLASSES, texts(page, "#class-table td:nth-child(2)"), strict=True))
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


def test_the_matrix_works_by_keyboard_and_leads_to_the_mistakes(page):
    assert len(page.find_elements(By.CSS_SELECTOR, "#matrix td[tabindex='0']")) == 1
    cell(page, 0, 0).send_keys(Keys.ARROW_DOWN)
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.switch_to.active_element == cell(page, 1, 2)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert set(shown_mistakes(page)) == {(GREEN, BLUE)}
    assert page.switch_to.active_element.get_attribute("id") == "gallery-actual"


def test_the_gallery_filters_by_actual_and_predicted(page):
    everything = shown_mistakes(page)
    wrong = page.execute_script("return data.wrong.reduce((sum, cell) => sum + cell[2], 0)")
    assert len(everything) == wrong
    Select(page.find_element(By.ID, "gallery-actual")).select_by_visible_text(RED)
    assert shown_mistakes(page) == [pair for pair in everything if pair[0] == RED]
    Select(page.find_element(By.ID, "gallery-predicted")).select_by_visible_text(GREEN)
    expected = [pair for pair in everything if pair == (RED, GREEN)]
    assert shown_mistakes(page) == expected
    status = page.find_element(By.ID, "gallery-status")
    assert status.text.startswith(f"{len(expected)} of {len(expected)} mistake")
    assert status.get_attribute("role") == "status"
    page.find_element(By.ID, "gallery-reset").click()
    assert shown_mistakes(page) == everything


def test_a_frequent_confusion_leads_to_its_mistakes(page):
    first = page.find_element(By.CSS_SELECTOR, "#confusion tbody button.show")
    row = first.find_element(By.XPATH, "./ancestor::tr")
    actual, predicted, count = [td.text for td in row.find_elements(By.TAG_NAME, "td")[:3]]
    first.click()
    assert shown_mistakes(page) == [(actual, predicted)] * int(count)


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


@pytest.mark.parametrize("width", [390, 500, 1200])
def test_the_page_fits_the_window(page, width):
    page.set_window_size(width, 900)
    wide, window = page.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= window


def test_on_a_telephone_names_in_tables_do_not_fall_into_letters(page):
    page.set_window_size(390, 900)
    for cell in page.find_elements(By.CSS_SELECTOR, "#confusion .sortable td:not(.n)"):
        assert cell.size["width"] >= 80, cell.text
    for button in page.find_elements(By.CSS_SELECTOR, "#confusion td button"):
        assert button.size["height"] < 40
    page.set_window_size(1200, 900)


def test_a_screen_reader_finds_its_way(page):
    missing = page.execute_script(
        """
        const unnamed = (selector, named) =>
          [...document.querySelectorAll(selector)].filter((e) => !named(e)).map((e) => e.outerHTML);
        return [
          unnamed("img", (e) => e.hasAttribute("alt")),
          unnamed("select, button", (e) => e.labels?.length || e.textContent.trim()),
          unnamed("figure", (e) => e.getAttribute("aria-label")),
          unnamed("th", (e) => e.scope || e.closest("#matrix")),
          unnamed("[tabindex='0']:not(td)", (e) => e.getAttribute("aria-label")),
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
    assert "train.epochs" in texts(page, "#settings tbody th")
    assert "dvc repro" in page.find_element(By.ID, "reproduce").text


def test_near_duplicates_are_shown_side_by_side(page):
    near = page.find_element(By.ID, "near")
    assert near.find_element(By.TAG_NAME, "summary").text.endswith("different sides: 1")
    (pair,) = near.find_elements(By.TAG_NAME, "li")
    pictures = pair.find_elements(By.TAG_NAME, "img")
    assert [p.get_attribute("alt") for p in pictures] == ["<i>copy</i>.jpg", "train/0.jpg"]
    assert all(p.get_property("naturalWidth") == 16 for p in pictures)
    shown = [span.text for span in pair.find_elements(By.CSS_SELECTOR, ".triple span")]
    assert shown == [f"test: {RED}", f"train: {RED}"]
    assert "distance 0.0012" in pair.text
