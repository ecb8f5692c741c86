"""Values of the starting model, or of a stage's reference, for the examples: computed once, and read from disk afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aligners.base import CHOSEN, Answer, Branch, Measure, Stage, StageContext
from aligners.training.difficulty import difficulty_of
from aligners.training.encoding import EncodedExample
from aligners.training.layout import row_lengths
from aligners.training.planning.out_of_memory import out_of_memory
from aligners.training.policy import token_logp
from aligners.training.reference import Keys, Reference, ValueStore, content_keys, fill
from aligners.training.session import Session
from harness.core.errors import HarnessError
from harness.core.files import sha256_json
from harness.core.progress import progress
from harness.core.types import PreferenceExample
from harness.models import fingerprint, template_hash


class StartingModel(StageContext):
    """Measurements of the starting model for `Aligner.stages`."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def difficulty(
        self,
        examples: Sequence[PreferenceExample],
        measure: Measure = "token",
        answer: Answer = "chosen",
        max_new_tokens: int = 256,
    ) -> list[float]:
        """See `StageContext.difficulty`."""
        session = self.session
        by_id = {example.id: example for example in examples}
        encoded = [session.encoded[example.id] for example in examples]
        what = f"difficulty: {measure}"
        if answer == "own":
            what += f", own answers of {max_new_tokens} tokens"
            # Values that were stored before the model saw the contexts are of other answers.
            what += ", behind contexts" if any(example.context for example in examples) else ""
        store, keys, _ = _stored(
            session,
            what,
            "start",
            encoded,
            [CHOSEN],
            lambda block: difficulty_of(
                session, block, [by_id[example.id] for example in block], measure, answer, max_new_tokens
            ),
            "measuring the difficulty of examples",
        )
        return [float(store[next(iter(keys[example.id].values()))][0]) for example in encoded]


def reference_of(session: Session, stage: Stage, trained: str) -> Reference | None:
    """The reference's log-probabilities for a stage's examples; None if the method uses no reference.

    Args:
        session: its model is the reference at this time.
        stage: the stage of the examples.
        trained: a hash of the trained weights and of the training that made them; "start" before any training.
    """
    if not session.aligner.uses_reference:
        return None
    return Reference(
        *_stored(
            session,
            "log-probabilities",
            trained,
            [session.encoded[example.id] for example in stage.examples],
            session.branches,
            lambda block: session.values(block, session.branches, token_logp, trained),
            "reference log-probabilities",
        )
    )


def starting_sums(session: Session, examples: Sequence[EncodedExample], branches: Sequence[Branch]) -> np.ndarray:
    """log p(answer | picture, question) of the starting model in nats, [examples, branches]; called before anything is trained."""
    store, keys, _ = _stored(
        session,
        "log-probabilities",
        "start",
        examples,
        branches,
        lambda block: session.values(block, branches, token_logp, "start"),
        "log-probabilities of held-out pairs",
    )
    return np.array(
        [
            [store[keys[example.id][branch.image, branch.response]].sum(dtype=np.float64) for branch in branches]
            for example in examples
        ]
    )


def _configured(config: Any) -> str:
    """Hash of a model's configuration, without what does not affect its values."""
    settings = json.loads(config.to_json_string(use_diff=False))
    for name in ("_name_or_path", "transformers_version", "dtype"):
        settings.pop(name, None)
    return sha256_json(settings)


def _stored(
    session: Session,
    what: str,
    trained: str,
    examples: Sequence[EncodedExample],
    branches: Sequence[Branch],
    compute: Callable[[Sequence[EncodedExample]], list[dict[tuple[str, str], np.ndarray]]],
    title: str,
) -> tuple[ValueStore, dict[str, Keys], int]:
    """Values of the present model for examples, from disk if possible; with their keys, and the number of computed ones."""
    key = {
        "what": what,
        "model": fingerprint(session.job.model),
        "trained": trained,
        # Windows, positions and the like are not in the weights. The parts' types are here, too: in bfloat16, adapters are on weights in
        # bfloat16, and full tuning has them in float32.
        "config": _configured(session.policy.plain.config),
        "template": template_hash(session.processor),
        "bfloat16": session.bfloat16,
        # Quantised weights have other values.
        **({"base_held": session.base_held} if session.train_settings.tuning == "qlora" else {}),
    }
    keep = session.train_settings.savings.reference_cache
    store = ValueStore(session.job.cache, key, keep)
    keys = {example.id: content_keys(example, branches) for example in examples}
    wanted = [key for one in keys.values() for key in one.values()]
    store.load(wanted)
    session.process.wait_for_everyone()  # all processes must have read the same state before one adds to it
    if all(key in store for key in wanted):
        return store, keys, 0
    session.policy.model.eval()
    # Blocks of similar length, several per layout; fewer if memory is short.
    micro = session.train_settings.micro
    size = micro if session.train_settings.gradient_checkpointing else 2 * micro
    ordered = sorted(examples, key=lambda one: max(row_lengths(one, branches)))
    blocks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    share = (session.process.process_index, session.process.num_processes) if keep else (0, 1)
    with progress(title, len(ordered)) as advance, out_of_memory(session, ordered, micro, size):
        computed = fill(store, blocks, keys, compute, share=share, in_step=session.sharded, done=advance)
    session.process.wait_for_everyone()
    store.load(wanted)
    if any(key not in store for key in wanted):
        raise HarnessError(
            f"{title}: values computed by other processes are missing",
            where=str(store.folder),
            remedy="set HARNESS_CACHE to a folder that all machines share, or --set train.savings.reference_cache=false",
        )
    return store, keys, computed
