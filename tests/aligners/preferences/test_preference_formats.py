"""Every public format, in the columns and nestings that its makers publish, is told by its columns and reads the same."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligners.preferences import PreferenceSet, read_preferences
from aligners.preferences.formats import FORMATS
from harness.core.errors import BadInputError, UnknownNameError
from harness.core.types import Turn
from tests.aligners.preferences.test_preference_data import jsonl, png, rlaif

QUESTION, CHOSEN, REJECTED = "What is it?", "A brown dog.", "The black cat."
TEXTS = {"question": QUESTION, "chosen": CHOSEN, "rejected": REJECTED}
IMAGE = {"bytes": png(1), "path": "1.png"}


def message(role: str, text: str, image: bool = False) -> dict[str, Any]:
    """As `datasets` writes parts to Parquet: every part has both keys."""
    parts = [{"type": "image", "text": None}] if image else []
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def said(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


USER, GOOD, BAD = message("user", QUESTION, image=True), message("assistant", CHOSEN), message("assistant", REJECTED)
PARQUET: dict[str, tuple[str, dict[str, Any]]] = {
    "rlaif-v": ("rlaif-v", rlaif(1) | TEXTS),
    "rlaif-v with text": ("rlaif-v", rlaif(1) | TEXTS | {"text": json.dumps(TEXTS)}),
    "rlhf-v": (
        "rlhf-v",
        {key: value for key, value in rlaif(1).items() if key not in TEXTS} | {"text": json.dumps(TEXTS)},
    ),
    "trl, explicit": ("trl", {"images": [IMAGE], "prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}),
    "trl, implicit": ("trl", {"images": [IMAGE], "chosen": [USER, GOOD], "rejected": [USER, BAD]}),
    "trl, one image": ("trl", {"image": IMAGE, "prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}),
    "trl, standard": ("trl", {"images": [IMAGE], "prompt": QUESTION, "chosen": CHOSEN, "rejected": REJECTED}),
    "trl, standard, implicit": (
        "trl",
        {"images": [IMAGE], "chosen": f"{QUESTION} {CHOSEN}", "rejected": f"{QUESTION} {REJECTED}"},
    ),
    "trl, texts as content": (
        "trl",
        {
            "images": [IMAGE],
            "prompt": [{"role": "user", "content": QUESTION}],
            "chosen": [{"role": "assistant", "content": CHOSEN}],
            "rejected": [{"role": "assistant", "content": REJECTED}],
        },
    ),
    "sharegpt on the hub": (
        "sharegpt",
        {
            "conversations": [said("human", f"<image>{QUESTION}")],
            "chosen": said("gpt", CHOSEN),
            "rejected": said("gpt", REJECTED),
            "images": [IMAGE],
        },
    ),
    "swift, messages": (
        "swift",
        {
            "messages": [
                {"role": "system", "content": ""},
                {"role": "user", "content": f"<image>{QUESTION}"},
                {"role": "assistant", "content": CHOSEN},
            ],
            "rejected_response": REJECTED,
            "images": [IMAGE],
        },
    ),
    "swift, two conversations": (
        "swift",
        {"messages": [USER, GOOD], "rejected_messages": [USER, BAD], "images": [IMAGE]},
    ),
    "swift, query and response": (
        "swift",
        {"query": QUESTION, "response": CHOSEN, "rejected_response": REJECTED, "images": [IMAGE], "history": []},
    ),
    "alpaca": (
        "alpaca",
        {
            "instruction": QUESTION,
            "input": "",
            "chosen": CHOSEN,
            "rejected": REJECTED,
            "images": [IMAGE],
            "system": " ",
        },
    ),
    "povid": (
        "povid",
        {
            "id": 7,
            "image": IMAGE,
            "conversations": [said("human", f"<image>\n{QUESTION}"), said("gpt", CHOSEN)],
            "rejected_conversations": [said("human", f"<image>\n{QUESTION}"), said("gpt", REJECTED)],
        },
    ),
    "plain": ("plain", {"image": IMAGE, "prompt": QUESTION, "chosen": CHOSEN, "rejected": REJECTED}),
    "plain, bytes": ("plain", {"image": png(1), "prompt": QUESTION, "chosen": CHOSEN, "rejected": REJECTED}),
}


def same(found: PreferenceSet, kind: str) -> None:
    (example,) = found.examples
    assert found.formats == (kind,)
    assert example.prompt == QUESTION
    assert {name: text.strip() for name, text in example.responses.items()} == {"chosen": CHOSEN, "rejected": REJECTED}
    assert example.images["original"].read() == png(1)


@pytest.mark.parametrize("name", PARQUET)
def test_parquet(name: str, tmp_path: Path) -> None:
    kind, row = PARQUET[name]
    path = tmp_path / "any-name.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    same(read_preferences(str(path)), kind)
    same(read_preferences(f"{kind}:{path}"), kind)


@pytest.mark.parametrize("name", PARQUET)
@pytest.mark.parametrize("inline", [False, True])
def test_json_lines_with_paths_and_with_base64(name: str, inline: bool, tmp_path: Path) -> None:
    kind, row = PARQUET[name]
    (tmp_path / "1.png").write_bytes(png(1))
    image = base64.b64encode(png(1)).decode() if inline else "1.png"
    row = row | {key: [image] if key == "images" else image for key in ("image", "images") if key in row}
    same(read_preferences(jsonl(tmp_path / "d.jsonl", [row])), kind)


def sharegpt(**changes: Any) -> dict[str, Any]:
    return {
        "conversations": [said("human", f"<image>\n{QUESTION}")],
        "chosen": said("gpt", CHOSEN),
        "rejected": said("gpt", REJECTED),
        "images": ["1.png"],
    } | changes


def test_sharegpt_as_one_array_with_names_from_its_description(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([sharegpt()]))
    same(read_preferences(str(path)), "sharegpt")

    row = {
        "talk": [{"who": "me", "what": QUESTION}],
        "better": {"who": "it", "what": CHOSEN},
        "worse": {"who": "it", "what": REJECTED},
        "pictures": ["1.png"],
    }
    path.write_text(json.dumps([row]))
    with pytest.raises(BadInputError, match="no known format of preference data has these columns: talk"):
        read_preferences(str(path))
    columns = {"messages": "talk", "chosen": "better", "rejected": "worse", "images": "pictures"}
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "me", "assistant_tag": "it"}
    described = {"mine": {"file_name": "pairs.json", "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(described))
    with pytest.raises(BadInputError, match="'ranking' is not true"):
        read_preferences(str(path))
    described["mine"]["ranking"] = True
    (tmp_path / "dataset_info.json").write_text(json.dumps(described))
    same(read_preferences(str(path)), "sharegpt")
    same(read_preferences(str(tmp_path)), "sharegpt")


def test_sharegpt_in_openais_words(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    row = {
        "messages": [{"role": "user", "content": QUESTION}],
        "chosen": {"role": "assistant", "content": CHOSEN},
        "rejected": {"role": "assistant", "content": REJECTED},
        "images": ["1.png"],
    }
    same(read_preferences(jsonl(tmp_path / "d.jsonl", [row])), "sharegpt")


def ranked(*answers: str, **changes: Any) -> dict[str, Any]:
    """As NiuTrans' data/reward_samples.json."""
    turns = [{"from": "human", "value": f"{QUESTION}\n<image>"}, {"from": "gpt", "value": list(answers)}]
    return {"id": "000000013249", "image": "1.png", "conversations": turns} | changes


def test_several_answers_in_one_turn_are_pairs_of_better_and_worse(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    same(read_preferences(jsonl(tmp_path / "d.jsonl", [ranked(CHOSEN, REJECTED)])), "ranked")
    rows = [ranked("a", "b", "c"), ranked("d", "e", id="two")]
    data = read_preferences(jsonl(tmp_path / "d.jsonl", rows))
    assert {one.id: tuple(one.responses.values()) for one in data.examples} == {
        "000000013249#1": ("a", "b"), "000000013249#2": ("a", "c"), "000000013249#3": ("b", "c"), "two": ("d", "e")
    }  # fmt: skip
    assert data.taken == {
        "ranked": {"image": "image", **dict.fromkeys(("prompt", "chosen", "rejected"), "conversations")}
    }
    for row, reason in (
        (ranked("a"), "with a list of two or more answers"),
        (ranked("a", "b", "a"), "chosen and rejected are identical"),
        (ranked("a", "b", "c", chosen_spans=[[0, 1]]), "spans of corrections"),
    ):
        with pytest.raises(BadInputError, match=reason):
            read_preferences(jsonl(tmp_path / "d.jsonl", [rows[1], row]))


def rated(answers: dict[str, tuple[Any, ...]], **changes: Any) -> dict[str, Any]:
    """As VLFeedback's data card shows a record."""
    aspects = ("Ethical Considerations", "Helpfulness", "Visual Faithfulness")
    completions = [
        {
            "model": f"model-{number}",
            "response": text,
            "annotations": {
                aspect: {"Rating": rating, "Rationale": "..."} for aspect, rating in zip(aspects, ratings, strict=True)
            },
        }
        for number, (text, ratings) in enumerate(answers.items())
    ]
    models = [one["model"] for one in completions]
    return {
        "id": "svit-1",
        "prompt": QUESTION,
        "img_path": "1.png",
        "models": models,
        "completions": completions,
    } | changes


def test_rated_answers_are_pairs_of_different_mean_ratings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    row = rated({REJECTED: ("5", "2", "2"), CHOSEN: ("5", "4", "5")})
    data = read_preferences(jsonl(tmp_path / "d.jsonl", [row]))
    same(data, "vlfeedback")
    assert data.taken["vlfeedback"]["image"] == "img_path" and not data.unread
    four = rated({"a": ("5", "3", "4"), "b": ("5", "4", "3"), "c": ("5", "5", "5"), "d": ("N/A", "5", "5")}, id="four")
    even = rated({"e": ("5", "3", "4"), "f": ("5", "4", "3")}, id="even")
    data = read_preferences(jsonl(tmp_path / "d.jsonl", [four, even]))
    # a and b have the same mean, and d has no score.
    assert {one.id: tuple(one.responses.values()) for one in data.examples} == {
        "four#1": ("c", "a"),
        "four#2": ("c", "b"),
    }
    assert "1 of 2 records prefer no answer to another" in caplog.text
    whole = four["completions"]
    columns = {name: [answer[name] for answer in whole] for name in whole[0]}
    pq.write_table(
        pa.Table.from_pylist([{"image": IMAGE, "prompt": QUESTION, "completions": columns, "id": "four"}]),
        tmp_path / "d.parquet",
    )
    [first, second] = read_preferences(str(tmp_path / "d.parquet")).examples
    assert [one.responses["chosen"] for one in (first, second)] == ["c", "c"]
    for bad, reason in (
        (
            rated({"a": (5, 3, "much"), "b": (5, 4, 3)}),
            "the rating of 'Visual Faithfulness' is not a number: much",
        ),
        (rated({"a": ("5", "3", "4")}), "not a list of two or more rated answers"),
        (
            rated({"a": (5, 3, 4), "b": (5, 4, 4)}) | {"completions": [{"response": "a", "annotations": 3}] * 2},
            "rated aspects",
        ),
    ):
        with pytest.raises(BadInputError, match=reason):
            read_preferences(jsonl(tmp_path / "d.jsonl", [four, bad | {"id": "bad"}]))


def test_unpaired_rows_are_refused_with_the_way_out(tmp_path: Path) -> None:
    row = {"image": "1.png", "prompt": QUESTION, "completion": CHOSEN, "label": True}
    with pytest.raises(BadInputError, match="unpaired rows") as raised:
        read_preferences(jsonl(tmp_path / "d.jsonl", [row]))
    assert "method.loss=kto" in str(raised.value.remedy)


TURN = message("user", "And now?")
SYSTEM, EARLIER = "Be kind.", ("Is it big?", "No.")
HISTORIES: dict[str, dict[str, Any]] = {
    "trl": {
        "images": ["1.png"],
        "prompt": [message("system", SYSTEM), message("user", EARLIER[0]), message("assistant", EARLIER[1]), USER],
        "chosen": [GOOD],
        "rejected": [BAD],
    },
    "swift, messages": {
        "messages": [
            *(
                {"role": role, "content": text}
                for role, text in zip(("system", "user", "assistant"), (SYSTEM, *EARLIER), strict=True)
            ),
            {"role": "user", "content": f"<image>{QUESTION}"},
            {"role": "assistant", "content": CHOSEN},
        ],
        "rejected_response": REJECTED,
        "images": ["1.png"],
    },
    "swift, columns": {
        **{"query": f"<image>{QUESTION}", "response": CHOSEN, "rejected_response": REJECTED, "images": ["1.png"]},
        **{"system": SYSTEM, "history": [list(EARLIER)]},
    },
    "alpaca": {
        **{"instruction": f"<image>{QUESTION}", "chosen": CHOSEN, "rejected": REJECTED, "images": ["1.png"]},
        **{"system": SYSTEM, "history": [list(EARLIER)]},
    },
    "sharegpt": {
        "conversations": [said("human", EARLIER[0]), said("gpt", EARLIER[1]), said("human", f"<image>{QUESTION}")],
        **{"chosen": said("gpt", CHOSEN), "rejected": said("gpt", REJECTED), "images": ["1.png"], "system": SYSTEM},
    },
    "povid": {
        "image": "1.png",
        **{
            name: [
                *(said("system", SYSTEM), said("human", EARLIER[0]), said("gpt", EARLIER[1])),
                *(said("human", f"<image>\n{QUESTION}"), said("gpt", text)),
            ]
            for name, text in (("conversations", CHOSEN), ("rejected_conversations", REJECTED))
        },
    },
    "plain": {
        **{"image": "1.png", "prompt": f"<image>{QUESTION}", "chosen": CHOSEN, "rejected": REJECTED},
        **{"system": SYSTEM, "history": [list(EARLIER)]},
    },
    "our own column": {
        **{"image": "1.png", "prompt": QUESTION, "chosen": CHOSEN, "rejected": REJECTED},
        "earlier_turns": [
            {"role": role, "text": text, "has_image": False}
            for role, text in zip(("system", "user", "assistant"), (SYSTEM, *EARLIER), strict=True)
        ],
    },
}


@pytest.mark.parametrize("form", HISTORIES)
def test_a_system_turn_and_earlier_turns_are_read_alike_from_every_form(form: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    data = read_preferences(jsonl(tmp_path / "d.jsonl", [HISTORIES[form]]))
    (example,) = data.examples
    assert (example.prompt, example.responses) == (QUESTION, {"chosen": CHOSEN, "rejected": REJECTED})
    assert example.history == (Turn("system", SYSTEM), Turn("user", EARLIER[0]), Turn("assistant", EARLIER[1]))
    assert data.unread == {}


@pytest.mark.parametrize(("marked", "holder"), [("", 0), ("<image>", 0), (None, None)], ids=["unsaid", "first", "last"])
def test_the_image_belongs_to_the_turn_that_says_so_and_else_to_the_first(
    marked: str | None, holder: int | None, tmp_path: Path
) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    first, last = (EARLIER[0], f"<image>{QUESTION}") if marked is None else (f"{marked}{EARLIER[0]}", QUESTION)
    row = {"image": "1.png", "prompt": last, "chosen": CHOSEN, "rejected": REJECTED, "history": [[first, EARLIER[1]]]}
    (example,) = read_preferences(jsonl(tmp_path / "d.jsonl", [row])).examples
    assert [turn.text for turn in example.history] == list(EARLIER)
    assert [place for place, turn in enumerate(example.history) if turn.has_image] == (
        [] if holder is None else [holder]
    )


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ("hello", "not a list of .role, text, has_image."),
        ([{"role": "tool", "text": "x"}], "not a list of .role"),
        ([{"role": "user", "text": "x"}], "questions with their answers but: user"),
        ([{"role": "system", "text": "x", "has_image": True}], "gives the image to a turn of the role 'system'"),
        ([{"role": "system", "text": " "}], "turn 1 .system.' is empty"),
    ],
)
def test_earlier_turns_of_another_form_are_refused(turns: Any, reason: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    row = {"image": "1.png", "prompt": QUESTION, "chosen": CHOSEN, "rejected": REJECTED, "earlier_turns": turns}
    with pytest.raises(BadInputError, match=reason):
        read_preferences(jsonl(tmp_path / "d.jsonl", [row]))


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "trl, system in the middle": (
        {"prompt": [USER, message("system", "Be kind."), USER]},
        "user turn but: user, system",
    ),
    "trl, no answer between": (
        {"prompt": [USER, TURN]},
        "not a conversation that ends with a user turn but: user, user",
    ),
    "trl, ends with an answer": (
        {"prompt": [USER, GOOD]},
        "not a conversation that ends with a user turn but: user, assi",
    ),
    "trl, two turns with the image": ({"prompt": [USER, GOOD, USER]}, "2 turns have an image"),
    "trl, two system prompts": (
        {"prompt": [message("system", "Be kind."), USER], "system": "Be brief."},
        "two system prompts",
    ),
    "trl, image token in an answer": (
        {"prompt": [USER, message("assistant", "an <image>"), TURN]},
        "turn 2 .assistant. contains a stray '<image>'",
    ),
    "trl, answer by the user": ({"chosen": [TURN]}, "'chosen' is not one assistant turn but: user"),
    "trl, two image parts": (
        {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}]},
        "a user message has 2 images",
    ),
    "trl, image in an answer": ({"chosen": [message("assistant", "x", image=True)]}, "assistant message has 1 images"),
    "trl, a video": ({"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "neither an image nor a text"),
    "trl, two images": ({"images": ["1.png", "1.png"]}, "the record has 2 images"),
    "trl, no image": ({"images": []}, "the record has 0 images"),
    "trl, no prompt where others have one": ({"prompt": None}, "there is no 'prompt'"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_an_example_cannot_hold_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    good = {"images": ["1.png"], "prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
    changes, reason = UNFIT[name]
    path = jsonl(tmp_path / "d.jsonl", [good, good | changes])
    with pytest.raises(BadInputError, match=reason) as error:
        read_preferences(path)
    assert error.value.where == f"{path}:2"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conversations": [said("human", "a"), said("gpt", "b")]}, "human, gpt"),
        ({"chosen": said("human", "a")}, "'chosen' has the role 'human', not 'gpt'"),
        ({"system": ["Be kind."]}, "the system prompt is a list, not a text"),
        ({"tools": "[{}]"}, "the record has tools"),
        ({"conversations": "hello"}, "'conversations' is a text, not a list"),
        ({"images": ["1.png", "2.png"]}, "the record has 2 images"),
        ({"rejected": None}, "'rejected' is null, not a message"),
    ],
)
def test_what_sharegpt_cannot_hold(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    with pytest.raises(BadInputError, match=reason):
        read_preferences(jsonl(tmp_path / "d.jsonl", [sharegpt(), sharegpt() | changes]))


def test_an_unknown_form_names_the_columns_seen_and_the_formats_known(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"picture": png(), "caption": "x", "score": 0.5}]), path)
    with pytest.raises(
        BadInputError, match=r"these columns: caption \(text\), score \(number\), picture \(image\)"
    ) as error:
        read_preferences(str(path))
    assert error.value.where == str(path)
    assert all(name in str(error.value.remedy) for name in FORMATS)
    with pytest.raises(BadInputError, match="not the columns of the format trl, which has images or image"):
        read_preferences(str(path), format_name="trl")
    with pytest.raises(UnknownNameError, match="did you mean sharegpt"):
        read_preferences(str(path), format_name="sharegtp")


def test_an_implicit_prompt_ends_at_a_words_end(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    row = {"images": ["1.png"], "chosen": "The sky is blue.", "rejected": "The sky is black."}
    (example,) = read_preferences(jsonl(tmp_path / "d.jsonl", [row])).examples
    assert (example.prompt, example.responses["chosen"], example.responses["rejected"]) == (
        "The sky is",
        "blue.",
        "black.",
    )
    apart = row | {"chosen": "Red.", "rejected": "Green."}
    with pytest.raises(BadInputError, match="do not start with the same text"):
        read_preferences(jsonl(tmp_path / "d.jsonl", [row, apart]))


@pytest.mark.parametrize(
    "prompt", ["<image>\nWhat is it?", "What is it?\n<image>", " <image> What is it? ", "What is it?"]
)
def test_a_placeholder_at_an_end_stands_for_the_image(prompt: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    row = {"image": "1.png", "prompt": prompt, "chosen": CHOSEN, "rejected": REJECTED}
    assert read_preferences(jsonl(tmp_path / "d.jsonl", [row])).examples[0].prompt == QUESTION


def test_a_numbering_may_begin_again_in_the_next_file_an_id_may_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.Table.from_pylist([rlaif(7)]), tmp_path / f"{name}.parquet")
    assert [one.id for one in read_preferences(str(tmp_path)).examples] == ["7", "7@b-1"]


def test_of_a_split_folder_the_training_part_is_read_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        pq.write_table(pa.Table.from_pylist([rlaif(number)]), tmp_path / "data" / f"{name}.parquet")
    assert [one.id for one in read_preferences(str(tmp_path)).examples] == ["0", "1"]
    said_so = " ".join(capsys.readouterr().err.split())
    assert "using the split train; files of test (1 in all) are not used" in said_so
