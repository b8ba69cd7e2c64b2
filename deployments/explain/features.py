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

    `named` are those that the caller asked for, and squares: an explanation tells these whole. Others are one value each.
    """

    count: int
    of: Mapping[str, Places]
    shapes: RowShapes
    named: Mapping[int, str]

    def __len__(self) -> int:
        return self.count

    def name(self, group: int) -> str:
        """What a group is called; that of one value by its place."""
        if group in self.named:
            return self.named[group]
        found = ((name, np.flatnonzero(of == group)) for name, of in self.of.items())
        name, places = next((name, places) for name, places in found if len(places))
        return feature_name(name, self.shapes[name], int(places[0]))

    def grouped(self) -> dict[str, npt.NDArray[np.bool_]]:
        """By input which values are in a group that is named, in a row's shape."""
        if not self.named:
            return {name: np.zeros(self.shapes[name], np.bool_) for name in self.of}
        return {name: np.isin(of, list(self.named)).reshape(self.shapes[name]) for name, of in self.of.items()}

    def sizes(self) -> Places:
        """How many values each group has, [G]."""
        every = np.concatenate([*self.of.values(), np.empty(0, np.intp)])
        return np.bincount(every, minlength=self.count).astype(np.intp)


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
    named: dict[int, str] = {}
    for group, members in groups.items():
        for member in members:
            name, places = _named(member, group, shapes)
            taken = int(of[name][places].max(initial=-1))
            if taken >= 0:
                raise BadInput(
                    f"feature {member} is in group {named.get(taken, group)} too",
                    where=f"explain.groups.{group}",
                    remedy="leave it in one of them",
                )
            of[name][places] = len(named)
        named[len(named)] = group
    count = len(named)
    for spec in signature.inputs:
        shape, own = shapes[spec.name], of[spec.name]
        axes = image_axes(shape) if blocks else None
        if blocks and axes:
            squares = _cut(spec.name, shape, own, axes, blocks, count)
            named |= squares
            count += len(squares)
            continue
        free = np.flatnonzero(own < 0)
        own[free] = count + np.arange(len(free))
        count += len(free)
    if blocks and not any(image_axes(shape) for shape in shapes.values()):
        raise BadInput(
            "no input is an image", where="explain.blocks", remedy="leave it out, or put features together in explain.groups"
        )
    return FeatureGroups(count, of, shapes, named)


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


def _cut(name: str, shape: tuple[int, ...], own: Places, axes: tuple[int, int], side: int, first: int) -> dict[int, str]:
    """Puts an image's free values into squares, all channels together, numbered from `first` on; returns their names."""
    rows, columns = (np.indices(shape)[axis].ravel() // side for axis in axes)
    across = -(-shape[axes[1]] // side)
    free = np.flatnonzero(own < 0)
    squares, places = np.unique((rows * across + columns)[free], return_inverse=True)
    own[free] = first + places
    made: dict[int, str] = {}
    for place, square in enumerate(squares.tolist()):
        top, left = (part * side for part in divmod(square, across))
        bottom, right = min(top + side, shape[axes[0]]), min(left + side, shape[axes[1]])
        made[first + place] = f"{name}[{top}:{bottom},{left}:{right}]"
    return made
