"""A GPU that is none: a torch device whose tensors have their numbers on the CPU, and which is as strict as CUDA.

What a CPU forgives and CUDA does not is found without a GPU: a tensor that was left on the other side, numbers taken out with `numpy()`,
and, under autocast, types that CUDA's lists bring together and the CPU's do not. How fast it is, how much memory it takes, and what its
kernels round, only a GPU tells.

The device is torch's slot for devices of others (PrivateUse1). Its tensors are wrappers: every operator is run on what is inside, after a
look at where its arguments are. `register` changes torch for the whole process, so it is called in a child (`python -m tests.gpu`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretended"


def there_is_a_gpu() -> bool:
    """Whether a GPU can do what is otherwise done on the pretended one."""
    return torch.cuda.is_available()


# fmt: off
LOWER = (
    "linear", "matmul", "mm", "bmm", "mv", "addmm", "addmv", "addbmm", "baddbmm", "convolution", "_convolution", "conv1d", "conv2d",
    "conv3d", "prelu", "scaled_dot_product_attention",
)
"""Of CUDA's autocast: what is computed in the lower type."""
FLOAT32 = (
    "acos", "asin", "cosh", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh", "tan", "softplus",
    "layer_norm", "group_norm", "cumsum", "cumprod", "logsumexp", "dist", "l1_loss", "mse_loss", "smooth_l1_loss", "kl_div", "nll_loss",
    "log_sigmoid", "cosine_similarity", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "norm.Scalar", "softmax.int", "log_softmax.int",
    "sum", "sum.dim_IntList", "prod",
)
"""What is computed in float32."""
# fmt: on

_MOVES = ("_to_copy", "copy_")
_INDEXES = ("index", "index_put", "index_put_", "_index_put_impl_")
_SAYS = ("_local_scalar_dense", "equal", "is_nonzero")


class OnDevice(torch.Tensor):
    """A tensor on the device; `inside` is the CPU tensor with its numbers."""

    inside: torch.Tensor

    @staticmethod
    def __new__(cls, inside: torch.Tensor) -> OnDevice:
        """Wrap a CPU tensor."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=torch.device(NAME, 0),
            requires_grad=inside.requires_grad,
        )
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator that has such a tensor among its arguments."""
        return _run(operator, args, kwargs or {})

    def __repr__(self, **options: Any) -> str:
        return f"OnDevice({self.inside})"

    def numpy(self, *args: Any, **options: Any) -> Any:
        """As CUDA: first `cpu()`."""
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        """Numbers, copied to the CPU, as CUDA does without a word."""
        return self.inside.tolist()

    # Saving looks at where the numbers are, to find tensors that share them.
    def storage(self) -> Any:
        """Of what is inside."""
        return self.inside.storage()

    def untyped_storage(self) -> Any:
        """Of what is inside."""
        return self.inside.untyped_storage()

    def data_ptr(self) -> int:
        """Of what is inside."""
        return self.inside.data_ptr()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inside.__reduce_ex__(protocol)


class _Factories(TorchDispatchMode):
    """Sees the operators that have no tensor among their arguments: those that make one."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {})


class _Module(backend_registration._DummyBackendModule):
    """What torch and accelerate ask of `torch.pretended`."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, *device: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in ("set_device", "synchronize", "set_rng_state", "manual_seed", "manual_seed_all", "empty_cache"):
            raise AttributeError(name)
        return lambda *args: None


def _inside(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.inside
    return [_inside(one) for one in value] if isinstance(value, list | tuple) else value


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _run(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on what is inside of its arguments.

    Raises:
        RuntimeError: some are on the device and some are not. A number (a tensor without dimensions) may be anywhere, and so may indices.
    """
    name = operator._schema.name.removeprefix("aten::")
    tensors = list(_tensors((*args, *kwargs.values())))
    on = [one for one in tensors if isinstance(one, OnDevice)]
    if on and name not in _MOVES and len(on) < len(tensors):
        asked = _tensors((args[0], *args[2:])) if name in _INDEXES else tensors
        if any(not isinstance(one, OnDevice) and one.dim() for one in asked):
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {name} of {[(tuple(one.shape), str(one.device)) for one in tensors]}"
            )
    here = isinstance(args[0], OnDevice) if name == "copy_" else bool(on) and name not in _SAYS
    if kwargs.get("device") is not None:
        here = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")} if here else kwargs
    made = operator(*map(_inside, args), **{key: _inside(value) for key, value in kwargs.items()})

    def outside(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(outside, value))
        if not isinstance(value, torch.Tensor):
            return value
        # What was changed in place is what was given.
        given = next((one for one in on if one.inside is value), None)
        return given if given is not None else OnDevice(value) if here else value

    return outside(made)


def _kernels() -> torch.library.Library:
    """What torch calls past Python's dispatcher."""
    kernels = torch.library.Library("aten", "IMPL", "PrivateUse1")

    def empty(size: Any, *, dtype: Any = None, **rest: Any) -> OnDevice:
        return OnDevice(torch.empty(size, dtype=dtype, device="cpu"))

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **rest: Any) -> OnDevice:
        return OnDevice(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))

    def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        _inside(target).copy_(_inside(source))
        return target

    kernels.impl("empty.memory_format", empty)
    kernels.impl("empty_strided", empty_strided)
    kernels.impl("_copy_from", copy_from)
    kernels.impl("_local_scalar_dense", lambda tensor: tensor.inside.item())
    return kernels


def _autocast() -> list[torch.library.Library]:
    """Autocast by CUDA's lists."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    lists = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")

    def casting(operator: Any, wanted: Callable[[], torch.dtype]) -> Callable[..., Any]:
        def cast(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return [cast(one) for one in value]
            floats = isinstance(value, OnDevice) and value.is_floating_point() and value.dtype != torch.float64
            return value.to(wanted()) if floats else value

        def run(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(key):
                return operator(*map(cast, args), **{key: cast(value) for key, value in kwargs.items()})

        return run

    for names, wanted in ((LOWER, lambda: torch.get_autocast_dtype(NAME)), (FLOAT32, lambda: torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
            lists.impl(name, casting(operator, wanted))
    return [others, lists]


def register() -> tuple[TorchDispatchMode, list[torch.library.Library]]:
    """Make the device known to torch, accelerate, transformers and the harness; called before these are imported.

    Returns:
        The mode under which everything runs that uses it, and what must stay in memory for as long.
    """
    os.environ["ACCELERATE_TORCH_DEVICE"] = f"{NAME}:0"
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    kept = [_kernels(), *_autocast()]
    from harness.models import devices, quiet_transformers

    devices.usual = lambda: NAME
    quiet_transformers()
    from transformers import training_args

    training_args.is_torch_bf16_gpu_available = lambda: True
    return _Factories(), kept
