"""The backend for endpoints, against local servers that fail as real ones do: every item answered once, every refusal said clearly."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from harness.core.errors import BadInputError, HarnessError
from harness.core.files import write_json
from harness.core.types import ImageRef
from harness.remote.endpoint import KEY_VARIABLE
from harness.serving.base import Completion, Request, Sampling
from harness.serving.openai import OpenAIBackend, OpenAISettings, data_url
from tests.commands import harness
from tests.harness.serving.fake_vision import SECRET, TROUBLES, VisionServer, expected, seeing, small_pope
from tests.tiny import tiny_photograph


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRef]:
    folder = tmp_path_factory.mktemp("pictures")
    return [ImageRef(path=tiny_photograph(folder / f"{seed}.png", seed)) for seed in range(20)]


def questions(pictures: list[ImageRef], count: int) -> list[Request]:
    """So many questions about every picture."""
    sampling = Sampling(max_new_tokens=9)
    return [
        Request(f"{number}/{question}", "base", f"question {question}?", picture, sampling)
        for number, picture in enumerate(pictures)
        for question in range(count)
    ]


def ask(requests: list[Request], *servers: VisionServer, model: str = "seer", **settings: object) -> list[Completion]:
    chosen = OpenAISettings.model_validate({"endpoints": [one.url for one in servers], "timeout_s": 5, **settings})
    with OpenAIBackend(model, settings=chosen) as backend:
        return list(backend.generate(requests))


def test_every_item_is_answered_once_through_all_troubles(pictures: list[ImageRef]) -> None:
    requests = questions(pictures, 20)
    with seeing(trouble=0.1) as first, seeing(trouble=0.1) as other:
        answers = ask(requests, first, other, concurrency=16)
        assert all(first.troubles[kind] + other.troubles[kind] >= 3 for kind in TROUBLES), "too few troubles to tell"
        counted = Counter((*first.answered.elements(), *other.answered.elements()))
        answered_by = [{text[5:13] for text, _ in server.answered if "question" in text} for server in (first, other)]
    assert Counter(answer.id for answer in answers) == Counter(request.id for request in requests)
    wanted = {request.id: expected(request.image.read(), request.prompt) for request in requests}
    assert {answer.id: answer.text for answer in answers} == wanted
    assert {(one.finish_reason, one.prompt_tokens, one.completion_tokens, one.model) for one in answers} == {
        ("stop", 580, 7, "seer")
    }
    # An answer that arrived was never asked for again (the probes apart): nothing is paid for twice.
    assert {counted[wanted[request.id], request.prompt] for request in requests} == {1}
    assert all(answered_by), "one of the endpoints was never asked"


def test_a_notebook_asks_too(pictures: list[ImageRef]) -> None:
    """Its cells run inside an event loop."""
    requests = questions(pictures[:3], 2)

    async def cell() -> list[Completion]:
        return ask(requests, server, concurrency=4)

    with seeing() as server:
        answers = asyncio.run(cell())
    assert {one.id: one.text for one in answers} == {one.id: expected(one.image.read(), one.prompt) for one in requests}


def test_a_server_of_this_machine_is_not_asked_through_a_proxy(
    pictures: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with seeing() as server:
        assert len(ask(questions(pictures[:1], 1), server)) == 1


def test_images_of_a_pool_have_a_home(pictures: list[ImageRef]) -> None:
    with seeing() as one, seeing() as other:
        ask(questions(pictures, 4), one, other)
        homes = [{text[5:13] for text, _ in server.answered if "question" in text} for server in (one, other)]
    assert homes[0] and homes[1] and not homes[0] & homes[1], (
        "an image went to both endpoints: their caches are of no use"
    )


def test_a_pool_survives_an_endpoint_that_dies(pictures: list[ImageRef]) -> None:
    with seeing() as one, seeing() as other:
        chosen = OpenAISettings(endpoints=(one.url, other.url), concurrency=4, timeout_s=5)
        with OpenAIBackend("seer", settings=chosen) as backend:
            answers = []
            for answer in backend.generate(questions(pictures[:6], 6)):
                answers.append(answer.id)
                other.dead = len(answers) >= 6 or other.dead
    assert len(answers) == len(set(answers)) == 36


@pytest.mark.claims("backend.openai.detail", "backend.openai.extra")
def test_the_request_has_the_image_first_and_the_sampling(pictures: list[ImageRef]) -> None:
    with seeing() as server:
        ask(questions(pictures[:1], 1), server, detail="low", extra={"reasoning_effort": "low", "top_k": 1})
        body = server.bodies[-1]
    image, text = body["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,") and image["image_url"]["detail"] == "low"
    assert text == {"type": "text", "text": "question 0?"}
    assert (body["temperature"], body["max_tokens"], body["reasoning_effort"], body["top_k"]) == (0.0, 9, "low", 1)


def test_a_turned_photograph_is_sent_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    import base64

    sent = base64.b64decode(data_url(ImageRef(path=tmp_path / "turned.jpg")).partition(",")[2])
    assert Image.open(io.BytesIO(sent)).size == (20, 40)
    picture.save(tmp_path / "straight.jpg")
    url = data_url(ImageRef(path=tmp_path / "straight.jpg"))
    assert base64.b64decode(url.partition(",")[2]) == (tmp_path / "straight.jpg").read_bytes()
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadInputError, match="does not decode"):
        data_url(ImageRef(path=tmp_path / "text.png"))


def test_what_cannot_work_is_said_before_a_suite_is_begun(
    pictures: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = questions(pictures[:1], 1)
    with seeing("blind") as blind, seeing() as seer, seeing("seer@2024") as dated:
        with pytest.raises(BadInputError, match=r"accepts no images: .*0 image") as caught:
            ask(requests, blind, model="blind")
        assert caught.value.remedy and "--model" in caught.value.remedy
        with pytest.raises(BadInputError, match="no model 'ser'; it has seer") as caught:
            ask(requests, seer, model="ser")
        assert caught.value.where == seer.url
        with pytest.raises(BadInputError, match=r"serve different models.*seer-2024"):
            ask(requests, seer, dated)
        monkeypatch.setenv(KEY_VARIABLE, "sk-another")
        with pytest.raises(HarnessError, match=r"refused: the key is not accepted \(401\)") as refused:
            ask(requests, seer)
        assert "sk-another" not in str(refused.value) and KEY_VARIABLE in str(refused.value.remedy)
        monkeypatch.delenv(KEY_VARIABLE)
        with pytest.raises(HarnessError, match="needs an API key"):
            ask(requests, seer)
        assert not seer.answered or set(seer.answered.values()) == {1}
        url = seer.url
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    with (
        pytest.raises(HarnessError, match=r"gives no answer: no connection \(ConnectError\), after"),
        OpenAIBackend("seer", settings=OpenAISettings(endpoints=(url,))),
    ):
        pass


def test_a_refused_question_is_one_item_and_an_endpoint_that_dies_is_all(pictures: list[ImageRef]) -> None:
    requests = questions(pictures[:3], 3)
    forbidden = Request("bad", "base", "a forbidden question", pictures[0], Sampling())
    with seeing() as server:
        found = {answer.id: answer for answer in ask([*requests, forbidden], server)}
        assert len(found) == 10 and found["bad"].text == "" and "against the rules" in str(found["bad"].refused)
        assert not any(answer.refused for name, answer in found.items() if name != "bad")
        chosen = OpenAISettings(endpoints=(server.url,), concurrency=3, attempts=2, timeout_s=5)
        with OpenAIBackend("seer", settings=chosen) as backend:
            server.dead = True
            with pytest.raises(
                HarnessError, match=r"requests got no answer.*(connection was cut|no connection)"
            ) as caught:
                list(backend.generate(questions(pictures, 20)))
    assert "run the same command again for the rest" in str(caught.value.remedy)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_pope(tmp_path, forbidden=7)


@pytest.mark.slow
def test_an_endpoints_model_becomes_a_row_of_the_leaderboard(folder: Path) -> None:
    with seeing("seer@2024", trouble=0.1) as first, seeing("seer@2024", trouble=0.1) as other:
        command = [
            "eval",
            "--endpoint",
            f"{first.url},{other.url}",
            "--model",
            "seer",
            "--suite",
            "pope",
            "--data",
            "data",
        ]
        refused = harness(folder, *command, code=1)
        assert "1 of 40 requests were refused" in refused.stderr and "--max-unscored 0.03" in refused.stderr
        command += ["--max-unscored", "0.03", "--json"]
        [record] = json.loads(harness(folder, *command).stdout)
        before = first.answered.total() + other.answered.total()
        # Another endpoint of the same model: only the refused question is asked again.
        harness(folder, *command, "--endpoint", other.url)
        assert first.answered.total() + other.answered.total() <= before + 1
        planned = json.loads(harness(folder, *command, "--dry-run").stdout)
        assert (planned[0]["answered"], planned[0]["to_generate"]) == (39, 1)
    assert (record["n"], record["of"], record["method"], list(record["refused"])) == (39, 40, "endpoint", ["random/7"])
    assert record["metrics"]["random.yes_ratio"]["value"] == 1.0
    assert record["serving"]["answered_by"] == ["seer-2024"] and "cannot be hashed" in record["serving"]["identity"]
    log = folder / "results" / "seer" / "evals" / "pope@data" / "responses.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({row["item"] for row in rows}) == len(rows) == 39
    assert {(row["model"], row["backend"], row["finish_reason"]) for row in rows} == {("seer-2024", "openai", "stop")}
    assert {row["checkpoint"] for row in rows} == {record["checkpoint"]}
    board = harness(folder, "leaderboard").stdout
    assert "seer on data" in board and "openai" in board
    rejudge = ["rejudge", "--run", "seer", "--suite", "pope", "--data", "data", "--json"]
    assert "1 of 40 requests were refused" in harness(folder, *rejudge, code=1).stderr
    [again] = json.loads(harness(folder, *rejudge, "--max-unscored", "0.03").stdout)
    assert again["metrics"] == record["metrics"] and again["refused"] == record["refused"]
    written = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".jsonl")]
    assert written and not [path for path in written if SECRET in path.read_text(encoding="utf-8")]


@pytest.mark.slow
def test_a_run_that_is_served_is_evaluated_beside_itself(folder: Path) -> None:
    run = folder / "results" / "one"
    manifest = {"schema": 1, "kind": "align", "name": "one", "config": {"method": "dpo", "model": "tiny", "data": "d"}}
    write_json(run / "manifest.json", manifest | {"base": {"label": "tiny", "location": "x", "fingerprint": "y"}})
    command = ["eval", "--model", "one", "--suite", "pope", "--data", "data", "--max-unscored", "0.1", "--json"]
    with seeing("one@2024") as server:
        [record] = json.loads(harness(folder, *command, "--endpoint", server.url).stdout)
        asked = server.answered.total()
        [again] = json.loads(harness(folder, *command, "--endpoint", server.url).stdout)
        assert server.answered.total() <= asked + 1, "stored answers are not asked again, but for the refused one"
    assert (record["target"], record["model"], record["method"]) == ("one-endpoint", "tiny", "endpoint")
    assert again["metrics"] == record["metrics"] and [path.name for path in run.iterdir()] == ["manifest.json"]
    scores = harness(
        folder,
        "rejudge",
        "--run",
        "one-endpoint",
        "--suite",
        "pope",
        "--data",
        "data",
        "--max-unscored",
        "0.1",
        "--json",
    ).stdout
    assert json.loads(scores)[0]["metrics"] == record["metrics"]
    assert "tiny on data" in harness(folder, "leaderboard").stdout
    (folder / "results" / "one-endpoint" / "manifest.json").write_text(json.dumps(manifest | {"base": {"label": "z"}}))
    with seeing("one@2024") as server:
        assert "contains another run" in harness(folder, *command, "--endpoint", server.url, code=2).stderr


@pytest.mark.slow
def test_two_models_behind_one_name_are_not_one_score(folder: Path) -> None:
    command = ["eval", "--model", "seer", "--suite", "pope", "--data", "data", "--max-unscored", "0.1", "--json"]
    with seeing("seer@2024-05-13") as server:
        harness(folder, *command, "--endpoint", server.url, "--limit", "12")
    with seeing("seer@2024-06-20") as server:
        done = harness(folder, *command, "--endpoint", server.url, code=1)
        assert (
            "seer-2024-06-20 (" in done.stderr and "seer-2024-05-13 (" in done.stderr and "--overwrite" in done.stderr
        )
        [record] = json.loads(harness(folder, *command, "--endpoint", server.url, "--overwrite").stdout)
    assert record["serving"]["answered_by"] == ["seer-2024-06-20"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "http://127.0.0.1:9/v1"], "--model NAME"),
        (["--endpoint", "localhost:8000", "--model", "seer"], "not a URL"),
        (
            ["--backend", "transformers", "--endpoint", "http://127.0.0.1:9/v1", "--model", "x"],
            "does not use an endpoint",
        ),
        (["--backend", "openai", "--model", "seer", "--set", "backend.detial=low"], "unknown setting 'detial'"),
        (
            ["--backend", "openai", "--model", "seer", "--set", "bakend.detail=low"],
            "unknown group of settings 'bakend'",
        ),
    ],
)
def test_wrong_options(folder: Path, arguments: list[str], said: str) -> None:
    done = harness(folder, "eval", "--suite", "pope", "--data", "data", *arguments, code=2)
    assert said in done.stderr and "Traceback" not in done.stderr
