"""The file of an experiment: what becomes of grids, pairs and extends, and what is said of mistakes, with the line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

import harness
from harness.core.config import TrainSettings
from harness.core.errors import BadInputError
from harness.core.worlds import pairs_of
from harness.experiments.claims import read_claims
from harness.experiments.forecast import SAME_COST, Forecaster
from harness.experiments.graph import plan
from harness.experiments.keys import dotted, grouped
from harness.experiments.page import _head, made_by, write_page
from harness.experiments.run import named_experiments, open_experiment
from harness.experiments.samplers import grid_of
from harness.experiments.search import Searches
from harness.experiments.spec import EXPERIMENTS, find_experiment, read_experiment
from harness.experiments.state import ExperimentFolder
from harness.worlds.pocket.world import PocketWorld
from tests.scored_runs import make_run

HEAD = "title: t\nsuites: [halbench]\n"


def written(path: Path, text: str) -> Path:
    path.write_text(HEAD + text)
    return path


@pytest.mark.claims(
    "experiment.settings",
    "experiment.arms.settings",
    "experiment.arms.extends",
    "experiment.arms.grid",
    "experiment.arms.pairs",
)
def test_every_combination_of_a_grid_with_every_row_of_pairs(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.yaml",
        """settings: {train.learning_rate: 1.0e-3, train: {lora: {rank: 8}}}
arms:
  one: {method: mfpo, settings: {method.beta: 0.3, train.learning_rate: 2.0e-3}}
  two:
    extends: one
    grid: {method.delta: [0, 1]}
    pairs: {method.lambda_text: [1, 2], train.lora.rank: [4, 16]}
""",
    )
    arms = read_experiment(file).arms
    assert [arm.label for arm in arms] == [
        "one",
        "two, delta=0, lambda_text=1, train.lora.rank=4",
        "two, delta=0, lambda_text=2, train.lora.rank=16",
        "two, delta=1, lambda_text=1, train.lora.rank=4",
        "two, delta=1, lambda_text=2, train.lora.rank=16",
    ]
    assert dotted(arms[0].settings) == {"train.learning_rate": 2e-3, "train.lora.rank": 8, "method.beta": 0.3}
    assert dotted(arms[-1].settings) == {
        "train.learning_rate": 2e-3, "train.lora.rank": 16, "method.beta": 0.3, "method.delta": 1, "method.lambda_text": 2,
    }  # fmt: skip


def test_the_page_names_the_command_that_makes_it_again(tmp_path: Path) -> None:
    written(tmp_path / "mine.yaml", "arms: {dpo: {method: dpo}}\n")
    path = str(tmp_path / "mine.yaml")
    for name, overrides, command in (
        ("smoke", {}, "harness experiment smoke"),
        ("mfpo/table1", {"seeds": [0]}, "harness experiment mfpo/table1 --set 'seeds=[0]'"),
        (path, {"settings": {"train": {"epochs": 2}}}, f"harness experiment {path} --set settings.train.epochs=2"),
    ):
        assert made_by(read_experiment(find_experiment(name), overrides)) == command
    # Another model than the file's has a folder, and so a page, of its own.
    for model, name in (("pocket", "table1"), ("pocket-rich", "table1-pocket-rich"), ("org/a model", "table1-a-model")):
        assert read_experiment(find_experiment("mfpo/table1"), {"model": model, "data": "rlhf-v"}).name == name


def test_the_function_overrides_any_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OpenedError(Exception):
        """Instead of running it."""

    def run(opened: Any, workers: Any) -> None:
        raise OpenedError(opened.experiment)

    monkeypatch.setattr("harness.experiments.run.run_experiment", run)
    with pytest.raises(OpenedError) as caught:
        changes = {"limit": 48, "settings.train.epochs": 2, "model": "pocket:2"}
        harness.experiment("smoke", seeds=[2], changes=changes, results=tmp_path)
    spec = caught.value.args[0].spec
    assert (spec.limit, spec.seeds, spec.model, spec.settings["train"]["epochs"]) == (48, [2], "pocket:2", 2)
    with pytest.raises(BadInputError, match="an experiment has no 'limits'"):
        harness.experiment("smoke", changes={"limits": 48}, results=tmp_path)


def test_a_file_extends_another(tmp_path: Path) -> None:
    written(tmp_path / "base.yaml", "seeds: [1, 2]\narms:\n  mfpo: {method: mfpo, settings: {method.beta: 0.3}}\n")
    (tmp_path / "child.yaml").write_text("extends: base.yaml\ntitle: c\narms: {mfpo: {grid: {method.delta: [0, 1]}}}\n")
    experiment = read_experiment(tmp_path / "child.yaml", {"seeds": [5]})
    assert (experiment.spec.title, experiment.spec.seeds, [arm.label for arm in experiment.arms]) == (
        "c",
        [5],
        ["mfpo, delta=0", "mfpo, delta=1"],
    )
    assert dotted(experiment.arms[1].settings) == {"method.beta": 0.3, "method.delta": 1}
    (tmp_path / "base.yaml").write_text("extends: child.yaml\n")
    with pytest.raises(BadInputError, match="which is a cycle"):
        read_experiment(tmp_path / "child.yaml")


COSTS: dict[str, list[dict[str, Any]]] = {
    "dpo": [{}, {"loss": "simpo"}, {"per_token": True}],
    "opa-dpo": [{}, {"phase": "opa"}],
    "lpoi": [{}, {"levels": [0.5, 1.0]}],
    "mfpo": [
        {},
        {"stages": {"count": 1}},
        {"stages": {"answer": "own"}},
        {"images": {"regions": "dataset"}},
        {"images": {"corruption": "whole-noise"}},
    ],
}
"""Method -> settings of which each makes a training cost something else."""
WEIGHTS: dict[str, list[dict[str, Any]]] = {
    "dpo": [{"beta": 1, "label_smoothing": 0.1, "length_penalty": 0.5}],
    "opa-dpo": [{"beta": 0.5, "lambda_image": 1}],
    "lpoi": [{"levels": [0.1, 0.2, 0.3, 1.0], "lambda_list": 2}],
    "mfpo": [{"lambda_text": 0.5, "delta": 1, "images": {"text_threshold": 0.5}}],
}
"""Method -> settings with which a training costs as much as with the defaults."""


def test_trainings_share_a_prediction_only_if_they_cost_the_same(tmp_path: Path) -> None:
    asked = [(method, settings) for groups in (COSTS, WEIGHTS) for method, rows in groups.items() for settings in rows]
    arms = {
        f"a{number}": {"method": method, "settings": {"method": settings}}
        for number, (method, settings) in enumerate(asked)
    }
    file = written(tmp_path / "costs.yaml", yaml.safe_dump({"model": "llava-v1.6-7b", "data": "./pairs", "arms": arms}))
    opened = open_experiment(str(file), {}, tmp_path / "results", many=False)
    [(experiment, steps, rows)] = opened.remaining()
    forecaster = Forecaster(experiment, steps, rows, tmp_path / "results", {}, {})
    runs = {steps.runs[step.run][0].label: step for step, _ in rows if step.kind == "align"}
    keys = {label: forecaster.cost_key(step, steps.runs[step.run][0]) for label, step in runs.items()}
    different = sum(map(len, COSTS.values()))
    assert len({keys[f"a{number}"] for number in range(different)}) == different, "each is predicted by itself"
    methods = [method for method, _ in asked]
    for number in range(different, len(asked)):
        assert keys[f"a{number}"] == keys[f"a{methods.index(methods[number])}"], methods[number]
    assert set(TrainSettings.model_fields) >= SAME_COST


def test_dotted_settings_are_groups_and_back() -> None:
    values: dict[str, Any] = {"a": {"b": {"c": 1}, "d": [1]}, "e": None}
    assert grouped(dotted(values)) == values == grouped({"a.b.c": 1, "a": {"d": [1]}, "e": None})


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("arms: {a: {method: dpo}}\nsuits: [pope]\n", 4, "has no 'suits'"),
        ("arms:\n  a: {method: dpo}\n  b: {method: dpo, sed: 1}\n", 5, "has no 'arms.b.sed'"),
        ("arms:\n  a: {settings: {method.beta: 1}}\n", 4, "has no method"),
        ("arms:\n  a: {extends: b}\n", 4, "no arm 'b' to extend"),
        ("arms:\n  a: {extends: b}\n  b: {extends: a}\n", 4, "extend each other"),
        ("arms:\n  base: {method: dpo}\n", 4, "not be 'base'"),
        (
            "arms:\n  a:\n    method: dpo\n    pairs: {method.beta: [1, 2], train.epochs: [1]}\n",
            6,
            "must have the same length",
        ),
        (
            "arms:\n  a:\n    method: dpo\n    grid: {method.beta: [1]}\n    pairs: {method.beta: [1]}\n",
            7,
            "in grid and in pairs",
        ),
        ("arms: {a: {method: dpo, grid: {method.beta: []}}}\n", 3, "has no value"),
        ("seeds: []\narms: {a: {method: dpo}}\n", 3, "seeds"),
        ("settings:\n  train: {seed: 3}\narms: {a: {method: dpo}}\n", 4, "train.seed has no effect"),
        ("arms:\n  a:\n    method: dpo\n    settings: {train.seed: 3}\n", 6, "train.seed has no effect"),
        ("arms:\n  a:\n    method: dpo\n    grid: {train.seed: [1, 2, 3]}\n", 6, "train.seed has no effect"),
        ("arms:\n  a:\n    method: dpo\n    pairs: {train.seed: [1, 2, 3]}\n", 6, "train.seed has no effect"),
        ("arms:\n  a:\n    method: dpo\n    search: {train.seed: [1, 2, 3]}\n", 6, "train.seed has no effect"),
        (
            "arms: {a: {method: dpo}}\nsearch:\n  objective: chair_s\n  space: {train.seed: [1, 2, 3]}\n",
            6,
            "train.seed has no effect",
        ),
    ],
)
def test_mistakes_are_said_with_their_line(text: str, line: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=said) as caught:
        read_experiment(written(tmp_path / "a.yaml", text))
    assert str(caught.value.where).endswith(f"a.yaml, line {line}")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("arms:\n  a: {method: dop}\n", 4, "did you mean dpo"),
        ("arms:\n  a: {method: dpo, settings: {method.bta: 1}}\n", 4, "unknown setting 'bta'"),
        ("arms:\n  a: {method: dpo, settings: {beta: 1}}\n", 4, "groups train and method"),
        ("model: llava-v1.6-7\narms: {a: {method: dpo}}\n", 3, "llava-v1.6-7b"),
        ("seeds: [1, 1]\narms: {a: {method: dpo}}\n", 3, "a seed appears twice"),
        ("judge: gpt\narms: {a: {method: dpo}}\n", 3, "unknown judge"),
        ("noise: [0, 1000]\narms: {a: {method: dpo}}\n", 3, "step 1000 does not exist"),
        ("noise: [0, blank, 0]\narms: {a: {method: dpo}}\n", 3, "noise 0 twice"),
    ],
)
def test_what_is_not_known_is_said_before_anything_starts(text: str, line: int, said: str, tmp_path: Path) -> None:
    experiment = read_experiment(written(tmp_path / "a.yaml", text))
    with pytest.raises(BadInputError, match=said) as caught:
        plan(experiment, tmp_path)
    assert str(caught.value.where).endswith(f"a.yaml, line {line}")


@pytest.mark.parametrize("seeds", [[0, 3], [1], [3, 4]])
def test_the_model_of_one_seed_has_one_seed(seeds: list[int], tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", "seeds: [0]\narms: {a: {method: dpo}}\n")
    with pytest.raises(BadInputError, match="'pocket:3' is the model of one seed, and the seeds are") as caught:
        plan(read_experiment(file, {"model": "pocket:3", "seeds": seeds}), tmp_path)
    assert str(caught.value.where).endswith("line 3") and "model: pocket, " in str(caught.value.remedy)
    for one in (0, 3):
        steps = plan(read_experiment(file, {"model": "pocket:3", "seeds": [one]}), tmp_path)
        assert steps.worlds == {one: "pocket:3"}


def test_an_unknown_suite_and_too_many_runs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("title: t\nsuites:\n  - pop\narms: {a: {method: dpo}}\n")
    with pytest.raises(BadInputError, match="pope") as caught:
        plan(read_experiment(tmp_path / "a.yaml"), tmp_path)
    assert str(caught.value.where).endswith("line 3")
    many = written(tmp_path / "b.yaml", f"seeds: {list(range(1001))}\narms: {{a: {{method: dpo}}}}\n")
    with pytest.raises(BadInputError, match="1,001 runs"):
        plan(read_experiment(many), tmp_path)
    assert len(plan(read_experiment(many), tmp_path, many=True).runs) == 1001


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("chair_s(a) = chair_s(b)", "must compare one metric"),
        ("chair_s(a) < chair_i(b)", "the same metric"),
        ("cher_s(a) < cher_s(b)", "computes 'cher_s'"),
        ("chair_s(a) < chair_s(c)", "no arm 'c'"),
        ("chair_s(b, delta=3) < chair_s(a)", "no arm 'b, delta=3'"),
        ("chair_s(b, delta) < chair_s(a)", "is not a setting"),
    ],
)
def test_a_wrong_claim_is_said_with_its_line(claim: str, said: str, tmp_path: Path) -> None:
    arms = "arms:\n  a: {method: dpo}\n  b: {method: mfpo, grid: {method.delta: [0, 1]}}\n"
    experiment = read_experiment(
        written(tmp_path / "a.yaml", f"{arms}claims:\n  - chair_s(b, delta=1) < chair_s(a)\n  - {claim}\n")
    )
    with pytest.raises(BadInputError, match=said) as caught:
        read_claims(experiment)
    assert str(caught.value.where).endswith("line 8")


def test_a_claim_names_an_arm_as_yaml_or_as_the_page_does(tmp_path: Path) -> None:
    arms = "arms:\n  a: {method: dpo}\n  b: {method: mfpo, grid: {train.keep_stages: [null, true]}}\n"
    claims = "claims:\n" + "".join(
        f"  - chair_s(b, train.keep_stages={value}) < chair_s(a)\n" for value in ("null", "None", "true", "True")
    )
    experiment = read_experiment(written(tmp_path / "a.yaml", arms + claims))
    labels = [arm.label for arm in experiment.arms]
    assert [labels.index(claim.left) for claim in read_claims(experiment)] == [1, 1, 2, 2]


def test_a_metric_of_two_suites_needs_its_suite(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "title: t\nsuites: [halbench, chair]\narms: {a: {method: dpo}}\nclaims: [chair_s(a) < chair_s(base)]\n"
    )
    with pytest.raises(BadInputError, match="several suites") as caught:
        read_claims(read_experiment(tmp_path / "a.yaml"))
    assert "halbench.chair_s" in str(caught.value.remedy)


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiments_are_sound(file: Path, tmp_path: Path) -> None:
    experiment = read_experiment(file)
    assert read_claims(experiment) or file.stem == "pocket-sweep"
    steps = plan(experiment, tmp_path)
    assert len(steps.labels) == len(experiment.arms) * len(experiment.spec.seeds) and not list(tmp_path.iterdir())
    assert set(steps.labels.values()) == set(steps.runs)


def test_tables_of_the_paper_share_the_published_arm(tmp_path: Path) -> None:
    shared = [
        set(plan(read_experiment(EXPERIMENTS / "mfpo" / f"{name}.yaml"), tmp_path).runs)
        for name in ("paper", "table4", "table5", "table8", "figure8")
    ]
    assert len(set.intersection(*shared)) == 3


def test_changed_pictures_are_asked_about_one_after_another(tmp_path: Path) -> None:
    """They read the same plain answers, which one process at a time may open."""
    file = written(tmp_path / "a.yaml", "noise: [0, blank]\narms: {a: {method: dpo}, b: {method: rlhfv}}\n")
    _, first, second, evaluated, *noised = plan(read_experiment(file), tmp_path).steps
    assert [step.name for step in noised] == ["noise-s0-0-0", "noise-s0-0-blank"]
    assert all(set(step.needs) == {first.name, second.name, evaluated.name} for step in noised)
    assert [step.after for step in noised] == [(), ("noise-s0-0-0",)]
    assert len({step.key for step in (evaluated, *noised)}) == 3


def test_seeds_of_one_base_model_ask_it_one_after_another(tmp_path: Path) -> None:
    """Its answers are one run, which one process at a time may write. An embedded world has a base model for every seed."""
    (tmp_path / "folder").mkdir()
    text = "seeds: [0, 1, 2]\nnoise: [0, blank]\narms: {a: {method: dpo}}\nsettings: {train.tuning: lora}\n"
    file = written(tmp_path / "a.yaml", text)
    shared = [
        "eval-s0-0",
        "noise-s0-0-0",
        "noise-s0-0-blank",
        "eval-s1-0",
        "noise-s1-0-0",
        "noise-s1-0-blank",
        "eval-s2-0",
    ]
    for model in ("llava-1.5-7b", str(tmp_path / "folder"), "org/name"):
        steps = {step.name: step for step in plan(read_experiment(file, {"model": model}), tmp_path).steps}
        for before, step in itertools.pairwise(shared):
            assert before in (*steps[step].needs, *steps[step].after), f"{step} runs beside {before}"
    drawn = plan(read_experiment(file), tmp_path).steps
    assert not [step.name for step in drawn if step.kind == "eval" and step.after], "each seed has its base model"


def test_arms_that_share_a_run_are_one_row_with_the_names_of_both(tmp_path: Path) -> None:
    """Such as two arms for which a search chose the same settings."""
    text = "seeds: [0, 6]\narms: {a: {method: dpo}, b: {method: dpo}, c: {method: dpo, data: 'pocket:6'}}\n"
    experiment = read_experiment(written(tmp_path / "a.yaml", text))
    steps = plan(experiment, tmp_path)
    for seed in (0, 6):
        run, model = steps.labels["a", seed], steps.worlds[seed]
        assert run == steps.labels["b", seed]
        for name in {run, steps.labels["c", seed]}:
            data = f"{model.replace(':', '-')}-test"
            make_run(tmp_path / "runs", name, ["A dog."] * 4, data, method="dpo", model=model, source=f"{model}@test")
    write_page(experiment, steps, ExperimentFolder(tmp_path / "a", tmp_path), {}, Searches([]))
    board = (tmp_path / "a/index.md").read_text().partition("## Leaderboard")[2].partition("## Arms")[0]
    rows = [line.split("|")[1].strip() for line in board.splitlines() if line.startswith("| ")]
    assert rows == ["checkpoint", "a = b", "c"], "with seed 6 all three share a run, with seed 0 only two of them"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("split: validation\n", "seeds 0; validation split. "),
        ("benchmarks: pocket:9@validation\n", "seeds 0; scored on pocket-9-validation. "),
        ("model: llava-1.5-7b\n", "seeds 0; scored on official. "),
    ],
)
def test_the_page_says_what_the_runs_are_scored_on(more: str, said: str, tmp_path: Path) -> None:
    experiment = read_experiment(written(tmp_path / "a.yaml", f"{more}arms: {{a: {{method: dpo}}}}\n"))
    assert said in _head(experiment, plan(experiment, tmp_path))[0]


def test_shipped_experiments_have_names() -> None:
    assert find_experiment("pocket") == EXPERIMENTS / "pocket.yaml"
    assert find_experiment("mfpo/table1") == EXPERIMENTS / "mfpo" / "table1.yaml"
    assert find_experiment("mine.yaml") == Path("mine.yaml"), (
        "a file that is not there is said to be missing when it is read"
    )
    with pytest.raises(BadInputError, match="mfpo/table3") as caught:
        find_experiment("mfpo/table3")
    assert "mfpo/table8" in str(caught.value)


WORLD = """arms:
  a: {method: dpo}
  b: {method: rlhfv, search: {method.beta: [3]}}
world:
  limit: 5
  settings: {train.epochs: 2}
  search:
    objective: chair_s
    runs: 2
    sampler: grid
    space: {method.beta: [1, 2]}
"""


@pytest.mark.claims("experiment.world")
def test_what_only_an_embedded_world_gets(tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", WORLD)
    drawn = read_experiment(file)
    assert drawn.spec.limit == 5 and drawn.spec.search is not None and drawn.spec.search.runs == 2
    assert [dict(arm.space) for arm in drawn.arms] == [{"method.beta": [1, 2]}, {"method.beta": [3]}]
    assert all(dotted(arm.settings) == {"train.epochs": 2} for arm in drawn.arms)
    other = read_experiment(file, {"model": "llava-1.5-7b"})
    assert other.spec.limit is None and other.spec.search is None
    assert not any(arm.space or arm.settings for arm in other.arms)
    assert read_experiment(file, {"limit": 9}).spec.limit == 9, "the command line has the last word"


def test_world_in_the_name_of_data_is_the_models_world(tmp_path: Path) -> None:
    """So that a file for one embedded world does not train a model of another on its pairs."""
    file = written(
        tmp_path / "a.yaml",
        "settings: {train.balance.data: world@rlaif-v}\n"
        "arms:\n  a: {method: dpo, data: world@rlhf-v}\n  b: {method: dpo, generate: {judge: chair, prompts: world}}\n",
    )
    for model, name in (("pocket", "pocket"), ("pocket:3", "pocket"), ("pocket-rich", "pocket-rich")):
        first, second = read_experiment(file, {"model": model}).arms
        assert first.data == f"{name}@rlhf-v" and second.generate is not None and second.generate.prompts == name
        assert dotted(first.settings) == {"train.balance.data": f"{name}@rlaif-v"}
    with pytest.raises(
        BadInputError, match=r"'world@rlaif-v' are those of an embedded world, and 'llava-1.5-7b' is a model of none"
    ):
        read_experiment(file, {"model": "llava-1.5-7b"})


@pytest.mark.parametrize(
    ("wrong", "line", "said"),
    [
        (("limit: 5", "limit: 0"), 7, "greater than or equal to 1"),
        (("limit: 5", "limits: 5"), 7, "an experiment has no 'limits'"),
        (
            ("a: {method: dpo}", "a: {method: dpo, grid: {method.beta: [3]}}"),
            4,
            "is searched, and also in grid or pairs",
        ),
    ],
)
def test_mistakes_in_what_a_world_gets(wrong: tuple[str, str], line: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=said) as caught:
        read_experiment(written(tmp_path / "a.yaml", WORLD.replace(*wrong)))
    assert str(caught.value.where).endswith(f"a.yaml, line {line}")


def test_a_folder_is_all_its_experiments(tmp_path: Path) -> None:
    shipped = named_experiments(["mfpo", "mfpo/table1", "pocket"])
    assert shipped == [*(f"mfpo/{path.stem}" for path in sorted((EXPERIMENTS / "mfpo").glob("*.yaml"))), "pocket"]
    for name in ("b.yaml", "a.yaml"):
        (tmp_path / name).write_text(HEAD)
    assert named_experiments([str(tmp_path)]) == [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    with pytest.raises(BadInputError, match="two of the experiments are named 'pocket'"):
        named_experiments(["pocket", "other/pocket.yaml"])


def test_the_tables_of_the_paper_search_every_arm_equally_hard(tmp_path: Path) -> None:
    """On the pocket world; at full size they run without its search, sample and settings."""
    for name in named_experiments(["mfpo"]):
        entry = open_experiment(name, {}, tmp_path, many=False)
        searched = entry.searches.searched
        trained = [arm.label for arm in entry.experiment.arms if arm.stage is None]
        assert [found.arm.label for found in searched] == trained
        assert {len(grid_of(found.arm.space)) for found in searched} == {6}, name
        assert all(found.default is not None for found in searched), f"{name}: an arm's own setting is no candidate"
        full = read_experiment(find_experiment(name), {"model": "llava-1.5-7b", "data": "rlhf-v"})
        assert full.spec.search is None and full.spec.limit is None
        assert not any("train" in arm.settings for arm in full.arms)


def test_a_world_is_made_by_a_step_of_its_own_so_that_no_other_step_waits_for_its_files(tmp_path: Path) -> None:
    text = "seeds: [0, 6]\narms: {a: {method: dpo, rounds: 2, generate: {judge: chair}}, b: {method: mfpo}}\n"
    steps = plan(read_experiment(written(tmp_path / "a.yaml", text)), tmp_path).steps
    worlds = {step.name: step.command for step in steps if step.kind == "world"}
    assert worlds == {"world-pocket": ("data", "get", "pocket"), "world-pocket-6": ("data", "get", "pocket:6")}
    for seed, world in ((0, "world-pocket"), (6, "world-pocket-6")):
        of_seed = [step for step in steps if step.about.endswith(f"seed {seed}") or f"seed {seed}:" in step.about]
        assert {step.kind for step in of_seed if world in step.needs} == {"generate", "align"}
        assert all(step.needs for step in of_seed), "nothing begins without the world"
    other = plan(
        read_experiment(written(tmp_path / "b.yaml", "model: llava-1.5-7b\narms: {a: {method: dpo}}\n")), tmp_path
    )
    assert not [step for step in other.steps if step.kind == "world"]


def test_the_sets_of_a_world_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PocketWorld, "_part", lambda self, part, make: tmp_path / f"{part}-{self.seed}")
    assert pairs_of("pocket:6@rlaif-v", "rlhfv") == str(tmp_path / "preferences-6" / "rlaif-v.parquet")
    assert pairs_of("pocket:6", "rlhfv") == pairs_of("pocket:6@rlhf-v", "dpo") == pairs_of("pocket:6@rlhf-v", None)
    assert pairs_of("pocket", "dpo") == pairs_of("pocket@rlaif-v", None)
    assert pairs_of("org/data@main", "dpo") == "org/data@main", "no world's name: as it is"
    with pytest.raises(BadInputError, match="'pocket:6' has no preference data named 'silkie'") as caught:
        pairs_of("pocket:6@silkie", "dpo")
    assert "pocket:6@rlhf-v or pocket:6@rlaif-v" in str(caught.value)
