"""A plugin author's mistake is said to be the author's, with file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.commands import harness, run_here
from tests.harness.core.mistaken_plugins import (
    ALIGN,
    ENGINE,
    EVAL,
    GRADER,
    HEAD,
    JUDGED,
    METHOD,
    SUITE,
    WORLD,
    check,
    said_by,
)
from tests.harness.core.mistaken_plugins import folder as folder
from tests.plugins import installed

RAISED = {
    "import": ("# head", "1 / 0  # HERE", "ZeroDivisionError: division by zero"),
    "import, a name": ("# head", "import json; json.nothing  # HERE", "AttributeError"),
    "syntax": ("# head", "def = 3  # HERE", "SyntaxError"),
    "exit": ("# head", "raise SystemExit(0)  # HERE", "SystemExit: 0"),
    "class": ("    # more", "    beta = {}['x']  # HERE", "KeyError: 'x'"),
    "made": (
        "    # more",
        "    def __init__(self, settings=None): raise RuntimeError('made')  # HERE",
        "RuntimeError: made",
    ),
    "prepare": ("    # more", "    def prepare(self, examples, context): return examples[99]  # HERE", "IndexError"),
    "stages": ("    # more", "    def stages(self, examples, context): assert not examples  # HERE", "AssertionError"),
    "loss": ("        # before", "        policy['none']  # HERE", "KeyError: 'none'"),
    "loss, exit": ("        # before", "        exit(0)  # HERE", "SystemExit: 0"),
    "loss, below": ("        # before", "        gap.view(7, 7, 7)  # HERE", "RuntimeError"),
    "after a step": ("    # more", "    def after_step(self, means): means['none']  # HERE", "KeyError: 'none'"),
    "loss, a file": ("        # before", "        open('/')  # HERE", "IsADirectoryError"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", RAISED)
def test_what_a_method_raises(what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, line, said = RAISED[what]
    source = ("# head\n" + HEAD + METHOD).replace(at, line, 1)
    plugin = installed(tmp_path / "site", source, {"aligners.mine": "Mine"})
    check(said_by(plugin, ALIGN, folder, monkeypatch), plugin, "'mine' (method)", said)


GIVEN = {
    # what is wrong: (line of METHOD, what stands there, the line that is named, words)
    "no loss": ("        return Loss(-gap)", "        Loss(-gap)", "def loss", "Mine.loss returned None"),
    "a tensor": ("Loss(-gap)", "-gap", "def loss", "returned a Tensor"),
    "a scalar": ("Loss(-gap)", "Loss(-gap.mean())", "def loss", "the shape [] as per_example"),
    "a column": ("Loss(-gap)", "Loss(-gap[:, None])", "def loss", "the shape [4, 1] as per_example"),
    "detached": ("Loss(-gap)", "Loss(-gap.detach())", "def loss", "without a gradient"),
    "whole": ("Loss(-gap)", "Loss((-gap).long())", "def loss", "torch.int64"),
    "nan": ("Loss(-gap)", "Loss(-gap * float('nan'))", "def loss", "a non-finite loss for example"),
    "its loss twice": ("Loss(-gap)", "Loss(-gap, {'loss': gap.detach()})", "def loss", "a metric named 'loss'"),
    "our column": ("Loss(-gap)", "Loss(-gap, {'margin': gap.detach()})", "def loss", "a metric named 'margin'"),
    "mean metric": ("Loss(-gap)", "Loss(-gap, {'gap': gap.mean()})", "def loss", "metrics['gap']"),
    "nan metric": (
        "Loss(-gap)",
        "Loss(-gap, {'gap': gap.detach() * float('nan')})",
        "def loss",
        "as the metric 'gap' of example",
    ),
    "other metrics": (
        "Loss(-gap)",
        "Loss(-gap, {f'at{id(gap)}': gap.detach()})",
        "def loss",
        "the same names at every call",
    ),
    "no examples": ("    # more", "    def prepare(self, examples, context): pass", "def prepare", "returned None"),
    "a generator": (
        "    # more",
        "    def prepare(self, examples, context): return (one for one in examples)",
        "def prepare",
        "generator",
    ),
    "twice": (
        "    # more",
        "    def prepare(self, examples, context): return [*examples, *examples]",
        "def prepare",
        "twice",
    ),
    "examples for stages": (
        "    # more",
        "    def stages(self, examples, context): return examples",
        "def stages",
        "Stage",
    ),
    "no stage": ("    # more", "    def stages(self, examples, context): return []", "def stages", "returned []"),
    "an empty stage": (
        "    # more",
        "    def stages(self, examples, context): return [Stage('one', [])]",
        "def stages",
        "no example",
    ),
    "two of one name": (
        "    # more",
        "    def stages(self, examples, context): return [Stage('one', examples)] * 2",
        "def stages",
        "two stages named 'one'",
    ),
    "a stage's name": (
        "    # more",
        "    def stages(self, examples, context): return [Stage('../one', examples)]",
        "def stages",
        "a stage named '../one'",
    ),
    "a reference": (
        "    # more",
        "    def stages(self, examples, context): return [Stage('one', examples, 'first')]",
        "def stages",
        "reference='first'",
    ),
    "a new state": (
        "    # more",
        "    def after_step(self, means): self.state['seen'] = 1.0",
        "def after_step",
        "the state {'seen': 1.0}",
    ),
    "branches": ("    # more", "    branches = ('chosen', 'rejected')", "class Mine", "Mine.branches"),
    "chosen": ("    # more", "    branches = (Branch('good'),)", "class Mine", "the names good"),
    "needs": ("    # more", "    needs = frozenset({'correction'})", "class Mine", "Mine.needs"),
    "defaults": ("    # more", "    train_defaults = {'learning_rat': 1}", "class Mine", "learning_rat"),
    "abstract": ("def loss", "def los", "class Mine", "Mine does not define loss"),
    "the base": ("class Mine(Aligner)", "class Mine", "class Mine", "not a subclass of aligners.base.Aligner"),
    "its name": ('"mine", "a', '"other", "a', "class Mine", "registered as 'mine'"),
    "a summary": ('"a method"', "None", "class Mine", "Mine.summary is None"),
    "settings": ("    # more", "    Settings = dict", "class Mine", "Mine.Settings"),
    "a bare setting": (
        "    # more",
        "    class Settings(AlignerSettings):\n        gamma: float",
        "class Mine",
        "gamma has no default",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", GIVEN)
def test_what_a_method_gives(what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, line, place, said = GIVEN[what]
    source = (HEAD + METHOD).replace(at, line, 1)
    plugin = installed(tmp_path / "site", source, {"aligners.mine": "Mine"})
    check(said_by(plugin, ALIGN, folder, monkeypatch), plugin, "'mine' (method)", said, place=place)


SUITES = {
    "items": ("return found  # items", "return data / 3  # HERE", "# HERE", "TypeError"),
    "no items": ("return found  # items", "pass", "def items", "Mine.items returned None"),
    "none of them": ("return found  # items", "return []", "def items", "an empty list"),
    "one id": ("Item(str(n)", "Item('one'", "def items", "two items with the id 'one'"),
    "a number as id": ("Item(str(n)", "Item(n", "def items", "id is 0"),
    "a path": ('ImageRef(data / "a.png")', '"a.png"', "def items", "as its image"),
    "a text as path": ('ImageRef(data / "a.png")', 'ImageRef("a.png")', "def items", "an ImageRef whose path is a str"),
    "score": ("        # before", "        responses['none']  # HERE", "# HERE", "KeyError: 'none'"),
    "no scores": ("return found  # score", "pass", "def score", "Mine.score returned None"),
    "fewer": ("return found  # score", "return found[1:]", "def score", "2 scores for 3 items"),
    "turned round": ("return found  # score", "return found[::-1]", "def score", "instead of item 0"),
    "numbers": ("return found  # score", "return [1.0] * 3", "def score", "a float for item 0"),
    "words": ('{"right": 1.0}', '{"right": "yes"}', "def score", "'yes' as its count 'right'"),
    "nan": ('{"right": 1.0}', '{"right": float("nan")}', "def score", "nan as its count 'right'"),
    "n": ('{"right": 1.0}', '{"right": 1.0, "n": 1}', "def score", "a count named 'n'"),
    "a group": ("item.group, {", "'other', {", "def score", "the group 'other'"),
    "details": ("1.0})", "1.0}, details={'a': {1}})", "def score", "a value that cannot be written as JSON"),
    "evidence": ("1.0})", "1.0}, (Evidence('dog', 'wrong'),))", "def score", "the evidence"),
    "a span": ("1.0})", "1.0}, (Evidence('dog', 'correct', 'dog', (0, 99)),))", "def score", "the evidence"),
    "partner": ("headline=True)", "headline=True, invented_by='x')", "class Mine", "'accuracy' with invented_by='x'"),
    "aggregate": ('return {"accuracy": totals', 'return {"accuracy": {}["x"] + totals', "# aggregate", "KeyError: 'x'"),
    "a scalar": ('totals["right"] / totals["n"]', "0.5", "def aggregate", "'accuracy' of the shape []"),
    "sums": (
        'totals["right"] /',
        'totals["n"].max() and totals["right"] / totals["n"].max() + 0 *',
        "def aggregate",
        "the metrics of each resample on its own",
    ),
    "percent": ('totals["right"] /', '100 * totals["right"] /', "def aggregate", "100 as 'accuracy', in %"),
    "infinite": ('totals["right"] /', 'float("inf") + 0 *', "def aggregate", "an infinite 'accuracy'"),
    "another metric": ('{"accuracy":', '{"accurate":', "def aggregate", "a value for each of its metrics: accuracy"),
    "no metric": (
        '(MetricSpec("accuracy", "Accuracy", higher_is_better=True, headline=True),)',
        "()",
        "class Mine",
        "()",
    ),
    "provenance": (
        "    # more",
        "    def provenance(self): return {'a': {1}}  # HERE",
        "# HERE",
        "a value that cannot be written as JSON",
    ),
    "tokens": ('"this file", 16', '"this file", "16"', "class Mine", "max_new_tokens is '16'"),
    "a validator": (
        "    # more",
        "    class Settings(BenchmarkSettings):\n        a: int = 1\n"
        "        @field_validator('a')\n        def odd(cls, value): return {}['x']  # HERE\n",
        "# HERE",
        "KeyError: 'x'",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SUITES)
def test_a_suite(what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, line, place, said = SUITES[what]
    source = (HEAD + ENGINE + SUITE).replace(at, line, 1)
    assert source != HEAD + ENGINE + SUITE
    plugin = installed(tmp_path / "site", source, {"benchmarks.mine": "Mine", "backends.engine": "Engine"})
    command = [*EVAL, "--set", "mine.a=3"] if what == "a validator" else EVAL
    check(said_by(plugin, command, folder, monkeypatch), plugin, "'mine' (suite)", said, place=place)


ENGINES = {
    "generate": ("yield Completion(", "{}['x']; yield Completion(", "# generate", "KeyError: 'x'"),
    "nothing": (
        "yield Completion(request.id",
        "continue; yield Completion(request.id",
        "def generate",
        "nothing for 3 of 3",
    ),
    "another id": ("Completion(request.id", "Completion('one'", "def generate", "a completion with the id 'one'"),
    "twice": (
        'yield Completion(request.id, request.target, "yes", "stop", 3, 1)',
        'yield from [Completion(request.id, request.target, "yes", "stop", 3, 1)] * 2',
        "def generate",
        "a second completion",
    ),
    "texts": ('"yes"', "None", "def generate", "text=None"),
    "a reason": ('"stop"', '"eos"', "def generate", "finish_reason='eos'"),
    "tokens": ("3, 1)", "'3', 1)", "def generate", "prompt_tokens='3'"),
    "a text": ("            yield Completion(", "            yield str(", "def generate", "TypeError"),
    "missing": ("return None", "return {}['x']  # HERE", "# HERE", "KeyError: 'x'"),
    "start": (
        "def start(self):\n        pass",
        "def start(self):\n        1 / 0  # HERE",
        "# HERE",
        "ZeroDivisionError",
    ),
    "provenance": ('{"backend": "engine"}', "None", "def provenance", "returned None"),
}
ENGINES["a text"] = ("yield Completion(request.id", "yield str  # ", "def generate", "returned <class 'str'>")


@pytest.mark.parametrize("what", ENGINES)
def test_a_backend(what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, line, place, said = ENGINES[what]
    source = (HEAD + SUITE + ENGINE).replace(at, line, 1)
    assert source != HEAD + SUITE + ENGINE
    plugin = installed(tmp_path / "site", source, {"benchmarks.mine": "Mine", "backends.engine": "Engine"})
    check(said_by(plugin, EVAL, folder, monkeypatch), plugin, "'engine' (backend)", said, place=place)


JUDGES = {
    "judge": ("yield JudgeReply(", "1 / 0; yield JudgeReply(", "# judge", "ZeroDivisionError"),
    "another item": ("JudgeReply(one.item.id", "JudgeReply('none'", "def judge", "JudgeReply(item_id='none'"),
    "a number": ('"1.0"', "1.0", "def judge", "text=1.0"),
    "no reply": ('"1.0"', "None", "def judge", "an error text"),
    "no iterator": ("yield JudgeReply(one", "return JudgeReply(one", "def judge", "an iterator of JudgeReply"),
}


@pytest.mark.parametrize("what", JUDGES)
def test_a_judge(what: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, line, place, said = JUDGES[what]
    source = (HEAD + JUDGED + ENGINE + GRADER).replace(at, line, 1)
    entries = {"benchmarks.mine": "Mine", "backends.engine": "Engine", "judges.grader": "Grader"}
    plugin = installed(tmp_path / "site", source, entries)
    said_ = said_by(plugin, [*EVAL, "--judge", "grader"], folder, monkeypatch)
    check(said_, plugin, "'grader' (judge)", said, place=place)


def test_the_good_ones_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mistakes are made in is right without them, or each test above would pass for another reason."""
    plugin = installed(tmp_path / "site", HEAD + METHOD, {"aligners.mine": "Mine"})
    monkeypatch.syspath_prepend(str(plugin.site))
    assert run_here(ALIGN, folder)[0] == 0
    judged = {"benchmarks.mine": "Mine", "backends.engine": "Engine", "judges.grader": "Grader"}
    monkeypatch.syspath_prepend(str(installed(tmp_path / "other", HEAD + JUDGED + ENGINE + GRADER, judged).site))
    code, out, said = run_here([*EVAL, "--judge", "grader", "--json"], folder)
    assert code == 0, said
    assert json.loads(out)[0]["metrics"]["accuracy"]["value"] == 1.0


def test_a_world(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = installed(tmp_path / "site", HEAD + WORLD, {"worlds.mine": "Mine"})
    said = said_by(plugin, ["align", "--method", "dpo", "--model", "mine", "--name", "w"], folder, monkeypatch)
    check(said, plugin, "'mine' (world)", "ZeroDivisionError: no model today")


def test_a_broken_plugin_stops_nobody_who_does_not_use_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "raise ValueError('broken')  # HERE"
    kinds = ("worlds", "benchmarks", "aligners", "backends", "judges")
    plugin = installed(tmp_path / "site", source, {f"{kind}.broken-{kind}": "Mine" for kind in kinds})
    monkeypatch.syspath_prepend(str(plugin.site))
    code, out, said = run_here(["list", "--json"], folder)
    assert code == 0, said
    told = {row["name"]: row["about"] for row in json.loads(out) if row["from"].startswith(plugin.distribution)}
    assert set(told) == {f"broken-{kind}" for kind in kinds}
    assert all("ValueError: broken" in about and plugin.place() in about for about in told.values())
    code, _, said = run_here(["data", "check", "rlaif-v.parquet"], folder)
    assert code == 0, said


def test_two_of_one_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = installed(tmp_path / "one", HEAD + METHOD, {"aligners.mine": "Mine"})
    other = installed(tmp_path / "other", HEAD + METHOD, {"aligners.mine": "Mine"})
    monkeypatch.syspath_prepend(str(plugin.site))
    said = said_by(other, ALIGN, folder, monkeypatch)
    assert plugin.distribution in said and other.distribution in said and "uninstall one of them" in said


def test_no_such_module_and_no_such_class(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = installed(tmp_path / "one", HEAD + METHOD, {"aligners.mine": "Yours"})
    said = said_by(plugin, ALIGN, folder, monkeypatch)
    assert f"{plugin.module} has no 'Yours'" in said and plugin.distribution in said
    gone = installed(tmp_path / "two", HEAD + METHOD, {"aligners.gone": "Mine"})
    gone.file.unlink()
    said = said_by(gone, [word.replace("mine", "gone") for word in ALIGN], folder, monkeypatch)
    assert f"no module '{gone.module}'" in said and f"reinstall {gone.distribution}" in said


@pytest.mark.slow
@pytest.mark.parametrize("what", ["import", "loss"])
def test_in_a_process_of_its_own(what: str, folder: Path, tmp_path: Path) -> None:
    """As a person has it, and with --debug the traceback."""
    at, line, said = RAISED[what]
    plugin = installed(tmp_path / "site", ("# head\n" + HEAD + METHOD).replace(at, line, 1), {"aligners.mine": "Mine"})
    command = [*ALIGN, "--results", what]
    path = os.pathsep.join(filter(None, (str(plugin.site), os.environ.get("PYTHONPATH"))))
    done = harness(folder, *command, code=2, PYTHONPATH=path, HF_HUB_OFFLINE="1", COLUMNS="2000")
    check(" ".join(done.stderr.split()), plugin, said)
    assert "Traceback" not in done.stderr
    failed = folder / what / "mine" / "failed.json"
    if what == "loss":
        assert plugin.place() in json.loads(failed.read_text())["reason"]
    done = harness(folder, *command, "--debug", code=2, PYTHONPATH=path, HF_HUB_OFFLINE="1")
    assert "Traceback" in done.stderr


def test_a_defect_of_ours_below_a_plugins_override_is_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An override that only hands on to ours is not to blame for what fails there."""
    import aligners.training.run as trainer

    source = (HEAD + METHOD).replace("    # more", "    def align(self, job): return super().align(job)", 1)
    plugin = installed(tmp_path / "site", source, {"aligners.mine": "Mine"})
    monkeypatch.syspath_prepend(str(plugin.site))
    monkeypatch.setattr(trainer, "check_trainer", lambda *given: {}["ours"])
    code, _, said = run_here(ALIGN, folder)
    assert code == 1 and "this is a defect of the harness: KeyError: 'ours'" in said, said
