"""PyTorch's files: what an exported program takes, and what can be guessed of a network from its weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.looking.seen import Seen, SeenInput
from deployments.builder.sources.from_pt2 import load, program_inputs
from deployments.builder.sources.from_pytorch import WRAPPERS, read_weights

CLASS = "FILL_IN:FILL_IN"
WHICH_CLASS = "module:Class of the network, as in `from module import Class`; `args` are what it is made with"


def look_pt2(file: Path) -> Seen:
    """Raises BadInput where it is damaged, would run code, or has a fixed batch."""
    return Seen(inputs=tuple(SeenInput(spec=spec) for spec in program_inputs(load(file), file)))


def look_pytorch(file: Path) -> Seen:
    """A state_dict, bare or in a checkpoint; or a whole pickled network, of which nothing is read. Raises BadInput."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise BadInput("is truncated, or no PyTorch file", where=str(file), remedy="save it again") from error
        return Seen(
            settings={"allow_pickle": True},
            unsure={
                "allow_pickle": "it is a pickle, which runs code when it is read: leave this only where you trust who made it"
            },
            inputs=(_guess(None),),
            notes=("Safer: save model.state_dict(), and name the class that it fills.",),
        )
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise BadInput("is truncated, or no PyTorch file", where=str(file), remedy="save it again") from error
    key = _key(found)
    weights = read_weights(file, key)
    plain = key is None or key in WRAPPERS
    return Seen(
        settings={"class": CLASS, **({} if plain else {"state_dict_key": key})},
        unsure={"class": WHICH_CLASS},
        inputs=(_guess(weights),),
        notes=(f"Its weights: {_shown(weights)}.",),
    )


def _key(found: Any) -> str | None:
    """Where the weights lie in a checkpoint: under the one key that holds nothing but tensors."""
    if not isinstance(found, dict) or all(isinstance(value, torch.Tensor) for value in found.values()):
        return None
    fit = [name for name, value in found.items() if isinstance(value, dict) and value and _tensors(value)]
    return str(fit[0]) if len(fit) == 1 else None


def _tensors(values: Mapping[str, Any]) -> bool:
    return all(isinstance(value, torch.Tensor) for value in values.values())


def _guess(weights: Mapping[str, torch.Tensor] | None) -> SeenInput:
    """One input, as wide as the first layer's weights; images have three axes more."""
    first = next(((name, value) for name, value in (weights or {}).items() if value.ndim >= 2), None)
    shape: tuple[int, ...] = (-1, 1)
    said = "its name (as forward calls it), datatype and shape"
    if first is not None and first[1].ndim == 2:
        shape = (-1, int(first[1].shape[1]))
        said += f"; {first[0]} suggests {shape[1]} numbers a row"
    elif first is not None:
        shape = (-1, int(first[1].shape[1]), *(32 for _ in first[1].shape[2:]))
        said += f"; {first[0]} suggests {shape[1]} channels"
    return SeenInput(spec=TensorSpec(name="input", datatype=Datatype.FP32, shape=shape), unsure=said)


def _shown(weights: Mapping[str, torch.Tensor], most: int = 6) -> str:
    names = [f"{name} {list(value.shape)}" for name, value in list(weights.items())[:most]]
    return ", ".join(names) + (f" and {len(weights) - most} more" if len(weights) > most else "")
