"""The tolerant parser of yes/no answers, on answers written by hand; the official one stands beside it in test_pope.py."""

from __future__ import annotations

import pytest

from benchmarks.yesno import tolerant

DOG = "Is there a dog in the image?"


@pytest.mark.parametrize(
    "answer",
    [
        "No",
        "NO!",
        "'No'.",
        '"No"',
        "“No.”",
        "‘No’",
        "«no»",
        "**No**",
        "__No__, there is not.",
        "`No`",
        "> No",
        "# No",
        "- No",
        "1. No",
        "(No)",
        "B) No",
        "Answer: No",
        "Answer - No",
        "**Answer:** No dog is visible.",
        "Final answer: **No**.",
        "A: no",
        "The answer is no.",
        "The answer is 'No'",
        "The correct answer to the question is: no",
        "So the answer to your question is no.",
        "I would say no.",
        "I'd say no, there is not.",
        "<answer>No</answer>",
        "I looked at everything. <answer> no </answer>",
        "\\boxed{No}",
        "$\\boxed{\\text{No}}$",
        "Yes was my first thought, but: \\boxed{No}",
        "<think>Looking. I see grass.</think>\n\nNo",
        "<think>Is it yes? Yes.</think>No",
        "Yes, yes it must be so.</think> No.",
        "<thinking>yes</thinking><answer>no</answer>",
        "<|begin_of_box|>No<|end_of_box|>",
        "<p>No</p>",
        '{"answer": "No"}',
        "No,there",
        "Nope.",
        "No, there is no dog.",
        "No dog is visible.",
        "No: it is a cat",
        "No—it is a cat.",
        "Based on the image, no, there is no dog.",
        "There is no dog in the image.",
        "There's no dog here.",
        "There are no dogs.",
        "There is not a dog.",
        "There isn't a dog.",
        "There isn’t any dog.",
        "In the image, there is no dog.",
        "In this picture there is no dog, only a cat.",
        "I don't see a dog in the image.",
        "I do not see any dogs.",
        "I see no dog.",
        "The image does not contain a dog.",
        "Sorry, there is no dog.",
    ],
)
def test_what_is_plainly_no(answer: str) -> None:
    assert tolerant(answer) == "no"
    assert tolerant(answer + " " * 300) == "no", "long answers, which are not kept, are read alike"
    assert tolerant(answer, DOG) == "no"


@pytest.mark.parametrize(
    "answer",
    [
        "Yes",
        "'Yes'",
        "YES.",
        "yes, no other objects",
        "Yes, there is no doubt about it.",
        "Yeah",
        "The answer is yes.",
        "I think yes",
        "\\boxed{Yes}",
        "<think>No, or yes?</think> Yes",
        "**Answer**: Yes",
        "Looking at the image, yes, there is.",
        "Yes. It is not large.",
        "Yes, there is a dog, but there is no cat.",
    ],
)
def test_what_is_plainly_yes(answer: str) -> None:
    assert tolerant(answer) == "yes"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "   ",
        "...",
        "Not sure.",
        "I know",
        "None",
        "cannot",
        "noon",
        "yesterday",
        "Norway",
        "yes and no",
        "Yes or no?",
        "Yes/No",
        "no or yes",
        "Yes. No.",
        "No. Yes, there is one.",
        "Yes, there is no dog in the image.",
        "The answer is yes or no.",
        "Answer: yes. Answer: no.",
        "<answer>yes</answer><answer>no</answer>",
        "\\boxed{Yes} \\boxed{No}",
        "<think>No, there is none",
        "<think>No.</think>",
        "No doubt.",
        "No idea",
        "No image was given.",
        "There is no doubt that it stands there.",
        "There is no way to tell.",
        "There is no image.",
        "There is not enough information.",
        "There is not only a dog.",
        "I cannot see an image.",
        "I don't see any image.",
        "Mr. Smith says no",
        "There is a dog.",
        "A dog lies there, but there is no cat.",
        "It is unclear whether the answer is no other than that",
    ],
)
def test_what_leaves_a_doubt_is_not_read(answer: str) -> None:
    assert tolerant(answer) is None


def test_a_statement_that_repeats_the_question_is_a_yes() -> None:
    assert tolerant("There is a dog in the image.", DOG) == "yes"
    assert tolerant("In the image, there's a dog.", DOG) == "yes"
    assert tolerant("There are two dogs.", "Are there two dogs in this image?") == "yes"
    for other in ("There is a cat in the image.", "There is a dogfish.", "There are three dogs."):
        assert tolerant(other, DOG) is None
    assert tolerant("There is no dog in the image.", DOG) == "no"


PEOPLE, PHONE, CONTACT = (
    "Are there any people here?",
    "Is there a cell phone? Please answer yes or no.",
    "Is there direct contact between a and b?",
)
ABOUT_THE_OBJECT = {
    DOG: {
        "There is no cat, but there is a dog.": "yes", "There is no cat in the image. There is a dog in the image.": "yes",
        "Yes, there is no cat.": "yes", "Yes, there is a dog, and there is no other dog.": "yes", "But there is a dog sitting there": "yes",
        "I do not see a cat, only a dog.": None, "Yes, no dog is visible": None, "There is no cat.": None, "No cat is visible.": None,
        "There is no dog house.": None, "There is a dog house.": None, "There is no black dog.": None, "There is no one here.": None,
        "There is no cat. I do not see one.": None, "There is a dog. There is no dog.": None, "Looking whether there is a dog.": None,
        "There is no doubt.": None, "There is no image.": None, "Is there? There is not only a dog.": None,
        "The image shows a cat. There are no dogs.": "no", "There is no sign of a dog.": "no", "There is no cat or dog.": "no",
        "I do not see one.": "no", "There is none.": "no", "There is no such object in the image.": "no", "There isn't any.": "no",
        "There is no dog lying there.": "no", "There is not a single visible dog": "no",
        "No, there is no cat.": "no", "No only a cat": "no", "There is no visible cat": None, "No single dog": "no",
    },
    PEOPLE: {"There is no person.": "no", "There is no one.": "no", "No one is visible.": "no", "There are no cats.": None},
    PHONE: {"There is no cellphone.": "no", "There is no phone.": "no", "There is a cell phone.": "yes", "There is no phone booth": None},
    CONTACT: {"There is no direct contact between them.": "no", "There is no contact.": "no", "There is no dog.": None},
    "Is there a dog or a cat?": {"There is no dog.": None, "There is no dog or cat.": "no"},
    "Are there two dogs?": {"There are not two dogs.": "no", "There are not three dogs.": None, "There are no dogs.": "no"},
    "Is there a bottle of wine?": {"There is no wine.": "no", "There is no bottle.": "no", "There is no glass of beer.": None},
    "Is there a person wearing a hat?": {"There is no person wearing a hat.": "no", "There is no hat.": None},
    "Is the dog black?": {"There is no cat.": "no", "There is a dog.": None},
}  # fmt: skip


@pytest.mark.parametrize("question", ABOUT_THE_OBJECT)
def test_a_statement_counts_if_it_is_about_the_object_of_the_question(question: str) -> None:
    for answer, read in ABOUT_THE_OBJECT[question].items():
        assert tolerant(answer, question) == read, answer


def test_long_answers_take_no_time() -> None:
    import time

    for text in (
        "<" * 200_000,
        "no <think>" * 30_000,
        "\\boxed{" * 30_000,
        "there is " * 40_000,
        "'" * 200_000,
        "a, " * 99_999,
        "there is no " * 40_000,
        "there is no dog. " * 20_000,
    ):
        start = time.process_time()
        tolerant(text, DOG)
        # A pattern that goes back over what it has read would take minutes; the bound is no measurement.
        assert time.process_time() - start < 2, text[:20]
