"""`python -m harness` under `fsdp.yaml` on CPUs.

Accelerate turns FSDP on only where it finds GPUs; elsewhere it trains without it, and says nothing. So its decision is taken here.
All that follows from it (sharding, gathering, clipping, checkpoints) is torch's, accelerate's and the harness's own, over gloo.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState, DistributedType

_decide = AcceleratorState.__init__


def _shard(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **more: Any) -> None:
    _decide(self, *arguments, fsdp_plugin=fsdp_plugin, **more)
    self.fsdp_plugin = fsdp_plugin or getattr(self, "fsdp_plugin", None)
    if self.fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP


if __name__ == "__main__":
    from harness.cli import main

    AcceleratorState.__init__ = _shard  # type: ignore[method-assign]
    main()
