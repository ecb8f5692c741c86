"""The only place where transformers reads a model's files: their code is never run, and what was loaded is checked.

Every `from_pretrained` and `from_config` of the project is here (a test checks this), with `trust_remote_code=False`: without it,
transformers asks at the terminal whether to run a model folder's Python code, and accepts a piped "y".
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core import library_log
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import read_json
from harness.core.packages import MissingPackageError, is_installed
from harness.models import devices
from harness.models.code_families import CODE_FAMILIES, NEVER_RUN
from harness.remote import hub

logger = logging.getLogger(__name__)

_NO_CODE = {"trust_remote_code": False}
_HUB = "make the model hub reachable, or use a cached model with HF_HUB_OFFLINE=1, or give a folder"


def quiet_transformers() -> None:
    """Import transformers with its progress bars and notices turned off (ours are shown instead)."""
    from transformers.utils import logging as messages

    messages.disable_progress_bar()
    if library_log.is_kept():
        library_log.take_over("transformers", "huggingface_hub")
    else:
        messages.set_verbosity_error()
        # Each of its five attempts per file would be a line; we report the result.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # PEFT imports bitsandbytes if it is installed, which warns about a kernel for serving in 4 bits that is not used here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    deepspeed = logging.getLogger("DeepSpeed")
    if _away_from_standard_output not in deepspeed.filters:
        deepspeed.addFilter(_away_from_standard_output)


def _away_from_standard_output(record: logging.LogRecord) -> bool:
    """DeepSpeed, wherever it is installed, writes its log to standard output, where a command's result belongs.

    Its errors go to this program's log; its notices are left out.
    """
    if record.levelno >= logging.ERROR:
        logger.error("DeepSpeed: %s", record.getMessage())
    return False


def configuration(location: str | Path) -> Any:
    """A model's configuration.

    Raises:
        BadInputError: there is none, it is malformed, or it needs Python code from the folder.
        HarnessError: it is on a hub that cannot be reached.
    """
    hub.reach(location)
    quiet_transformers()
    from transformers import AutoConfig

    with reading(location, "the model's configuration cannot be read", in_folder=_config_file(location)):
        return AutoConfig.from_pretrained(location, **_NO_CODE)


def empty_model(location: str | Path, config: Any = None) -> Any:
    """The image-and-text model that a configuration describes, on the meta device: names and shapes, no memory.

    Raises:
        BadInputError: it does not describe one.
    """
    config = configuration(location) if config is None else config
    import torch
    from transformers import AutoModelForImageTextToText

    with (
        reading(
            location,
            "config.json does not describe an image-and-text model",
            in_folder=_config_file(location),
            remedy="choose a vision-language model: harness list models",
        ),
        torch.device("meta"),
    ):
        return AutoModelForImageTextToText.from_config(config, **_NO_CODE)


def processor(
    location: str | Path,
    kind: str = "AutoProcessor",
    *,
    problem: str = "no processor could be loaded",
    remedy: str | None = None,
) -> Any:
    """A processor as in its files; `load_processor` returns a complete one.

    Args:
        location: folder or hub id.
        kind: transformers' class.
        problem: what to say where there is none.
        remedy: what to do about it.

    Raises:
        BadInputError: there is none, or it is malformed.
    """
    hub.reach(location)
    quiet_transformers()
    import transformers

    remedy = remedy or ("copy the base model's processor files into the folder" if Path(location).is_dir() else _HUB)
    with reading(location, problem, remedy=remedy, on_hub=BadInputError):
        return getattr(transformers, kind).from_pretrained(location, **_NO_CODE)


def weights(
    kind: str,
    location: str | Path,
    *,
    strict: bool = True,
    problem: str = "the checkpoint cannot be loaded",
    remedy: str | None = None,
    **options: Any,
) -> Any:
    """A model whose weights were all in its files.

    Args:
        kind: transformers' class, e.g. "AutoModelForImageTextToText".
        location: folder or hub id.
        strict: see `refuse_unloaded`.
        problem: what to say where it cannot be loaded.
        remedy: what to do about it.
        options: further arguments of `from_pretrained`.

    Raises:
        BadInputError: its files are malformed or lack a weight, which would be initialised randomly.
        HarnessError: it is on a hub that cannot be reached.
    """
    hub.reach(location)
    quiet_transformers()
    import transformers

    devices.leave_out_cudnn_attention()
    with reading(location, problem, remedy=remedy):
        model, report = getattr(transformers, kind).from_pretrained(
            location, output_loading_info=True, **_NO_CODE, **options
        )
    refuse_unloaded(report, location, strict=strict)
    return model


def report_on(config: Any, location: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict[str, Any]]:
    """What transformers would report if it loaded tensors of these names and shapes; none is loaded.

    Returns:
        The name of the model's class, and transformers' report: `missing_keys`, `unexpected_keys` (names), `mismatched_keys` (triples of
        a name, the shape found and the shape expected). Tensors that may be absent, such as a head that is tied to the embeddings, are
        not in it.
    """
    import torch

    model = empty_model(location, config)  # raises first if the configuration is invalid
    stored = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with reading(location, "the checkpoint cannot be loaded"):
        _, report = type(model).from_pretrained(
            None,
            config=config,
            state_dict=stored,
            output_loading_info=True,
            device_map="meta",
            ignore_mismatched_sizes=True,
            **_NO_CODE,
        )
    return type(model).__name__, report


def refuse_unloaded(report: Mapping[str, Collection[Any]], location: str | Path, *, strict: bool = True) -> None:
    """Check transformers' report of what it loaded.

    Args:
        report: as `report_on` gives it.
        location: for the message.
        strict: unused tensors are an error as well: they belong to another model, or to layers that the configuration lacks. Otherwise
        they are logged.

    Raises:
        BadInputError: a weight was not loaded; the message names the first one, and the first unused tensor.
    """
    missing, strange = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = sorted((str(name), list(found), list(wanted)) for name, found, wanted in report["mismatched_keys"])
    if mismatched:
        name, found, wanted = mismatched[0]
        problem = f"{len(mismatched) + len(missing)} tensors do not match config.json, first '{name}': expected {wanted}, found {found}"
    elif missing:
        problem = (
            f"{len(missing)} of the model's weights are not in the checkpoint and would be random, first '{missing[0]}'"
        )
    elif strange and strict:
        problem = f"{len(strange)} tensors of the checkpoint do not belong to the model that config.json describes"
    else:
        if strange:
            logger.info(f"{len(strange)} tensors in {location} are not used, first '{strange[0]}'")
        return
    if strange:
        problem += f"; the first tensor that does not belong to the model is '{strange[0]}'"
    raise BadInputError(
        problem,
        where=str(location),
        remedy="the weights and config.json come from different models, or were saved incompletely: copy or export them again",
    )


def with_adapters(model: Any, adapters: Mapping[str, str | Path]) -> Any:
    """The model with PEFT adapters on it, each completely loaded; the first one is active.

    Args:
        model: full weights.
        adapters: PEFT's name (no dots, since it names torch modules) -> folder. At least one.

    Raises:
        BadInputError: an adapter is malformed, or has fewer or more tensors than its configuration says.
    """
    quiet_transformers()
    from peft import PeftModel

    wrapped: Any = None
    for name, folder in adapters.items():
        with reading(folder, "the adapter cannot be loaded"):
            if wrapped is None:
                wrapped = PeftModel(model, adapter_configuration(folder), adapter_name=name)
            report = wrapped.load_adapter(str(folder), adapter_name=name)
        refuse_partial_adapter(report, name, folder)
    return wrapped.eval()


def adapter_configuration(folder: str | Path) -> Any:
    """PEFT's configuration of an adapter, in inference mode.

    Raises:
        BadInputError: it is malformed.
    """
    quiet_transformers()
    from peft import PeftConfig

    with reading(folder, "the adapter's configuration cannot be read", in_folder=Path(folder) / "adapter_config.json"):
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        return config


def report_on_adapter(base: str | Path, folder: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter whose tensors' names and shapes differ from what its configuration adds to its base; nothing is loaded.

    Raises:
        BadInputError: a layer has no tensors, or a tensor has no layer; the message names the first.
    """
    model = empty_model(base)
    import torch
    from peft import PeftModel
    from peft.utils import set_peft_model_state_dict

    stored = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with reading(folder, f"the adapter does not fit its base model {base}"):
        wrapped = PeftModel(model, adapter_configuration(folder), adapter_name="checked", low_cpu_mem_usage=True)
        report = set_peft_model_state_dict(wrapped, stored, adapter_name="checked")
    refuse_partial_adapter(report, "checked", folder)


def refuse_partial_adapter(report: Any, name: str, folder: str | Path) -> None:
    """Check PEFT's report of loading an adapter, which always lists the base's weights as missing.

    Raises:
        BadInputError: a module that its configuration names has no weights, or weights have no module.
    """
    # PEFT puts the adapter's name into the names of its tensors.
    missing = sorted(key for key in report.missing_keys if f".{name}." in key or key.endswith(f".{name}"))
    if missing:
        raise BadInputError(
            f"{len(missing)} tensors that the adapter's configuration names are not in its weights, first "
            f"'{missing[0].replace(f'.{name}', '')}': it was saved or copied incompletely, or belongs to another model",
            where=str(folder),
            remedy="copy the adapter again, or align again",
        )
    if report.unexpected_keys:
        strange = sorted(report.unexpected_keys)
        raise BadInputError(
            f"{len(strange)} tensors of the adapter do not fit its base model, first "
            f"'{strange[0].replace(f'.{name}', '')}': it belongs to another model, or its configuration was changed",
            where=str(folder),
            remedy="use the model that it was trained on, or align again",
        )


@contextlib.contextmanager
def reading(
    location: str | Path,
    problem: str,
    *,
    in_folder: Path | None = None,
    remedy: str | None = None,
    on_hub: type[HarnessError] = HarnessError,
) -> Iterator[None]:
    """Context that turns any exception while a model's files are read into an error about these files; transformers raises many types.

    Args:
        location: folder or hub id.
        problem: what failed, for the message.
        in_folder: the file to name if `location` is a folder.
        remedy: what to do; by default a remedy for a folder or the hub.
        on_hub: the type of the error if a hub id could not be loaded.
    """
    try:
        yield
    except (HarnessError, MemoryError):
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise
        folder, said = Path(location).is_dir(), first_line(error)
        where = str(in_folder or location) if folder else str(location)
        if "custom code" in str(error) or "trust_remote_code" in str(error):
            models, instead = _code_family(location)
            raise BadInputError(
                f"{problem}: {models or 'it'} {NEVER_RUN}",
                where=where,
                remedy=instead or "choose a model that transformers supports: harness list models",
            ) from error
        if isinstance(error, ModuleNotFoundError) and error.name and not is_installed(error.name):
            raise MissingPackageError(error.name, f"{where}: {problem}") from error
        if isinstance(error, ImportError):
            raise BadInputError(f"{problem}: {said}", where=where, remedy=remedy or "install the package") from error
        if isinstance(error, OSError) and not folder:
            raise on_hub(f"{problem}: {said}", where=where, remedy=remedy or _HUB) from error
        detail = said if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {said}"
        raise BadInputError(
            f"{problem}: {detail}", where=where, remedy=remedy or "copy the folder again from a complete one"
        ) from error


def _code_family(location: str | Path) -> tuple[str, str]:
    """The known family of a folder with code: its models, and what to use in their place; ("", "") for others."""
    path = _config_file(location)
    config = read_json(path, "model's configuration", finite=False) if path is not None and path.is_file() else {}
    return CODE_FAMILIES.get(str(config.get("model_type")) if isinstance(config, dict) else "", ("", ""))


def _out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _config_file(location: str | Path) -> Path | None:
    return Path(location) / "config.json" if Path(location).is_dir() else None


def first_line(error: Exception) -> str:
    """The first informative line of an error, shortened; libraries write paragraphs, some of which start with a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    heading = lines[0].endswith(":") and len(lines) > 1
    return (f"{lines[0]} {lines[1]}" if heading else lines[0])[:300].partition(". If you were")[0]
