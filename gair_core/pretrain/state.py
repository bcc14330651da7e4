"""The state of a run on disk: one safetensors file with weights, optimiser moments, memory bank and step.

Random numbers need no state: order, augmentation, masks and dropout are functions of seed and step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gair_core.checkpoint import enumerate_names, save_complete
from gair_core.errors import BadInputError, CheckpointError

_NAME: Final = "step-{:09d}.safetensors"
_PATTERN: Final = re.compile(r"step-(\d{9})\.safetensors")
_OBJECTIVE, _OPTIMIZER = "objective.", "optimizer."


def save_state(
    folder: Path,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    description: Mapping[str, Any],
    *,
    keep: int = 0,
) -> Path:
    """Write the state after a step; the older ones stay until it is complete.

    Args:
        folder: Where states are kept.
        objective: Model, memory bank and whatever else has weights.
        optimizer: Its moments are kept too; None for weights alone.
        description: JSON-serialisable; ``step`` is the number of steps made.
        keep: Older states to keep.

    Returns:
        The file.

    Raises:
        BadInputError: It cannot be written; older states are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_OBJECTIVE}{name}": values for name, values in objective.state_dict().items()}
    moments = {} if optimizer is None else optimizer.state
    for name, parameter in objective.named_parameters():
        for key, value in moments.get(parameter, {}).items():
            tensors[f"{_OPTIMIZER}{name}:{key}"] = value
    path = folder / _NAME.format(int(description["step"]))
    part = path.with_name(f"{path.name}.part")
    text = json.dumps(dict(description), allow_nan=False)
    try:
        stored = {name: values.detach().cpu().contiguous() for name, values in tensors.items()}
        save_complete(stored, path, part, {"gair_pretraining": text})
    except (OSError, SafetensorError) as error:
        last = latest_state(folder)
        raise BadInputError(
            f"The state after step {description['step']} could not be written: {error}.",
            "Make room and run again with --resume: "
            + (f"{last} is complete." if last else "no earlier state was written."),
        ) from error
    for old in _states(folder)[: -(keep + 1)]:
        old.unlink()
    return path


def latest_state(folder: Path) -> Path | None:
    """Return the state with the most steps, None where there is none."""
    states = _states(folder)
    return states[-1] if states else None


def state_to_resume(output: Path, *, resume: bool) -> Path | None:
    """Return the state in the folder of a run that it continues from, None for a new run.

    Raises:
        BadInputError: There is none to resume from, or a new run would go over an older one.
    """
    state = latest_state(output / "state")
    if resume and state is None:
        raise BadInputError(f"There is no state in {output} to resume from.", "Run without --resume.")
    if state is not None and not resume:
        raise BadInputError(
            f"{output} holds a run already ({state.name}).",
            "Continue it with --resume, or choose another folder with output=....",
        )
    return state


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a state.

    Returns:
        Its description and its tensors, on the CPU.

    Raises:
        CheckpointError: It is damaged or something else.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("gair_pretraining")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The state {path} cannot be read: {error}.", "Delete it to resume from an earlier one."
        ) from None
    if text is None:
        raise CheckpointError(f"{path} is no state of a training run.")
    return dict(json.loads(text)), tensors


def restore_state(
    tensors: Mapping[str, Tensor],
    objective: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    path: Path,
) -> None:
    """Put the tensors of a state back where `save_state` took them; None for the weights alone.

    Raises:
        CheckpointError: They do not fit.
    """
    weights = {
        name.removeprefix(_OBJECTIVE): values
        for name, values in tensors.items()
        if name.startswith(_OBJECTIVE)
    }
    own = objective.state_dict()
    wrong = sorted(name for name in {*own, *weights} if _shape(own, name) != _shape(weights, name))
    if wrong:
        raise CheckpointError(f"The state {path} does not fit the run: {enumerate_names(wrong)}.")
    objective.load_state_dict(weights)
    if optimizer is None:
        return
    parameters = dict(objective.named_parameters())
    for name, values in tensors.items():
        if not name.startswith(_OPTIMIZER):
            continue
        owner, _, key = name.removeprefix(_OPTIMIZER).rpartition(":")
        parameter = parameters[owner]
        # AdamW keeps its count of steps on the CPU unless it is fused.
        fused = any(group.get("fused") for group in optimizer.param_groups)
        place = parameter.device if key != "step" or fused else torch.device("cpu")
        optimizer.state[parameter][key] = values.to(place)


def _states(folder: Path) -> list[Path]:
    """Return the states of a folder by step."""
    return sorted(path for path in folder.glob("step-*.safetensors") if _PATTERN.fullmatch(path.name))


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
