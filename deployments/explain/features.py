"""What is swapped as one: each value of a row by itself, or in groups. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput
from cluster.signature import Signature

Places = npt.NDArray[np.intp]
RowShapes = Mapping[str, tuple[int, ...]]

# An image's sides are at least so long; a shorter table is a list column.
SMALLEST_SIDE = 8
CHANNELS = (1, 3, 4)
_NAMED = re.compile(r"(?P<input>.+)\[(?P<place>\d+(?:\s*,\s*\d+)*)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FeatureGroups:
    """G groups of the values of a row. `of` says by input, in a row's order, which group each of its d values is in, [d].

    `asked` are the groups with more than one value, or that were named by the caller: an explanation tells these whole.
    """

    names: tuple[str, ...]
    of: Mapping[str, Places]
    asked: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def sizes(self) -> Places:
        """How many values each group has, [G]."""
        every = np.concatenate([*self.of.values(), np.empty(0, np.intp)])
        return np.bincount(every, minlength=len(self)).astype(np.intp)


def image_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """Which axes of a row are an image's height and width; None where it is no image by its shape."""
    axes: tuple[int, int] | None = None
    if len(shape) == 2:
        axes = (0, 1)
    elif len(shape) == 3 and (shape[0] in CHANNELS or shape[2] in CHANNELS):
        axes = (1, 2) if shape[0] in CHANNELS else (0, 1)
    return axes if axes and min(shape[axis] for axis in axes) >= SMALLEST_SIDE else None


def row_shapes(rows: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each input."""
    return {name: tuple(value.shape[1:]) for name, value in rows.items()}


def feature_groups(
    signature: Signature, shapes: RowShapes, groups: Mapping[str, Sequence[str]], blocks: int | None
) -> FeatureGroups:
    """The groups of a version's row. Raises BadInput where a group names what is no feature, or one that another group has."""
    of = {spec.name: np.full(math.prod(shapes[spec.name]), -1, np.intp) for spec in signature.inputs}
    names: list[str] = []
    for group, members in groups.items():
        for member in members:
            name, places = _named(member, group, shapes)
            taken = of[name][places]
            if (taken >= 0).any():
                other = names[int(taken[taken >= 0][0])] if int(taken.max()) < len(names) else group
                raise BadInput(
                    f"feature {member} is in group {other} too", where=f"explain.groups.{group}", remedy="leave it in one of them"
                )
            of[name][places] = len(names)
        names.append(group)
    asked = list(range(len(names)))
    for spec in signature.inputs:
        shape, own = shapes[spec.name], of[spec.name]
        axes = image_axes(shape) if blocks else None
        if blocks and axes:
            asked += _cut(spec.name, shape, own, axes, blocks, names)
            continue
        free = np.flatnonzero(own < 0)
        own[free] = len(names) + np.arange(len(free))
        names += [feature_name(spec.name, shape, int(place)) for place in free]
    if blocks and not any(image_axes(shape) for shape in shapes.values()):
        raise BadInput(
            "no input is an image", where="explain.blocks", remedy="leave it out, or put features together in explain.groups"
        )
    return FeatureGroups(tuple(names), of, tuple(asked))


def feature_name(name: str, shape: Sequence[int], place: int) -> str:
    """`age`, or `image[3,5]`: what the value at a flat place of an input is called."""
    if math.prod(shape) == 1:
        return name
    return f"{name}[{','.join(str(int(at)) for at in np.unravel_index(place, tuple(shape)))}]"


def _named(member: str, group: str, shapes: RowShapes) -> tuple[str, Places]:
    """The input that a feature belongs to, and its flat places there. An input may be called `a[0]` itself."""
    if member in shapes:
        return member, np.arange(math.prod(shapes[member]))
    found = _NAMED.fullmatch(member)
    name = found["input"] if found else ""
    if found and name in shapes:
        at, shape = tuple(int(part) for part in found["place"].split(",")), shapes[name]
        if len(at) == len(shape) and all(one < axis for one, axis in zip(at, shape, strict=True)):
            return name, np.array([int(np.ravel_multi_index(at, shape))])
    raise BadInput(
        f"{member[:80]!r} is no feature; there are {_known(shapes)}",
        where=f"explain.groups.{group}",
        remedy="name an input, or one value of it by its place",
    )


def _known(shapes: RowShapes) -> str:
    told = []
    for name, shape in list(shapes.items())[:20]:
        last = math.prod(shape) - 1
        told.append(name if last <= 0 else f"{feature_name(name, shape, 0)} to {feature_name(name, shape, last)}")
    return ", ".join(told) + (", ..." if len(shapes) > len(told) else "")


def _cut(name: str, shape: tuple[int, ...], own: Places, axes: tuple[int, int], side: int, names: list[str]) -> list[int]:
    """Puts an image's free values into squares, all channels together; returns the new groups."""
    rows, columns = (np.indices(shape)[axis] // side for axis in axes)
    across = -(-shape[axes[1]] // side)
    square = (rows * across + columns).ravel()
    made: list[int] = []
    for one in np.unique(square[own < 0]).tolist():
        own[(square == one) & (own < 0)] = len(names)
        made.append(len(names))
        top, left = divmod(one, across)
        bottom, right = min((top + 1) * side, shape[axes[0]]), min((left + 1) * side, shape[axes[1]])
        names.append(f"{name}[{top * side}:{bottom},{left * side}:{right}]")
    return made
