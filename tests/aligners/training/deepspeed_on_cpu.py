"""`python -m harness` under `zero2.yaml` on CPUs, without the collectives that DeepSpeed would compile for them: gloo's do."""

from __future__ import annotations

if __name__ == "__main__":
    import deepspeed

    from harness.cli import main

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    main()
