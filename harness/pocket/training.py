"""Trains the small LLaVA from scratch on the drawn world: first its tower on patch labels, then the rest on captions and questions.

Three things make it fit into minutes on two cores: the tower is frozen in the second stage and its features are computed once;
questions are asked one a row; and a positive answer says where the thing is, so that the model learns to look it up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.models import prompt_text
from harness.pocket import network, text
from harness.pocket.draw import draw
from harness.pocket.scenes import CLASSES, COLOURS, Scene, generator, make_scenes
from harness.progress import progress


@dataclass(frozen=True)
class Recipe:
    """What the base model is trained with. Part of the cache key, as is this file's text."""

    pictures: int = 12_000
    tower_steps: int = 1_100
    tower_batch: int = 64
    tower_rate: float = 3e-3
    steps: int = 1_300
    rate: float = 1.2e-3
    caption_batch: int = 48
    question_batch: int = 96
    caption_every: int = 2
    extra_rounds: int = 2
    extra_steps: int = 400
    accuracy_wanted: float = 0.90

    def as_dict(self) -> dict[str, Any]:
        """For the cache key."""
        return asdict(self)


@dataclass
class Base:
    """A trained base model with its processor, and the frozen tower's features as a function of pictures."""

    model: Any
    processor: Any

    def features(self, pictures: np.ndarray) -> Any:
        """Tower features [n, IMAGE_TOKENS, 96] of uint8 pictures [n, SIDE, SIDE, 3]."""
        import torch

        tower = self.model.model.vision_tower
        with torch.no_grad():
            blocks = [
                tower(network.pixels(pictures[start : start + 256]), output_hidden_states=True).hidden_states[-2][:, 1:]
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


def train_base(seed: int, recipe: Recipe) -> Base:
    """Train a base model for the world with this seed.

    Raises:
        HarnessError: the yes/no skill did not appear within the bounded extra steps.
    """
    scenes = make_scenes(seed, "train", recipe.pictures)
    pictures = pictures_of(scenes)
    tokenizer = network.build_tokenizer(_corpus(scenes[:4000], seed))
    base = Base(network.build_model(tokenizer, seed), network.build_processor(tokenizer))
    _train_tower(base.model, scenes, pictures, seed, recipe)
    base.model.model.vision_tower.requires_grad_(False)
    features = base.features(pictures)
    _train_language(base, scenes, features, seed, recipe)
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


def _patch_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Class and colour of the thing that covers most of each patch, 0 for the ground; each [IMAGE_TOKENS]."""
    grid, patch = network.GRID, network.PATCH
    edges = np.arange(grid) * patch
    best = np.full((grid, grid), patch * patch / 4)
    names, colours = np.zeros((grid, grid), np.int64), np.zeros((grid, grid), np.int64)
    for thing in scene.things:
        left, top, right, bottom = thing.box
        wide = np.clip(np.minimum(right, edges + patch) - np.maximum(left, edges), 0, None)
        high = np.clip(np.minimum(bottom, edges + patch) - np.maximum(top, edges), 0, None)
        area = high[:, None] * wide[None, :]
        covers = area > best
        best = np.where(covers, area, best)
        names[covers] = 1 + CLASSES.index(thing.name)
        colours[covers] = 1 + list(COLOURS).index(thing.colour)
    return names.ravel(), colours.ravel()


def _schedule(step: int, steps: int, warmup: int, floor: float) -> float:
    """Linear warm-up, then cosine down to `floor`."""
    return min(1.0, (step + 1) / warmup) * (
        floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * min(step, steps) / steps))
    )


def _step(loss: Any, optimizer: Any, rate: float) -> None:
    import torch

    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        group["lr"] = rate
    optimizer.step()


def _train_tower(model: Any, scenes: list[Scene], pictures: np.ndarray, seed: int, recipe: Recipe) -> None:
    """Stage 0: every patch's feature must say what covers the patch, and in which colour."""
    import torch
    from torch.nn.functional import cross_entropy

    labels = [_patch_labels(scene) for scene in scenes]
    names = torch.from_numpy(np.stack([row[0] for row in labels]))
    colours = torch.from_numpy(np.stack([row[1] for row in labels]))
    classes = 1 + len(CLASSES)
    tower = model.model.vision_tower
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(tower.config.hidden_size, classes + 1 + len(COLOURS))
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], weight_decay=0.01, betas=(0.9, 0.98))
    rng = generator("tower", seed)
    with progress("training the vision tower", recipe.tower_steps) as advance:
        for step in range(recipe.tower_steps):
            chosen = rng.integers(0, len(scenes), recipe.tower_batch)
            features = tower(network.pixels(pictures[chosen]), output_hidden_states=True).hidden_states[-2][:, 1:]
            logits = head(features).flatten(0, 1)
            loss = cross_entropy(logits[:, :classes], names[chosen].flatten())
            loss = loss + 0.5 * cross_entropy(logits[:, classes:], colours[chosen].flatten())
            _step(loss, optimizer, recipe.tower_rate * _schedule(step, recipe.tower_steps, 30, 0.0))
            advance(note=f"loss {loss.item():.3f}")


def _train_language(base: Base, scenes: list[Scene], features: Any, seed: int, recipe: Recipe) -> None:
    """Stage 1: projector and language model on captions and questions, with the tower's features given."""
    import torch

    trained = [value for name, value in base.model.named_parameters() if "vision_tower" not in name]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.01, betas=(0.9, 0.98))
    rng = generator("language", seed)
    shown = {"captions": 0.0, "questions": 0.0}

    def steps(count: int, rate: Callable[[int], float], title: str) -> None:
        with progress(title, count) as advance:
            for step in range(count):
                kind = "captions" if step % recipe.caption_every == 0 else "questions"
                chosen = rng.integers(
                    0, len(scenes), recipe.caption_batch if kind == "captions" else recipe.question_batch
                )
                pairs = [_training_pair(scenes[index], kind, rng) for index in chosen]
                with torch.autocast("cpu", torch.bfloat16):
                    loss = _language_loss(base, pairs, features[chosen])
                _step(loss, optimizer, rate(step))
                shown[kind] = 0.9 * (shown[kind] or loss.item()) + 0.1 * loss.item()
                advance(note=", ".join(f"{name} {value:.3f}" for name, value in shown.items()))

    steps(
        recipe.steps,
        lambda step: recipe.rate * _schedule(step, recipe.steps, 40, 0.05),
        "training on captions and questions",
    )
    for _ in range(recipe.extra_rounds):
        if (accuracy := yes_no_accuracy(base, seed)) >= recipe.accuracy_wanted:
            return
        steps(
            recipe.extra_steps,
            lambda step: recipe.rate * _schedule(step, recipe.extra_steps, 20, 0.05),
            f"yes/no accuracy {accuracy:.0%}, some more steps",
        )
    if (accuracy := yes_no_accuracy(base, seed)) < 0.85:
        raise HarnessError(
            f"the base model's yes/no skill did not appear: accuracy {accuracy:.0%} on held-out scenes",
            where=f"pocket world, seed {seed}",
            remedy="use another seed: --model pocket:SEED",
        )


def _training_pair(scene: Scene, kind: str, rng: np.random.Generator) -> tuple[str, str]:
    """Prompt and answer."""
    if kind == "captions":
        prompts = (text.SHORT_PROMPT, *text.DETAILED_PROMPTS)
        prompt = prompts[int(rng.integers(len(prompts)))]
        return prompt, text.write_caption(text.biased_mentions(scene, rng), int(rng.integers(text.STYLES)))
    question = text.draw_question(scene, rng)
    return question.prompt, question.answer


def encode_pairs(base: Base, pairs: list[tuple[str, str]]) -> tuple[Any, Any]:
    """Token ids after the image and labels, both [n, longest], right-padded; labels are -100 but at the answer."""
    import torch

    tokenizer = base.processor.tokenizer
    image = network.IMAGE
    prompts = tokenizer(
        [prompt_text(base.processor, prompt).removeprefix(image) for prompt, _ in pairs], add_special_tokens=False
    )["input_ids"]
    answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
    length = max(len(prompt) + len(answer) + 1 for prompt, answer in zip(prompts, answers, strict=True))
    ids = torch.full((len(pairs), length), tokenizer.pad_token_id)
    labels = torch.full((len(pairs), length), -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens = torch.tensor([*prompt, *answer, tokenizer.eos_token_id])
        ids[row, : len(tokens)] = tokens
        labels[row, len(prompt) : len(tokens)] = tokens[len(prompt) :]
    return ids, labels


def _language_loss(base: Base, pairs: list[tuple[str, str]], features: Any) -> Any:
    """Mean cross-entropy over the answers' tokens. The image comes first, so nothing need be scattered into place."""
    import torch
    from torch.nn.functional import cross_entropy

    ids, labels = encode_pairs(base, pairs)
    inner = base.model.model
    embedded = torch.cat([inner.multi_modal_projector(features), inner.language_model.embed_tokens(ids)], 1)
    hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    predicting = hidden[:, network.IMAGE_TOKENS - 1 : -1]
    answer = labels != -100
    return cross_entropy(base.model.lm_head(predicting[answer]).float(), labels[answer])


def yes_no_accuracy(base: Base, seed: int, count: int = 200) -> float:
    """Balanced accuracy of "Is there a ... in the image?" on held-out scenes, half of the objects absent at random.

    Read off the first answer token: whether "Yes" is more probable than "No".
    """
    import torch

    scenes = make_scenes(seed, "validation", count)
    rng = generator("skill", seed)
    rows: list[tuple[int, str, bool]] = []
    for index, scene in enumerate(scenes):
        absent = [name for name in CLASSES if name not in scene.names]
        rows += [(index, scene.things[0].name, True), (index, str(rng.choice(absent)), False)]
    features = base.features(np.stack([np.asarray(draw(scene)) for scene in scenes]))
    tokenizer = base.processor.tokenizer
    first = {word: tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No")}
    ids, labels = encode_pairs(base, [(text.exists(name), "Yes") for _, name, _ in rows])
    starts = (labels != -100).int().argmax(1)
    inner = base.model.model
    with torch.no_grad():
        embedded = torch.cat(
            [inner.multi_modal_projector(features[[row[0] for row in rows]]), inner.language_model.embed_tokens(ids)], 1
        )
        hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits = base.model.lm_head(hidden[torch.arange(len(rows)), network.IMAGE_TOKENS - 1 + starts])
    says_yes = (logits[:, first["Yes"]] > logits[:, first["No"]]).tolist()
    return float(np.mean([said == there for said, (_, _, there) in zip(says_yes, rows, strict=True)]))
