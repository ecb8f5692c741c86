"""Trains the small LLaVA from scratch on the drawn world: first its tower and projector on patch labels, then the rest on text.

What makes it take only minutes on two cores, and succeed with every seed:

- The tower is frozen in the second stage and its features are computed once; questions are asked one per row.
- The patch labels are the word embeddings themselves: a patch of a red dog on the left, projected, points where the words "dog",
  "red" and "left" point. And the language model's first layer starts with equal query and key weights, so that a word attends to the
  patches with its direction. Without both, the skill of answering "Is there a dog?" appeared late, or, with some seeds, not at all.
- The language model's matrices are trained with Muon (Jordan et al., 2024): after the same 1,000 steps (seed 0, one run each) the
  captions' loss was 0.277, with AdamW 0.315.
- The text starts with existence questions until that skill has appeared (`Recipe.lookup_wanted`), and continues with all kinds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from harness.core.errors import HarnessError
from harness.core.progress import progress
from harness.models import prompt_text
from harness.worlds.pocket import network, text
from harness.worlds.pocket.draw import draw
from harness.worlds.pocket.scenes import CLASSES, COLOURS, Scene, SceneMaker, generator, make_scenes


@dataclass(frozen=True)
class Recipe:
    """Training settings of the base model. Part of the cache key, as is this file's code."""

    pictures: int = 12_000
    tower_steps: int = 1_000
    tower_batch: int = 64
    tower_rate: float = 3e-3
    cosine_scale: float = 20.0
    """Logit of a patch that points exactly where its word points."""
    cosine_offset: float = 6.0
    """Subtracted from every word's logit, so that a patch without a direction is background."""
    matching_scale: float = 4.0
    """The first layer's query weights are enlarged by this before they are copied to the keys."""
    rate: float = 1e-3
    """AdamW's, for embeddings, projector and norms."""
    muon_rate: float = 3e-3
    """Muon's, for the language model's matrices, in units of AdamW's (its updates are scaled to AdamW's size)."""
    caption_batch: int = 48
    question_batch: int = 96
    captions_a_picture: int = 1
    questions_a_picture: int = 4
    """Texts of one picture share its tokens' computation: concatenated in a row, each sees only the picture and itself."""
    lookup_steps: int = 700
    """Maximum number of steps of the existence stage."""
    lookup_every: int = 50
    """Steps between two measurements of the skill."""
    lookup_caption_every: int = 4
    lookup_wanted: float = 0.90
    steps: int = 900
    question_every: int = 3
    accuracy_wanted: float = 0.85

    def as_dict(self) -> dict[str, Any]:
        """For the cache key."""
        return asdict(self)


@dataclass
class Base:
    """A trained base model with its processor, and the frozen tower's features as a function of pictures."""

    model: Any
    processor: Any
    _prompts: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt in the chat template, without the image's. Cached, because a template is slow and prompts repeat."""
        if prompt not in self._prompts:
            words = prompt_text(self.processor, prompt).removeprefix(network.IMAGE)
            self._prompts[prompt] = self.processor.tokenizer(words, add_special_tokens=False)["input_ids"]
        return self._prompts[prompt]

    def features(self, pictures: np.ndarray) -> Any:
        """Tower features [n, IMAGE_TOKENS, 96] of uint8 pictures [n, SIDE, SIDE, 3]."""
        import torch

        tower = self.model.model.vision_tower
        with torch.no_grad(), network.without_last_layer(tower):
            blocks = [
                tower(network.pixels(pictures[start : start + 256])).last_hidden_state[:, 1:]
                for start in range(0, len(pictures), 256)
            ]
        return torch.cat(blocks)


def pictures_of(scenes: list[Scene]) -> np.ndarray:
    """Drawn scenes, uint8 [n, SIDE, SIDE, 3]."""
    with progress("drawing pictures", len(scenes)) as advance:
        drawn = []
        for scene in scenes:
            drawn.append(np.asarray(draw(scene)))
            advance()
    return np.stack(drawn)


def train_base(seed: int, recipe: Recipe, draw_scenes: SceneMaker = make_scenes) -> Base:
    """Train a base model for the world with this seed and these scenes.

    Raises:
        HarnessError: the yes/no skill did not appear within the bounded extra steps.
    """
    scenes = draw_scenes(seed, "train", recipe.pictures)
    pictures = pictures_of(scenes)
    tokenizer = network.build_tokenizer(_corpus(scenes[:4000], seed))
    base = Base(network.build_model(tokenizer, seed), network.build_processor(tokenizer))
    _train_tower(base.model, tokenizer, scenes, pictures, seed, recipe)
    base.model.model.vision_tower.requires_grad_(False)
    features = base.features(pictures)
    _train_language(base, scenes, features, seed, recipe, draw_scenes)
    base.model.eval()
    return base


def _corpus(scenes: list[Scene], seed: int) -> Iterator[str]:
    """Text for the tokenizer."""
    rng = generator("corpus", seed)
    for scene in scenes:
        yield text.write_caption(text.biased_mentions(scene, rng), int(rng.integers(text.STYLES)))
        question = text.draw_question(scene, rng)
        yield f"USER: {question.prompt}\nASSISTANT:\n{question.answer}"
    for prompt in (text.SHORT_PROMPT, *text.DETAILED_PROMPTS):
        yield from [prompt] * 50


_WORDS = ((*CLASSES,), (*COLOURS,), ("left", "right"), ("top", "bottom"))
"""Labels of a patch: one word of each group, or none. The weights of the groups in the loss are `_WEIGHTS`."""
_WEIGHTS = (1.0, 0.5, 0.25, 0.25)


def _patch_labels(scene: Scene) -> np.ndarray:
    """For every group of `_WORDS` the index of the word, from 1, that describes the thing that covers most of a patch.

    0 if no word does, or for background. int64 [groups, IMAGE_TOKENS].
    """
    grid, patch = network.GRID, network.PATCH
    edges = np.arange(grid) * patch
    best = np.full((grid, grid), patch * patch / 4)
    labels = np.zeros((len(_WORDS), grid, grid), np.int64)
    for thing in scene.things:
        left, top, right, bottom = thing.box
        wide = np.clip(np.minimum(right, edges + patch) - np.maximum(left, edges), 0, None)
        high = np.clip(np.minimum(bottom, edges + patch) - np.maximum(top, edges), 0, None)
        area = high[:, None] * wide[None, :]
        covers = area > best
        best = np.where(covers, area, best)
        said = {thing.name, thing.colour, *text.place(thing).split()}
        for group, words in enumerate(_WORDS):
            labels[group][covers] = next((number for number, word in enumerate(words, 1) if word in said), 0)
    return labels.reshape(len(_WORDS), -1)


def _schedule(step: int, steps: int, warmup: int, floor: float) -> float:
    """Linear warm-up, then cosine down to `floor`."""
    return min(1.0, (step + 1) / warmup) * (
        floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * min(step, steps) / steps))
    )


def _step(loss: Any, optimizers: Iterable[tuple[Any, float]]) -> None:
    """Backward, clip, and a step of every optimizer with its rate."""
    import torch

    from harness.worlds.pocket import arithmetic

    optimizers = list(optimizers)
    for optimizer, _ in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer, rate in optimizers:
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
            group["lr"] = rate
        with arithmetic.of_optimizers():
            optimizer.step()


def _train_tower(
    model: Any, tokenizer: Any, scenes: list[Scene], pictures: np.ndarray, seed: int, recipe: Recipe
) -> None:
    """Stage 0: every patch's projected feature must point in the directions of the words for its class, its colour and its place."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    from harness.worlds.pocket import arithmetic

    def last_tokens(words: Iterable[str]) -> list[int]:
        return [tokenizer(f" {word}", add_special_tokens=False)["input_ids"][-1] for word in words]

    labels = torch.from_numpy(np.stack([_patch_labels(scene) for scene in scenes]))
    words = [last_tokens(group) for group in _WORDS]
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    embeddings = model.model.language_model.embed_tokens.weight
    optimizer = torch.optim.AdamW(
        [*tower.parameters(), *projector.parameters(), embeddings], weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    rng = generator("tower", seed)
    with (
        progress("training the vision tower", recipe.tower_steps) as advance,
        network.without_last_layer(tower),
    ):
        for step in range(recipe.tower_steps):
            chosen = rng.integers(0, len(scenes), recipe.tower_batch)
            with arithmetic.of_models():
                features = tower(network.pixels(pictures[chosen])).last_hidden_state[:, 1:]
            directions = normalize(projector(features.float()).flatten(0, 1), dim=-1)
            loss = torch.zeros(())
            for group, (tokens, weight) in enumerate(zip(words, _WEIGHTS, strict=True)):
                cosines = directions @ normalize(embeddings[tokens], dim=-1).T
                logits = recipe.cosine_scale * cosines - recipe.cosine_offset
                logits = torch.cat([logits.new_zeros(len(logits), 1), logits], 1)
                loss = loss + weight * cross_entropy(logits, labels[chosen, group].flatten())
            rate = recipe.tower_rate * _schedule(step, recipe.tower_steps, 30, 0.0)
            _step(loss, [(optimizer, rate)])
            advance(note=f"loss {loss.item():.3f}")


def _train_language(
    base: Base, scenes: list[Scene], features: Any, seed: int, recipe: Recipe, draw_scenes: SceneMaker
) -> None:
    """Stages 1 and 2: projector and language model on captions and questions, with precomputed features of the tower.

    Raises:
        HarnessError: the skill of answering existence questions did not appear, or was lost.
    """
    import torch

    from harness.worlds.pocket import arithmetic

    attention = base.model.model.language_model.layers[0].self_attn
    with torch.no_grad():
        attention.q_proj.weight.mul_(recipe.matching_scale)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
    trained = {name: value for name, value in base.model.named_parameters() if "vision_tower" not in name}
    matrices = {name: value for name, value in trained.items() if ".layers." in name and value.ndim == 2}
    rest = [value for name, value in trained.items() if name not in matrices]
    adam = torch.optim.AdamW(rest, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    muon = torch.optim.Muon(matrices.values(), weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    rng = generator("language", seed)
    shown = {"captions": 0.0, "questions": 0.0}

    def take_step(kind: str, rate: float) -> str:  # rate: share of the recipe's rates
        batch, each = (
            (recipe.caption_batch, recipe.captions_a_picture)
            if kind == "captions"
            else (recipe.question_batch, recipe.questions_a_picture)
        )
        chosen = rng.integers(0, len(scenes), batch // each)
        pairs = [_training_pair(scenes[index], kind, rng) for index in chosen for _ in range(each)]
        with arithmetic.of_models():
            loss = _language_loss(base, pairs, features[chosen])
        _step(loss, [(adam, recipe.rate * rate), (muon, recipe.muon_rate * rate)])
        name = "captions" if kind == "captions" else "questions"
        shown[name] = 0.9 * (shown[name] or loss.item()) + 0.1 * loss.item()
        return ", ".join(f"{name} {value:.3f}" for name, value in shown.items())

    skill = functools.partial(yes_no_accuracy, base, seed, draw_scenes=draw_scenes)
    with progress("training to use the image", recipe.lookup_steps) as advance:
        for step in range(recipe.lookup_steps):
            kind = "captions" if step % recipe.lookup_caption_every == 0 else "existence"
            note = take_step(kind, min(1.0, (step + 1) / 40))
            advance(note=note)
            if (step + 1) % recipe.lookup_every == 0 and skill() >= recipe.lookup_wanted:
                break
    with progress("training on captions and questions", recipe.steps) as advance:
        for step in range(recipe.steps):
            kind = "questions" if step % recipe.question_every == 0 else "captions"
            note = take_step(kind, _schedule(step, recipe.steps, 20, 0.03))
            advance(note=note)
    if (accuracy := skill()) < recipe.accuracy_wanted:
        raise HarnessError(
            f"the base model's yes/no skill did not appear: accuracy {accuracy:.0%} on held-out scenes",
            where=f"pocket world, seed {seed}",
            remedy="use another seed: --model WORLD:SEED",
        )


def _training_pair(scene: Scene, kind: str, rng: np.random.Generator) -> tuple[str, str]:
    """Prompt and answer."""
    if kind == "captions":
        prompts = (text.SHORT_PROMPT, *text.DETAILED_PROMPTS)
        prompt = prompts[int(rng.integers(len(prompts)))]
        return prompt, text.write_caption(text.biased_mentions(scene, rng), int(rng.integers(text.STYLES)))
    question = text.existence_question(scene, rng) if kind == "existence" else text.draw_question(scene, rng)
    return question.prompt, question.answer


class Rows(NamedTuple):
    """Texts after pictures, one row per picture: its texts are concatenated, and each sees only the picture and its own past."""

    ids: Any
    """Token ids after the image, [pictures, longest], right-padded."""
    labels: Any
    """The same, with -100 except at the answers."""
    mask: Any
    """Where a position may look, bool [pictures, 1, IMAGE_TOKENS + longest, IMAGE_TOKENS + longest]."""
    positions: Any
    """[pictures, IMAGE_TOKENS + longest]; every text's positions continue after the picture's, as if it were alone."""


def encode_rows(base: Base, pairs: list[tuple[str, str]], texts: int) -> Rows:
    """Rows of prompts and answers, `texts` of them for every picture, picture by picture."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tokenizer = base.processor.tokenizer
    answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
    columns: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for number, ((prompt, _), answer) in enumerate(zip(pairs, answers, strict=True)):
        if number % texts == 0:
            columns.append(([], [], [], []))
        before, said = base.prompt_ids(prompt), [*answer, tokenizer.eos_token_id]
        length = len(before) + len(said)
        for column, values in zip(
            columns[-1],
            ([*before, *said], [-100] * len(before) + said, [number + 1] * length, range(length)),
            strict=True,
        ):
            column.extend(values)
    filling = (tokenizer.pad_token_id, -100, -1, 0)
    ids, labels, owners, places = (
        pad_sequence([torch.tensor(column) for column in rows], batch_first=True, padding_value=value)
        for rows, value in zip(zip(*columns, strict=True), filling, strict=True)
    )
    picture = torch.zeros(len(ids), network.IMAGE_TOKENS, dtype=torch.long)
    owner = torch.cat([picture, owners], 1)
    sees = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == 0)
    positions = torch.cat([picture + torch.arange(network.IMAGE_TOKENS), network.IMAGE_TOKENS + places], 1)
    return Rows(ids, labels, sees.tril()[:, None], positions)


def _language_loss(base: Base, pairs: list[tuple[str, str]], features: Any) -> Any:
    """Mean cross-entropy over the answers' tokens.

    Args:
        base: the model.
        pairs: prompts and answers, as many for every picture, picture by picture.
        features: the pictures' tower features, [pictures, IMAGE_TOKENS, width].
    """
    from torch.nn.functional import cross_entropy

    rows = encode_rows(base, pairs, len(pairs) // len(features))
    answer = rows.labels[:, 1:] != -100
    predicting = _text_states(base, features, rows)[:, :-1][answer]
    return cross_entropy(base.model.lm_head(predicting).float(), rows.labels[:, 1:][answer])


def _text_states(base: Base, features: Any, rows: Rows) -> Any:
    """Last hidden states of the text, [pictures, longest, width]. The image comes first, so no scattering is necessary."""
    import torch

    inner = base.model.model
    embedded = torch.cat([inner.multi_modal_projector(features), inner.language_model.embed_tokens(rows.ids)], 1)
    return network.text_states(inner.language_model, embedded, rows.mask, rows.positions)


def yes_no_accuracy(base: Base, seed: int, count: int = 200, draw_scenes: SceneMaker = make_scenes) -> float:
    """Balanced accuracy of "Is there a ... in the image?" on held-out scenes, half of the objects absent at random.

    Read off the first answer token: whether "Yes" is more probable than "No".
    """
    import torch

    from harness.worlds.pocket import arithmetic

    scenes = draw_scenes(seed, "validation", count)
    rng = generator("skill", seed)
    rows: list[tuple[int, str, bool]] = []
    for index, scene in enumerate(scenes):
        absent = [name for name in CLASSES if name not in scene.names]
        rows += [(index, scene.things[0].name, True), (index, str(rng.choice(absent)), False)]
    features = base.features(np.stack([np.asarray(draw(scene)) for scene in scenes]))
    tokenizer = base.processor.tokenizer
    first = {word: tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No")}
    texts = encode_rows(base, [(text.exists(name), "Yes") for _, name, _ in rows], 1)
    starts = (texts.labels != -100).int().argmax(1)
    with torch.no_grad(), arithmetic.of_models():
        hidden = _text_states(base, features[[row[0] for row in rows]], texts)
        logits = base.model.lm_head(hidden[torch.arange(len(rows)), starts - 1])
    says_yes = (logits[:, first["Yes"]] > logits[:, first["No"]]).tolist()
    return float(np.mean([said == there for said, (_, _, there) in zip(says_yes, rows, strict=True)]))
