"""The HTML report: as a file, and in a real browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.halbench import ObjectHalBench
from benchmarks.pope import POPE
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json, write_jsonl
from harness.core.types import Response
from harness.evaluation.score import item_rows, score_suite, write_scores
from harness.records.item_files import ItemRow, PieceRow
from harness.reports import write_report
from harness.reports.gather import SuiteSamples, together
from harness.runs.folders import Run, open_run
from tests.scored_runs import make_run as make_scored
from tests.tiny import tiny_photograph

EVIL = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"> a dog & a "horse" ]]>'
COUNT = 60


def data_folder(folder: Path) -> Path:
    """A benchmark data root: Object HalBench and POPE on three pictures."""
    for suite in ("halbench", "pope"):
        (folder / suite / "images").mkdir(parents=True)
        for number in range(3):
            tiny_photograph(folder / suite / "images" / f"{number}.png", number)
    annotations = folder / "halbench" / "annotations"
    annotations.mkdir()
    boxes = [{"image_id": n, "category_id": 1} for n in range(COUNT)]
    write_json(annotations / "instances_val2014.json", {"categories": [{"id": 1, "name": "dog"}], "annotations": boxes})
    write_json(
        annotations / "captions_val2014.json", {"annotations": [{"image_id": n, "caption": ""} for n in range(COUNT)]}
    )
    rows = [{"image_id": n, "question": f"Describe {n}.", "image": f"{n % 3}.png"} for n in range(COUNT)]
    write_jsonl(folder / "halbench" / "obj_halbench_300_with_image.jsonl", rows)
    questions = [
        {"question_id": n, "image": f"{n % 3}.png", "text": "A dog?", "label": ["yes", "no"][n % 2]} for n in range(12)
    ]
    write_jsonl(folder / "pope" / "coco_pope_random.json", questions)
    return folder


def make_run(results: Path, data: Path, name: str, said: dict[int, str], kind: str = "align") -> Run:
    """A scored run that says "A dog." but where `said` has something else, and "Yes" to every question."""
    about = {
        "target": name,
        "method": name,
        "model": "m",
        "data": "here",
        "source": str(data),
        "serving": {"backend": "none", "device": "none"},
        "sampling": {"max_new_tokens": 9},
    }
    for benchmark in (ObjectHalBench(), POPE()):
        items = benchmark.items(data / benchmark.name)
        answers = {
            item.id: Response(item.id, "Yes" if benchmark.name == "pope" else said.get(n, "A dog."))
            for n, item in enumerate(items)
        }
        record, scores = score_suite(benchmark, items, answers, about=about)
        write_scores(results / name / "evals" / f"{benchmark.name}@here", record, item_rows(items, answers, scores))
    write_json(results / name / "manifest.json", {"kind": kind, "name": name, "base": {"label": "m"}})
    log = [{"stage": "all", "step": step, "margin": step / 10} for step in range(1, 8)]
    write_jsonl(results / name / "train_log.jsonl", log)
    return open_run(results / name)


REJECTED = {
    "id": "7",
    "prompt": EVIL,
    "chosen": "A dog.",
    "original": "image_preferences/00-original.png",
    "rejected": "image_preferences/00-rejected.png",
    "keywords": ["dog", "<frisbee>"],
    "corruption": "diffusion",
    "step": 500,
}


def with_rejected_images(run: Run, rows: Sequence[Mapping[str, Any]]) -> Run:
    """The run with a sample of rejected images, as MFPO keeps one."""
    folder = run.path / "image_preferences"
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(("00-original.png", "00-rejected.png")):
        tiny_photograph(folder / name, number)
    write_jsonl(run.path / "image_preferences.jsonl", rows)
    notes = {"regions": 900, "whole-image": 99, "given": 1, "samples": "image_preferences.jsonl"}
    manifest = {"kind": "align", "name": run.name, "base": {"label": "m"}}
    write_json(run.path / "manifest.json", manifest | {"summary": {"prepared": {"image_preferences": notes}}})
    return open_run(run.path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("report")
    data = data_folder(folder / "data")
    inventions = dict.fromkeys(range(0, COUNT, 2), "A dog and a horse 🐎 and a dog.")
    return [
        with_rejected_images(make_run(folder / "results", data, "aligned", {1: EVIL}), [REJECTED]),
        make_run(folder / "results", data, "base", inventions, "base"),
    ]


@pytest.fixture(scope="module")
def page(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    about = write_report(runs, path)
    assert about["samples"] == about["of"] == COUNT + 12 and not about["left_out"]
    return path


def embedded(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def test_the_file_stands_alone_and_says_what_was_said_as_text(page: Path) -> None:
    text = page.read_text()
    assert "default-src &#39;none&#39;" in text and not re.search(r"https?://", text)
    assert EVIL not in text and "<script>document" not in text
    data = embedded(page)
    assert next(s for s in data["samples"] if s["id"] == "halbench[spacy]@here/1#1")["answers"][1]["text"] == EVIL
    assert text.count("<script") == 2 and "style=" not in text


def test_samples_say_what_they_must(page: Path) -> None:
    data = embedded(page)
    sample = next(one for one in data["samples"] if one["id"] == "halbench[spacy]@here/0#0")
    assert [answer["run"] for answer in sample["answers"]] == ["base", "aligned"], "the base model comes first"
    base, aligned = sample["answers"]
    assert (base["verdict"], aligned["verdict"], sample["changed"]) == ("invented", "clean", True)
    assert base["wrong"] == ["horse"] and sample["truth"] == "objects: dog"
    marked = [(base["text"][start:end], kind) for start, end, kind, _ in base["marks"]]
    assert marked == [("dog", "correct"), ("horse", "hallucinated"), ("dog", "correct")]
    assert data["pictures"][sample["picture"]].startswith("data:image/webp;base64,")
    assert len(data["pictures"]) == 3, "a picture is in the report once"
    question = next(one for one in data["samples"] if one["id"] == "pope@here/random/1")
    assert question["answers"][0]["verdict"] == "wrong: false yes" and not question["changed"]
    assert question["truth"] == "no"


def test_equally_frequent_pairs_have_an_order() -> None:
    """A set's order of texts differs from process to process, and with it would the chart."""
    labels = [f"object {n:02}" for n in range(20)]
    evidence = [PieceRow(label, verdict, label, None) for label in labels for verdict in ("hallucinated", "correct")]
    row = ItemRow("1", "1", "What?", "", {}, evidence, {})  # type: ignore[arg-type]
    suite = SuiteSamples("s", "d", "", {"run": {"1": row}})
    assert list(together(suite, "run")) == [(one, other) for one in labels for other in labels]


def test_a_larger_set_is_sampled_and_says_so(runs: list[Run], tmp_path: Path) -> None:
    about = write_report(runs, tmp_path / "report.html", most=55)
    assert about["of"] == COUNT + 12 and about["samples"] == 50 + 12
    assert "A seeded sample of 62 of 72 is shown." in (tmp_path / "report.html").read_text()


def test_what_is_missing_is_said(runs: list[Run], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(runs[0].path.parent, results)
    for path in results.glob("*/evals/pope@here/items.jsonl"):
        path.unlink()
    for path in results.glob("*/evals/halbench@here/scores-spacy.json"):
        write_json(path, json.loads(path.read_text()) | {"source": str(tmp_path / "gone")})
    (results / "empty").mkdir()
    write_json(results / "empty" / "manifest.json", {"kind": "align", "base": {"label": "m"}})
    about = write_report([open_run(results / name) for name in ("aligned", "base", "empty")], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "empty: nothing was scored" in about["left_out"] and "empty: nothing was scored" in text
    assert "items.jsonl is missing" in text and "cannot be read" in text
    with pytest.raises(BadInputError, match="no runs"):
        write_report([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_rejected_images_stand_beside_the_original(runs: list[Run], tmp_path: Path) -> None:
    shutil.copytree(runs[0].path.parent, tmp_path / "results")
    aligned = with_rejected_images(open_run(tmp_path / "results" / "aligned"), [REJECTED])
    about = write_report([aligned, open_run(tmp_path / "results" / "base")], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    section = text[text.index('<section id="rejected">') :]
    assert not about["left_out"] and "aligned: 1 of 1,000 training examples" in section
    assert (
        section.count('<img src="data:image/webp;base64,') == 2
        and "corrupted: dog, &lt;frisbee&gt; (diffusion, t = 500, schedule ddpm)" in section
    )
    assert EVIL not in text and text.count("<script") == 2 and 'href="#rejected"' in text
    for wrong, said in (
        ({"rejected": "../../../etc/passwd"}, "outside the run's folder"),
        ({"original": "image_preferences/none.png"}, "does not exist"),
        ({"chosen": None}, "chosen: this is not a text"),
    ):
        write_jsonl(aligned.path / "image_preferences.jsonl", [REJECTED | wrong])
        about = write_report([aligned], tmp_path / "report.html")
        [reason] = about["left_out"]
        assert said in reason and said in (tmp_path / "report.html").read_text().replace("&#39;", "'")
    assert 'id="rejected"' not in (tmp_path / "report.html").read_text()


def test_odd_sets_are_shown(tmp_path: Path) -> None:
    plain = tmp_path / "results"
    make_scored(plain, "one", ["A dog and a cat."], data="single")
    make_scored(plain, "silent", ["Nothing to see here."] * 20, method="base")
    make_scored(plain, "wrong", ["A dog and a cat."] * 20)
    about = write_report([open_run(plain / name) for name in ("one", "silent", "wrong")], tmp_path / "report.html")
    assert about["samples"] == 21
    text = re.sub(r"base64,[^\"']*", "", (tmp_path / "report.html").read_text())
    assert not re.search(r"\b(nan|NaN|inf|Infinity)\b", text)
    assert "undefined: the denominator is 0 on these items" in text and "rule of three" in text


def shows(browser: Any, text: str) -> bool:
    """Whether the line above the samples comes to say this, of a list that waits for no change of the settings."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    settled = """const list = document.getElementById("list");
        return list?.ariaBusy === "false" ? document.getElementById("count").textContent : null;"""
    with contextlib.suppress(TimeoutException):
        WebDriverWait(browser, 30, 0.05).until(lambda driver: driver.execute_script(settled) == text)
    last = browser.execute_script(settled)
    assert last == text, f"it says '{last}'"
    return True


def visible_texts(browser: Any, selector: str) -> list[str]:
    """What the elements of this selector say, read in one step: an element that is held while the page draws its list anew is stale."""
    script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent.trim())"
    return list(browser.execute_script(script, selector))


def choose(browser: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("name", name)).select_by_value(value)


@pytest.mark.slow
def test_in_a_browser(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    assert shows(browser, "72 of 72 samples") and browser.title == "Hallucination report"
    assert len(browser.find_elements("css selector", ".sample")) >= 40
    choose(browser, "verdict", "invented")
    assert shows(browser, "31 of 72 samples")
    choose(browser, "verdict", "✗")
    assert shows(browser, "37 of 72 samples")
    choose(browser, "run", "aligned")
    assert shows(browser, "7 of 72 samples")
    choose(browser, "run", "")
    choose(browser, "object", "horse")
    choose(browser, "verdict", "")
    assert shows(browser, "31 of 72 samples")
    assert visible_texts(browser, ".sample mark.hallucinated")[:1] == ["horse ✗"]
    choose(browser, "object", "")
    choose(browser, "changed", "same")
    assert shows(browser, f"{72 - 31} of 72 samples")
    choose(browser, "changed", "")
    body = browser.find_element("tag name", "body")
    body.send_keys("/")
    browser.switch_to.active_element.send_keys("owned")
    assert shows(browser, "1 of 72 samples")
    assert EVIL in browser.find_element("css selector", ".sample .answers").get_attribute("textContent").replace(
        " ✗", ""
    ).replace(" ✓", "")
    assert browser.title == "Hallucination report", "a response was run"

    browser.find_element("link text", "Rejected images").click()
    pictures = browser.find_elements("css selector", "#rejected img")
    assert len(pictures) == 2 and all(one.get_property("naturalWidth") > 0 for one in pictures)
    top = browser.execute_script("return document.getElementById('rejected').getBoundingClientRect().top")
    assert abs(top) < 40, "the link leads to the section"

    browser.get(page.as_uri() + "#halbench%5Bspacy%5D%40here%2F58%2358")
    browser.refresh()
    shows(browser, "72 of 72 samples")
    assert browser.switch_to.active_element.get_attribute("id") == "halbench[spacy]@here/58#58"
    browser.switch_to.active_element.send_keys("k")
    assert browser.switch_to.active_element.get_attribute("id") == "halbench[spacy]@here/57#57"
    browser.switch_to.active_element.send_keys(Keys.TAB)
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


@pytest.mark.slow
def test_order_comparison_address_and_export_in_a_browser(browser: Any, page: Path, tmp_path: Path) -> None:
    browser.get("about:blank")
    browser.get(page.as_uri())
    shows(browser, "72 of 72 samples")
    data = embedded(page)["samples"]
    choose(browser, "order", "wrong")
    choose(browser, "verdict", "invented")
    shows(browser, "31 of 72 samples")
    most = max(len(answer["wrong"]) for sample in data for answer in sample["answers"])
    first = browser.find_element("css selector", ".sample").get_attribute("id")
    (sample,) = [sample for sample in data if sample["id"] == first]
    assert max(len(answer["wrong"]) for answer in sample["answers"]) == most
    assert "verdict=invented" in browser.current_url and "order=wrong" in browser.current_url

    # A link with the settings shows the same list, in a new page and in this one.
    address = browser.current_url
    browser.get("about:blank")
    browser.get(address)
    shows(browser, "31 of 72 samples")
    browser.execute_script("location.hash = '#?search=owned&suite=absent'")
    shows(browser, "1 of 72 samples")
    assert visible_texts(browser, ".sample .hit")[:1] == ["owned"]
    browser.execute_script("location.hash = '#?'")
    shows(browser, "72 of 72 samples")

    # Two checkpoints: words that only one of them says are marked.
    choose(browser, "left", "base")
    choose(browser, "right", "aligned")
    choose(browser, "changed", "changed")
    shows(browser, "31 of 72 samples")
    (sample,) = [
        one for one in data if one["id"] == browser.find_element("css selector", ".sample").get_attribute("id")
    ]
    texts = {answer["run"]: answer["text"].split() for answer in sample["answers"]}
    boxes = browser.find_element("css selector", ".sample").find_elements("css selector", ".answer")
    assert [box.find_element("css selector", "h4 span").text for box in boxes] == ["base", "aligned"]
    for box, name, other in zip(boxes, ("base", "aligned"), ("aligned", "base"), strict=True):
        only = " ".join(part.text for part in box.find_elements("css selector", ".only")).split()
        assert only == [word for word in texts[name] if word not in texts[other]]
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.find_element("name", "save").click()
    saved = tmp_path / "answers.jsonl"
    for _ in range(200):
        if saved.exists():
            break
        time.sleep(0.05)
    rows = [json.loads(line) for line in saved.read_text().splitlines()]
    assert len(rows) == 2 * 31 and {row["checkpoint"] for row in rows} == {"base", "aligned"}
    by_id = {(sample["id"], answer["run"]): answer for sample in data for answer in sample["answers"]}
    assert all(by_id[row["id"], row["checkpoint"]]["text"] == row["text"] for row in rows)
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


def test_the_report_says_where_its_numbers_come_from(page: Path, runs: list[Run], tmp_path: Path) -> None:
    text = page.read_text()
    section = text[text.index('<section id="provenance">') : text.index('<section id="samples">')]
    assert "halbench (here)" in section and "<td>60 of 60</td>" in section
    about = {"finished": "2026-11-26T10:47:00", "harness": "9.9", "commit": "abc", "command": ["harness", "align", "<b>"],
             "hardware": {"gpus": [], "cores": 2}}  # fmt: skip
    config = {"method": "some-method", "data": "some-data", "settings": {"train": {"seed": 41, "learning_rate": 3e-5}}}
    run = open_run(Path(shutil.copytree(runs[0].path, tmp_path / "one")))
    write_json(run.path / "manifest.json", read_json(run.path / "manifest.json") | about | {"config": config})
    write_report([open_run(run.path)], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    cells = ("2026-11-26 10:47", "9.9 abc", "some-method", "some-data", "41", "2 cores", "harness align &lt;b&gt;")
    assert all(f"<td>{cell}</td>" in text for cell in cells) and "learning_rate: 3.0e-05" in text


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1280, 900), (390, 800)], ids=["desktop", "phone"])
def test_pictures_are_enlarged_and_heads_of_tables_stay_in_a_browser(
    browser: Any, page: Path, size: tuple[int, int]
) -> None:
    from selenium.webdriver.common.keys import Keys

    def is_open() -> bool:
        return bool(browser.execute_script("return document.querySelector('dialog').open"))

    browser.set_window_size(*size)
    browser.get("about:blank")
    browser.get(page.as_uri())
    shows(browser, "72 of 72 samples")
    button = browser.find_element("css selector", ".sample .zoom")
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", button)
    small = button.find_element("tag name", "img").rect
    button.click()
    large = browser.find_element("css selector", "dialog img").rect
    inner = browser.execute_script("return [window.innerWidth, window.innerHeight]")
    assert is_open() and large["width"] > small["width"]
    assert large["width"] <= inner[0] and large["height"] <= inner[1], "the whole picture is in the window"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not is_open()
    assert "zoom" in browser.switch_to.active_element.get_attribute("class"), "the focus returns to the picture"
    browser.switch_to.active_element.send_keys("z")
    assert is_open()
    browser.find_element("css selector", "dialog img").click()
    assert not is_open()

    places = browser.execute_script(
        """const box = document.querySelector(".scroll"), head = box.querySelector("thead th:nth-child(2)");
        const name = box.querySelector("tbody th");
        box.style.maxHeight = "90px"; box.style.width = "200px";
        box.scrollTop = 60; box.scrollLeft = 60;
        const frame = box.getBoundingClientRect();
        const gaps = [head.getBoundingClientRect().top - frame.top, name.getBoundingClientRect().left - frame.left];
        return [gaps, box.scrollTop, box.scrollLeft];"""
    )
    assert places[1:] == [60, 60] and places[0] == pytest.approx([0, 0], abs=1), "heads stay when the table is scrolled"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1280, 900), (390, 800)])
def test_it_is_accessible_and_fits(browser: Any, page: Path, size: tuple[int, int]) -> None:
    from axe_selenium_python import Axe

    browser.set_window_size(*size)
    browser.get(page.as_uri())
    shows(browser, "72 of 72 samples")
    wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, f"the page is {wide} pixels too wide"
    axe = Axe(browser)
    axe.inject()
    found = axe.run()["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not serious, json.dumps([(one["id"], one["nodes"][0]["html"][:200]) for one in serious], indent=1)
