"""Which of a source's inputs and outputs the document's names mean: by name wherever the source has names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.errors import BadInput

# What frameworks call tensors that nobody named.
UNNAMED = re.compile(
    r"(args?|inputs?|tensors?|outputs?|keras_tensor|input_layer|serving_default_\w+|StatefulPartitionedCall|dense|activation"
    r"|softmax|flatten|concatenate|add|dropout)(_\d+)?"
)
BY_NAME = "by name"
IN_ORDER = "in the order listed: the source has no names"


@dataclass(frozen=True, slots=True)
class NameBinding:
    """The document's names by the source's own, in the source's order, and how they were found."""

    names: Mapping[str, str]
    how: str = BY_NAME


def bind(listed: Sequence[str], own: Sequence[str], *, what: str, optional: Sequence[str] = ()) -> NameBinding:
    """Binds inputs: `listed` in the document to the source's `own`, where `optional` ones may be left out.

    One input listed for a source of one needs no name. Names that the framework made up are none: then the order counts, which
    `how` says. Raises BadInput that tells the source's names.
    """
    _refuse_doubles(listed, what)
    if not listed:
        return NameBinding({name: name for name in own})
    if set(listed) <= set(own) and all(name in listed or name in optional for name in own):
        return NameBinding({name: name for name in own if name in listed})
    if len(listed) == len(own) == 1:
        return NameBinding({own[0]: listed[0]})
    if len(listed) == len(own) and not set(listed) & set(own) and all(UNNAMED.fullmatch(name) for name in own):
        return NameBinding(dict(zip(own, listed, strict=True)), IN_ORDER)
    unknown = [name for name in listed if name not in own]
    missing = [name for name in own if name not in listed and name not in optional]
    fault = (
        f"no {what[:-1]} {', '.join(unknown)}"
        if unknown
        else f"{what} {', '.join(missing)} too, which {_are(missing)} not listed"
    )
    raise BadInput(
        f"the model has {fault}; its {what} are {', '.join(own)}", where=what, remedy="list them by the names that the model has"
    )


def select(listed: Sequence[str], own: Sequence[str], *, named: bool) -> NameBinding:
    """Selects outputs: the document's names by the source's own, in the order listed; all of them where none is listed.

    `named` is False where the source has only an order. Raises BadInput for a name that the source does not have.
    """
    _refuse_doubles(listed, "outputs")
    if not listed:
        return NameBinding({name: name for name in own})
    if set(listed) <= set(own) and named:
        return NameBinding({name: name for name in listed})
    made_up = not named or all(UNNAMED.fullmatch(name) for name in own)
    if len(listed) == len(own) and made_up and not (named and set(listed) & set(own)):
        return NameBinding(dict(zip(own, listed, strict=True)), IN_ORDER if len(own) > 1 else BY_NAME)
    if not named:
        raise BadInput(
            f"the network has {len(own)} outputs without names, {len(listed)} are named",
            where="outputs",
            remedy="name each, in the order that it returns them; or let it return a dict, whose keys are the names",
        )
    unknown = [name for name in listed if name not in own]
    raise BadInput(
        f"the model has no output {', '.join(unknown)}; its outputs are {', '.join(own)}",
        where="outputs",
        remedy="list them by the names that the model has, in any order, or leave some out",
    )


def natural(names: Sequence[str]) -> list[str]:
    """In the order that people count in: output_2 before output_10."""
    return sorted(
        names, key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)]
    )


def _refuse_doubles(listed: Sequence[str], what: str) -> None:
    doubles = sorted({name for name in listed if listed.count(name) > 1})
    if doubles:
        raise BadInput(f"{', '.join(doubles)} is listed twice", where=what, remedy="list each name once")


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"
