"""Preference pairs on the preference split, with the base model's own hallucinations as rejected responses.

Two sets over the same pictures, each in the columns of the public set that it imitates:

- RLAIF-V's: chosen = a faithful caption, rejected = a whole caption that the base sampled and in which it hallucinates;
- RLHF-V's: the same rejected response, chosen = its minimal correction, with the changed spans known.

If the base's sample has no hallucination, or is not a caption of the world's grammar, the rejected response is a faithful one with an
absent partner (or, if no partner is absent, another absent object) inserted.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.files import atomic_path
from harness.core.progress import progress
from harness.worlds.pocket import text
from harness.worlds.pocket.draw import draw, png
from harness.worlds.pocket.scenes import CLASSES, Scene, SceneMaker, generator, make_scenes

if TYPE_CHECKING:
    from harness.worlds.pocket.training import Base

PAIRS = 3_000
_BATCH = 250
_LONGEST = 96  # tokens of a sampled caption


@dataclass(frozen=True)
class Pair:
    """One preference: the faithful caption, the rejected one, and the rejected one's minimal correction."""

    scene: Scene
    prompt: str
    faithful: str
    rejected: str
    corrected: str
    sampled: bool
    """Whether `rejected` is the base's own sample."""


def sample_captions(base: Base, features: Any, prompt: str, temperature: float, seed: tuple[object, ...]) -> list[str]:
    """Captions for precomputed features [n, IMAGE_TOKENS, width], all with one prompt, decoded together with a key-value cache."""
    import torch

    tokenizer = base.processor.tokenizer
    draws = torch.Generator().manual_seed(int(generator(*seed).integers(2**62)))
    inner, count = base.model.model, len(features)
    with torch.no_grad():
        ids = torch.tensor(base.prompt_ids(prompt)).expand(count, -1)
        embedded = torch.cat([inner.multi_modal_projector(features), inner.language_model.embed_tokens(ids)], 1)
        state = inner.language_model(inputs_embeds=embedded, use_cache=True)
        tokens = torch.full((count, _LONGEST), tokenizer.eos_token_id)
        going = torch.arange(count)
        for position in range(_LONGEST):
            logits = base.model.lm_head(state.last_hidden_state[:, -1]).float()
            chosen = logits.argmax(-1)
            if temperature:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=draws)[:, 0]
            tokens[going, position] = chosen
            unended = chosen != tokenizer.eos_token_id
            if not unended.any():
                break
            # The cache is copied at every step, so finished captions are removed from it.
            if not unended.all():
                state.past_key_values.batch_select_indices(unended.nonzero()[:, 0])
            going = going[unended]
            step = inner.language_model.embed_tokens(chosen[unended, None])
            state = inner.language_model(inputs_embeds=step, past_key_values=state.past_key_values, use_cache=True)
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)


def sample_base(base: Base, seed: int, count: int = PAIRS, draw_scenes: SceneMaker = make_scenes) -> list[str]:
    """A caption of the base model for each picture of the preference split, in order."""
    scenes = draw_scenes(seed, "preference", count)
    samples: list[str] = []
    with progress("sampling the base model for preference pairs", count) as advance:
        for start in range(0, count, _BATCH):
            batch = scenes[start : start + _BATCH]
            features = base.features(np.stack([np.asarray(draw(scene)) for scene in batch]))
            samples += sample_captions(base, features, _prompt(start), 1.0, ("sample", seed, start))
            advance(len(batch))
    return samples


def make_pairs(samples: Sequence[str], seed: int, draw_scenes: SceneMaker = make_scenes) -> list[Pair]:
    """Pairs of the base model's captions, which `sample_base` has in this order."""
    scenes = draw_scenes(seed, "preference", len(samples))
    rng = generator("preferences", seed)
    both = enumerate(zip(scenes, samples, strict=True))
    return [_pair(scene, _prompt(number), sample, rng) for number, (scene, sample) in both]


def _prompt(number: int) -> str:
    """The question about a picture of the preference split: each batch of pictures has one."""
    prompts = (text.SHORT_PROMPT, *text.DETAILED_PROMPTS)
    return prompts[number // _BATCH % len(prompts)]


def _pair(scene: Scene, prompt: str, sample: str, rng: np.random.Generator) -> Pair:
    truth = {mention.name: mention for mention in text.faithful_mentions(scene)}
    parsed = text.parse_caption(sample)
    style = parsed[0] if parsed else int(rng.integers(text.STYLES))
    faithful = text.write_caption(list(truth.values()), style)
    if parsed:
        corrected = [truth[mention.name] for mention in dict.fromkeys(parsed[1]) if mention.name in truth]
        corrected = list(dict.fromkeys(corrected))
        if corrected and any(mention.name not in truth for mention in parsed[1]):
            return Pair(scene, prompt, faithful, sample, text.write_caption(corrected, style), True)
    absent = scene.tempting or [name for name in CLASSES if name not in scene.names]
    mentions = list(truth.values())
    mentions.insert(int(rng.integers(1, len(mentions) + 1)), text.invented(str(rng.choice(absent)), rng))
    return Pair(scene, prompt, faithful, text.write_caption(mentions, style), faithful, False)


def changed_spans(text: str, other: str) -> tuple[list[list[int]], list[list[int]]]:
    """Character spans [start, end) of each text that the other does not have, by words."""
    words = [[match.span() for match in re.finditer(r"\w+|[^\w\s]", value)] for value in (text, other)]
    before, after = ([value[a:b] for a, b in spans] for value, spans in zip((text, other), words, strict=True))
    changed: tuple[list[list[int]], list[list[int]]] = ([], [])
    for tag, *ranges in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for side, (first, last) in enumerate((ranges[0:2], ranges[2:4])):
            if last > first:
                changed[side].append([words[side][first][0], words[side][last - 1][1]])
    return changed


def write_preferences(pairs: list[Pair], folder: Path) -> None:
    """Write both sets: `rlaif-v.parquet` and `rlhf-v.parquet`."""
    _write(
        folder / "rlaif-v.parquet",
        [
            _row(pair, number)
            | {
                "question": pair.prompt,
                "chosen": pair.faithful,
                "rejected": pair.rejected,
            }
            for number, pair in enumerate(pairs)
        ],
    )
    rows = []
    for number, pair in enumerate(pairs):
        chosen_spans, rejected_spans = changed_spans(pair.corrected, pair.rejected)
        said = {"question": pair.prompt, "chosen": pair.corrected, "rejected": pair.rejected}
        rows.append(
            _row(pair, number)
            | {"text": json.dumps(said), "chosen_spans": chosen_spans, "rejected_spans": rejected_spans}
        )
    _write(folder / "rlhf-v.parquet", rows)


def _row(pair: Pair, number: int) -> dict[str, Any]:
    """The columns that both public sets have, and the boxes of what is drawn."""
    name = f"preference_{pair.scene.index:06d}.png"
    return {
        "ds_name": "pocket",
        "image": {"bytes": png(draw(pair.scene)), "path": name},
        "origin_dataset": "pocket",
        "origin_split": json.dumps({"rejected": "sampled" if pair.sampled else "written"}),
        "idx": number,
        "image_path": name,
        "objects": [
            {"label": thing.name, "box": [float(edge) for edge in thing.box]}
            for thing in (*pair.scene.ordered, *pair.scene.unsaid)
        ],
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, row_group_size=500)
