"""Which option an answer chooses: read where a person would, and not guessed."""

from __future__ import annotations

import pytest

from benchmarks.choices import mmstar_official, options_of, read_choice

COLOURS = {"A": "red", "B": "dark red", "C": "green", "D": "a photo of a bus"}

READ = {
    "B": "B", "b": "B", "(B)": "B", "B.": "B", "**B**": "B", "[B]": "B", '"B"': "B", "B. dark red": "B", "(b) dark red": "B",
    "Answer: B": "B", "The answer is: B": "B", "The answer is (B)": "B", "The correct answer is B.": "B", "The answer is option C.": "C",
    "Option D": "D", "The best choice is C because it is green.": "C", "B, because of the light": "B", "\\boxed{C}": "C",
    "<think>A or B?</think>C": "C", "<answer>D</answer>": "D", "It is green.": "C", "The car is dark red.": "B", "It is red.": "A",
    "A photo of a bus is shown.": "D", "A red car.": "A", "red and dark red": None,
    "A photo of a dog": None, "Cannot be determined": None, "Definitely": None, "Both are": None, "": None, "  ": None, "A or B": None,
    "The answer is A. No, the answer is B.": None, "green or red": None, "greenish": None, "<think>B": None,
    "The answer is a matter of taste": None, "I think it is B": None,
    "The answer is B because the car is not red.": "B", "The correct option is B because it is not red": "B",
    "The answer is C as it shows": "C", "The answer is A because it is not green.": "A", "The answer is a red car": "A",
    "A, B": None, "A, C": None, "B, or C": None, "The answer is B or C": None, "The answer is (B) or (C).": None, "B, A and C": None,
    "A. red\nB. dark red\nC. green\nD. a photo of a bus": None, "(A) red (B) dark red": None, "A. red B. dark red C. green": None,
    "A: red, B: dark red": None, "A - red, B - dark red": None, "A\nB\nC": None, "A. red\nB. dark red\nC. green\nThe answer is C.": "C",
    "B, C is too dark": "B", "B. The car in lane C. It is not green": "B", "B\nIt is not green": "B", "(B) not red, as A. would be": "B",
}  # fmt: skip


@pytest.mark.parametrize("answer", READ)
def test_answers(answer: str) -> None:
    assert read_choice(answer, COLOURS) == READ[answer]


def test_long_answers_take_no_time() -> None:
    import time

    for text in (
        "A" + " " * 100_000 + "x",
        "A." + "\n" * 100_000 + "x",
        "A, B" * 30_000,
        "answer is B or " * 20_000,
        "(A) " * 30_000,
    ):
        start = time.process_time()
        read_choice(text)
        # A pattern that goes back over what it has read would take minutes; the bound is no measurement.
        assert time.process_time() - start < 2, text[:20]


def test_without_options_only_letters_are_read() -> None:
    assert read_choice("It is green.") is None and read_choice("C: green") == "C"


OFFICIAL = {
    "B": "B", "b) red": "B", "(C": "C", "option d": "D", "The answer is A": "A", "Answer: B": "A", "Both": "B", "Cannot say": "C",
    "Definitely B": "D", "The answer is: B": None, "**B**": None, "I think it is B": None, "": None, "The answer is (B)": None,
    " \n B": "B",
}  # fmt: skip


@pytest.mark.parametrize("answer", OFFICIAL)
def test_the_official_rule_of_mmstar(answer: str) -> None:
    assert mmstar_official(answer) == OFFICIAL[answer]


def test_options_are_found_in_the_question() -> None:
    asked = "What is it?\nOptions: A: a dog, a big one, B: a cat, C: none of A and B, D: 12.5"
    assert options_of(asked) == {"A": "a dog, a big one", "B": "a cat", "C": "none of A and B", "D": "12.5"}
    hinted = "Hint: answer with the letter, e.g. A, B.\nQuestion: How many?\nChoices:\n(A) 3\n(B) 4"
    assert options_of(hinted) == {"A": "3", "B": "4"}
    assert options_of("What is in the picture?") == {} and options_of("Options: yes or no") == {}
