"""The pages in a real browser: nothing is requested, nothing fails, and mouse and keyboard do what they say.

Needs Chromium with its driver (Debian: chromium and chromium-driver) and selenium; without them it is skipped.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.reporting.test_architecture_series import RECIPE, row, states
from tests.unit.reporting.test_html import PARTS, retrain_row

from topocell.reporting.comparison import write_comparison
from topocell.reporting.html import write_report

DECISION = {"decided": "0→2", "kept": "sep_conv_3x3", "accuracy without": {"sep_conv_3x3": 0.2, "skip_connect": 0.3}}
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One session of headless Chromium for all tests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a run with all that a report can have, and a comparison of it with another."""
    folder = tmp_path_factory.mktemp("pages")
    first, second = states()
    cells = [
        {"inputs": 2, "nodes": [[["skip_connect", 0], ["skip_connect", 1]], [[op, 0], [op, 1]]], "concat": [2, 3]}
        for op in ("sep_conv_3x3", "max_pool_3x3", "dil_conv_3x3")
    ]
    rows = [row(first, 0, 0), row(first, 0, 1), row(second, 2, 0)]
    for record, cell in zip(rows, cells, strict=True):
        figures = {"train_loss": 1.0, "val_loss": 1.1, "gap": {"soft": 0.5, "derived": 0.4}}
        operations = {kind: {"skip_connect": 2, "sep_conv_3x3": 2} for kind in ("normal", "reduce")}
        record |= {**figures, "derived": {"normal": cell, "reduce": cell}, "operations": operations}
    rows += [{"phase": "select", "cell": "normal", **DECISION}]
    rows += [retrain_row(seed, epoch) for seed in range(3) for epoch in range(3)]
    found = {}
    for name in ("run", "other"):
        path = folder / "runs" / name
        path.mkdir(parents=True)
        for file, text in PARTS.items():
            (path / file).write_text(text)
        (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rows))
        recipe = {**RECIPE, "seed": 3} if name == "run" else {**RECIPE, "name": "other"}
        (path / "recipe.yaml").write_text(json.dumps(recipe))
        found[name] = write_report(path)
    return {"run": found["run"], "comparison": write_comparison([folder], folder / "side.html")}


def load(browser: Any, page: Path, size: str = "wide", theme: str = "light", fragment: str = "") -> None:
    """Open a page on an empty log."""
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = SIZES[size]
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "narrow"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri() + fragment)
    # A page that replaces its own address while it loads may seem loaded to the driver before its scripts have run.
    loaded = f"document.readyState === 'complete' && location.href.startsWith({json.dumps(page.as_uri())})"
    WebDriverWait(browser, 60, 0.02).until(lambda _: told(browser, loaded))


def requested(browser: Any) -> list[str]:
    """The addresses that the page asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def told(browser: Any, script: str) -> Any:
    return browser.execute_script(f"return {script}")


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


@pytest.mark.parametrize("name", ["run", "comparison"])
@pytest.mark.parametrize("size", SIZES)
def test_pages_draw_their_charts_ask_for_nothing_and_fit(
    browser: Any, pages: dict[str, Path], name: str, size: str
) -> None:
    load(browser, pages[name], size)
    charts = told(
        browser, "Array.from(document.querySelectorAll('.charts')).map(f => f.querySelectorAll('svg').length)"
    )
    assert len(charts) >= 2 and all(charts)
    assert told(browser, "document.documentElement.scrollWidth <= innerWidth")
    assert browser.get_log("browser") == []
    assert requested(browser) == [pages[name].as_uri()]
    assert told(browser, "document.querySelectorAll('.cell .drawing svg').length") >= 4


def test_a_foreign_script_and_a_foreign_image_are_kept_out(browser: Any, pages: dict[str, Path]) -> None:
    load(browser, pages["run"])
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.foreign = 1'; document.body.append(s);"
        "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
    )
    assert told(browser, "window.foreign") is None
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert sum("Content Security Policy" in text for text in refused) == 2


def test_tabs_take_mouse_and_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    load(browser, pages["run"])
    visible = "Array.from(document.querySelectorAll('section.tab')).filter(s => !s.hidden).map(s => s.id)"
    names = told(browser, "Array.from(document.querySelectorAll('[role=tab]')).map(b => b.textContent)")
    assert names == ["Result", "Search", "Selection", "Retraining", "Record"] and told(browser, visible) == ["result"]
    browser.find_element(By.ID, "tab-selection").click()
    assert told(browser, visible) == ["selection"] and told(browser, "location.hash") == "#selection"
    press(browser, Keys.ARROW_RIGHT)
    assert told(browser, visible) == ["retraining"] and told(browser, "document.activeElement.id") == "tab-retraining"
    press(browser, Keys.END, Keys.ARROW_RIGHT)
    assert told(browser, visible) == ["result"]
    load(browser, pages["run"], fragment="#search")
    assert told(browser, visible) == ["search"]


def test_the_slider_replays_weights_sets_of_edges_and_cells(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    load(browser, pages["run"], fragment="#search")
    first, second = states()
    shades = "Array.from(document.querySelectorAll('.heat')[0].querySelectorAll('title')).map(t => t.textContent)"
    operations = (
        "Array.from(document.querySelector('#replayed .drawing').querySelectorAll('text')).map(t => t.textContent)"
    )
    bars = "Array.from(document.querySelectorAll('.bars')[0].querySelectorAll('h5')).map(t => t.textContent)"
    assert told(browser, "document.getElementById('when').textContent") == "Epoch 3 of 3 · topology"
    assert told(browser, operations).count("dil 3×3") == 2 and told(browser, bars) == ["into node 3"]
    weight = torch.softmax(second.alpha["normal"][0][:2] / 0.05, 0)[0].item()
    gate = f"0→2 edge: {0.5}"
    assert f"0→2 none: {float(f'{weight:.3g}'):.4g}" in told(browser, shades) and gate in told(browser, shades)
    browser.find_element(By.ID, "epoch").click()
    press(browser, Keys.HOME)
    assert told(browser, "document.getElementById('when').textContent") == "Epoch 1 of 3 · operations"
    assert told(browser, operations).count("sep 3×3") == 2 and told(browser, bars) == []
    weight = torch.softmax(first.alpha["normal"][0][:4], 0)[0].item()
    assert f"0→2 none: {float(f'{weight:.3g}'):.4g}" in told(browser, shades) and gate not in told(browser, shades)
    press(browser, Keys.ARROW_RIGHT)
    assert told(browser, operations).count("max 3×3") == 2
    assert (
        told(browser, "document.getElementById('epoch').getAttribute('aria-valuetext')") == "Epoch 2 of 3 · operations"
    )


def test_the_replay_plays_by_itself_and_stops_at_the_end(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    load(browser, pages["run"], fragment="#search")
    browser.find_element(By.ID, "play").click()
    assert told(browser, "document.getElementById('when').textContent") == "Epoch 1 of 3 · operations"
    assert told(browser, "document.getElementById('play').textContent") == "Pause"
    WebDriverWait(browser, 20, 0.1).until(
        lambda _: told(browser, "document.getElementById('play').textContent") == "Play"
    )
    assert told(browser, "document.getElementById('when').textContent") == "Epoch 3 of 3 · topology"


def test_decisions_show_every_candidate_and_what_was_kept(browser: Any, pages: dict[str, Path]) -> None:
    load(browser, pages["run"], fragment="#selection")
    titles = told(browser, "Array.from(document.querySelectorAll('#decisions title')).map(t => t.textContent)")
    assert sorted(titles) == ["1. normal 0→2, sep 3×3: 20", "1. normal 0→2, skip: 30"]
    words = told(browser, "document.getElementById('decisions').textContent")
    assert "Further left: the supernet loses more without it." in words


def test_the_theme_is_that_of_the_reader_and_paper_shows_everything(browser: Any, pages: dict[str, Path]) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    stroke = "getComputedStyle(document.querySelector('.panel g[aria-label=line] path')).stroke"
    found = {}
    for theme in ("light", "dark"):
        load(browser, pages["run"], theme=theme)
        found[theme] = told(browser, f"[{background}, {stroke}]")
    assert found["light"][0] == "rgb(246, 247, 249)" and found["dark"][0] == "rgb(20, 24, 29)"
    assert found["light"][1] != found["dark"][1]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "Array.from(document.querySelectorAll('section.tab')).map(s => getComputedStyle(s).display)"
    assert set(told(browser, shown)) == {"block"} and told(browser, background) == "rgb(255, 255, 255)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_wide_drawing_on_a_narrow_screen_says_that_it_scrolls(browser: Any, pages: dict[str, Path]) -> None:
    load(browser, pages["run"], "narrow")
    first = "document.querySelector('.cell .drawing')"
    assert told(browser, f"{first}.scrollWidth > {first}.clientWidth")
    assert told(browser, f"getComputedStyle({first}.nextElementSibling).display") == "block"
    assert told(browser, f"{first}.tabIndex") == 0
    load(browser, pages["run"], "wide")
    assert told(browser, f"getComputedStyle({first}.nextElementSibling).display") == "none"


def test_cells_and_tables_are_there_without_scripts(browser: Any, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        load(browser, pages["run"])
        tree = browser.execute_cdp_cmd("DOMSnapshot.captureSnapshot", {"computedStyles": []})
        texts = set(tree["strings"])
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert {"Scripts are off: cells, tables and numbers are complete, charts and the replay are left out."} <= texts
    assert {"Normal cell  ·  depth 2, 4 edges", "97.10 ± 0.10 %"} <= texts
