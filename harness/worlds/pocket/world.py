"""The pocket world, kept in the user's cache folder under a hash of everything that determines it."""

from __future__ import annotations

import ast
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from filelock import FileLock

from harness.core.children import in_child
from harness.core.errors import HarnessError
from harness.core.files import atomic_folder, read_json, sha256_bytes, sha256_json, write_json
from harness.core.paths import cache_folder
from harness.core.worlds import Split, World
from harness.core.yaml_values import read_yaml
from harness.worlds.pocket import shipped
from harness.worlds.pocket.rich import make_rich_scenes
from harness.worlds.pocket.scenes import SceneMaker, make_scenes

logger = logging.getLogger(__name__)

_DRAWN = ("scenes.py", "draw.py", "text.py")
_SHAPING = {
    "model": (*_DRAWN, "network.py", "training.py", "arithmetic.py"),
    "preferences": (*_DRAWN, "network.py", "training.py", "arithmetic.py", "preferences.py"),
    "benchmarks": (*_DRAWN, "formats.py", "general.py"),
}
"""The sources that determine each part's bytes: if the code of any of them changes, the part is made again."""
RLHFV_METHODS = frozenset({"rlhfv"})


class PocketWorld(World):
    """Twenty COCO classes drawn as pictograms; captions that name absent partners; a LLaVA of 1.6 M parameters."""

    name = "pocket"
    summary = "drawn pictures with known ground truth, and a small LLaVA trained on them; seed 0 comes with the package"
    judge = "pocket-truth"
    methods = ("dpo", "rlhfv", "mfpo")
    suites = ("halbench", "amber", "pope", "mmhal")
    pair_sets = ("rlhf-v", "rlaif-v")
    sources: ClassVar[tuple[str, ...]] = ()
    """Sources beside `_SHAPING` that determine every part."""
    comes_with_a_model: ClassVar[bool] = True
    """Whether the base model of seed 0 is in the package."""
    training: ClassVar[Mapping[str, Any]] = {}
    """Settings of the base model's training (`training.Recipe`) that are not the defaults. They are not part of the key, so they may only
    decide which model is refused, and not how one is trained."""

    @property
    def draw_scenes(self) -> SceneMaker:
        """What draws the scenes of a split."""
        return make_scenes

    @property
    def _is_shipped(self) -> bool:
        return self.comes_with_a_model and self.seed == shipped.SEED

    def model(self) -> Path:
        """The base model's folder. One that does not come with the package takes six to seven minutes on two cores, once."""

        def make(folder: Path) -> None:
            if self._is_shipped:
                shipped.unpack(folder / "content")
                return
            # It takes 3 GB, which alignment and engine need afterwards.
            in_child(train_model, self.seed, folder / "content", self.draw_scenes, self.training, self.name)

        return self._part("model", make)

    def preferences(self, method: str | None = None) -> Path:
        """RLHF-V-style corrected pairs for methods that weigh corrections, RLAIF-V-style pairs for the others."""
        return self.preference_set("rlhf-v" if method in RLHFV_METHODS else "rlaif-v")

    def preference_set(self, name: str) -> Path:
        """`rlhf-v`: the rejected answer, corrected; `rlaif-v`: another, faithful answer."""

        def make(folder: Path) -> None:
            from harness.worlds.pocket.preferences import make_pairs, write_preferences

            samples = shipped.samples() if self._is_shipped else sample_model(self.model(), self.seed, self.draw_scenes)
            (folder / "content").mkdir()
            write_preferences(make_pairs(samples, self.seed, self.draw_scenes), folder / "content")

        return self._part("preferences", make) / f"{name}.parquet"

    def benchmarks(self, split: Split) -> Path:
        """The suites' files for a split."""

        def make(folder: Path) -> None:
            from harness.worlds.pocket.formats import write_benchmarks

            logger.info(f"writing the benchmark files ({split})")
            write_benchmarks(self.seed, split, folder / "content", self.draw_scenes)

        return self._part("benchmarks", make, split)

    def recipe(self, method: str) -> dict[str, Any]:
        """Settings chosen on the validation split (docs/results/pocket.md)."""
        path = Path(__file__).with_name("recipes") / f"{method}.yaml"
        return dict(read_yaml(path, "recipe")) if path.exists() else {}

    def _part(self, part: str, make: Callable[[Path], None], detail: str = "") -> Path:
        """The content folder of a part, created if necessary; a second process waits for the first."""
        key = _key(part, self.sources, self._is_shipped)
        folder = cache_folder() / self.name / f"{part}{'-' + detail if detail else ''}-s{self.seed}-{key[:16]}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "made.json").exists():
                with atomic_folder(folder) as temporary:
                    make(temporary)
                    write_json(temporary / "made.json", {"part": part, "seed": self.seed, "key": key})
            read_json(folder / "made.json", "world's manifest")
        return folder / "content"


class RichPocketWorld(PocketWorld):
    """The pocket world with pictures after COCO's statistics: small objects that no caption names, and clutter (`pocket.rich`)."""

    name = "pocket-rich"
    summary = "the pocket world with crowded pictures after COCO's statistics: more in them than captions tell"
    sources = ("rich.py",)
    comes_with_a_model = False
    # Crowded pictures are harder: on AMD cores without AMX, seeds 0 and 1 reached 0.84 (2026-11-27). Without the skill it is 0.5.
    training: ClassVar[Mapping[str, Any]] = {"accuracy_wanted": 0.75}

    @property
    def draw_scenes(self) -> SceneMaker:
        """What draws the scenes of a split."""
        return make_rich_scenes


def train_model(
    seed: int,
    folder: Path,
    draw_scenes: SceneMaker = make_scenes,
    training: Mapping[str, Any] = MappingProxyType({}),
    world: str = PocketWorld.name,
) -> None:
    """Train a base model into the new folder `folder`.

    Args:
        seed: of the world.
        folder: the folder.
        draw_scenes: what draws the world's scenes.
        training: settings of `training.Recipe` that are not the defaults.
        world: the world's name, for errors.

    Raises:
        HarnessError: it answers fewer existence questions correctly than the recipe wants.
    """
    from harness.models import export_full
    from harness.worlds.pocket.training import Recipe, train_base

    try:
        base = train_base(seed, Recipe(**training), draw_scenes)
    except HarnessError as error:
        if error.where != f"pocket world, seed {seed}":
            raise
        # `training.py` does not know the world, and a change of its code would change the key of every trained base model.
        raise HarnessError(
            error.problem, where=f"the world {world}, seed {seed}", remedy=f"use another seed: --model {world}:SEED"
        ) from error
    export_full(base.model, base.processor, folder)


def sample_model(folder: Path, seed: int, draw_scenes: SceneMaker = make_scenes) -> list[str]:
    """The captions of a base model for the pictures of the preference split."""
    from harness.models import load_model, load_processor
    from harness.worlds.pocket.preferences import sample_base
    from harness.worlds.pocket.training import Base

    return sample_base(Base(load_model(folder, device="cpu"), load_processor(folder)), seed, draw_scenes=draw_scenes)


@functools.cache
def _key(part: str, more: tuple[str, ...], is_shipped: bool) -> str:
    """Hash of the sources that determine a part, `more` among them; if torch computes it, also of torch's version and the arithmetic.

    The shipped base model is determined by its file alone, and pairs of its captions by these and what is drawn.
    """
    if part == "model" and is_shipped:
        return sha256_json({"shipped": shipped.digest()})
    shaping = (*_DRAWN, "preferences.py") if part == "preferences" and is_shipped else _SHAPING[part]
    sources: dict[str, str] = {name: _code_hash(Path(__file__).with_name(name)) for name in (*shaping, *more)}
    if part == "preferences" and is_shipped:
        sources["samples"] = shipped.samples_digest()
    elif part != "benchmarks":
        import torch

        from harness.models import devices

        sources["torch"] = torch.__version__
        sources["arithmetic"] = "bfloat16" if devices.multiplies_bfloat16() else "float32"
    return sha256_json(sources)


def recipe_hash() -> str:
    """Hash of the sources that determine a trained base model. It depends on the version of Python, whose syntax tree is hashed."""
    return sha256_json({name: _code_hash(Path(__file__).with_name(name)) for name in _SHAPING["model"]})


def _code_hash(path: Path) -> str:
    """Hash of a source's syntax tree without docstrings and imports, so that comments, layout and moved modules do not matter."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_idle(one)] or [ast.Pass()]  # type: ignore[attr-defined]
    return sha256_bytes(ast.dump(tree).encode())


def _is_idle(node: ast.AST) -> bool:
    """Whether a statement computes nothing: an import, a docstring, or the words under a constant."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
