"""transformers' trainer, but it resumes only from complete checkpoints. Imported only for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer

from aligners.training.processes import bfloat16_policy
from aligners.training.resume import check_optimizer, check_readable, load_weights, save_whole
from aligners.training.session import Session
from aligners.training.shards import RANDOM_STATE, random_states


class StrictTrainer(Trainer):
    """Saves all weights under the names by which it loads them, and raises an error for anything that does not fit.

    If weights or optimizer state are sharded, FSDP and DeepSpeed save and load them in their own ways, after `shards.check_shards`.
    """

    session: Session
    """Set before `Trainer.__init__`."""

    @property
    def _whole(self) -> bool:
        """Whether every process has all weights and the optimizer's whole state."""
        return not (self.session.sharded or self.is_deepspeed_enabled)

    @property
    def _has_deepspeeds_schedule(self) -> bool:
        """Whether DeepSpeed saves and loads the schedule of the learning rate."""
        if not self.is_deepspeed_enabled:
            return False
        from accelerate.utils import DeepSpeedSchedulerWrapper  # which exists only where DeepSpeed is installed

        return isinstance(self.lr_scheduler, DeepSpeedSchedulerWrapper)

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, with our own rounding of sharded weights."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled and self.session.bfloat16:
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = bfloat16_policy()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.session.train_settings.adapters or not self._whole:
            super()._save(output_dir, state_dict)
        else:
            save_whole(self.session, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._whole:
            load_weights(self.session, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self._whole:
            check_optimizer(Path(checkpoint), getattr(self.optimizer, "optimizer", self.optimizer))
        elif checkpoint is not None and not self._has_deepspeeds_schedule:
            check_readable(Path(checkpoint), "scheduler.pt")
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            processes = self.args.world_size
            # A checkpoint of another number of processes has no correct state, which `check_shards` has said.
            if (len(random_states(Path(checkpoint))) or 1) == processes:
                name = RANDOM_STATE if processes == 1 else f"rng_state_{self.args.process_index}.pth"
                check_readable(Path(checkpoint), name)
        super()._load_rng_state(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The first process writes the file that marks the checkpoint as complete next, so all others must have written theirs.
        self.session.process.wait_for_everyone()
