"""Which number of an answer is explained, and how it is read from outputs. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from cluster.errors import BadInput
from cluster.signature import Signature
from deployments.engines.answers import class_output, columns, decided, flat, score_output
from deployments.engines.datatypes import Array
from deployments.explain.form import ExplainOptions, ExplainScale, Floats

# Log-odds end here, at 27.6 nats: what lies below of a probability is rounding, or a tree's exact 0.
PLACE_DIGITS_MOST = 18  # Python reads no number of some thousand
SMALLEST = 1e-12
Label = int | str | bool | None


class ScoreKind(StrEnum):
    """What the explained output holds: a row of probabilities, one probability, numbers, or the class itself."""

    PROBABILITIES = "probabilities"
    PROBABILITY = "probability"
    NUMBERS = "numbers"
    CLASS = "class"


@dataclass(frozen=True, slots=True)
class ExplainTarget:
    """The number that is explained: of output `output` the value at the flat place `column` of a row.

    Where `kind` is CLASS it is 1 for rows that the version gives the class `chosen`, and 0 for others. `sign` is -1 where the one
    probability of an output is told for its other class. `label` is how a caller names the class.
    """

    output: str
    kind: ScoreKind
    scale: ExplainScale
    column: int
    label: Label
    sign: float = 1.0
    chosen: object = None

    def values(self, answers: Mapping[str, Array]) -> Floats:
        """The target of each of n rows, [n]."""
        answer = answers[self.output]
        if self.kind is ScoreKind.CLASS:
            return np.asarray(answer.reshape(len(answer)) == self.chosen, dtype=np.float64)
        numbers = flat(answer)
        picked = numbers[:, self.column]
        if self.scale is ExplainScale.RAW:
            return picked if self.sign > 0 else 1 - picked
        if self.kind is ScoreKind.PROBABILITY:
            least = _least(answer)
            return np.asarray(self.sign * (np.log(np.maximum(picked, least)) - np.log(np.maximum(1 - picked, least))))
        if self.kind is ScoreKind.PROBABILITIES:
            # Not 1 - picked: near 1 that has no digits left in 32 bits.
            rest = numbers @ (np.arange(numbers.shape[1]) != self.column).astype(np.float64)
            return np.asarray(np.log(np.maximum(picked, SMALLEST)) - np.log(np.maximum(rest, SMALLEST)))
        others = np.delete(numbers, self.column, axis=1)
        top = others.max(axis=1)
        return np.asarray(picked - top - np.log(np.exp(others - top[:, None]).sum(axis=1)))

    def slopes(self, answers: Mapping[str, Array]) -> Array:
        """The derivative of each row's target by each value of the output, in the output's shape and datatype."""
        answer = answers[self.output]
        numbers = flat(answer)
        picked = numbers[:, self.column]
        found = np.zeros_like(numbers)
        if self.scale is ExplainScale.RAW:
            found[:, self.column] = self.sign
        elif self.kind is ScoreKind.PROBABILITY:
            inside = (picked > _least(answer)) & (1 - picked > _least(answer))
            found[:, 0] = self.sign * np.where(inside, 1 / np.where(inside, picked * (1 - picked), 1), 0)
        elif self.kind is ScoreKind.PROBABILITIES:
            rest = np.delete(numbers, self.column, axis=1).sum(axis=1)
            found[:] = np.where(rest > SMALLEST, -1 / np.maximum(rest, SMALLEST), 0)[:, None]
            found[:, self.column] = np.where(picked > SMALLEST, 1 / np.maximum(picked, SMALLEST), 0)
        else:
            shares = numbers.copy()
            shares[:, self.column] = -np.inf
            shares = np.exp(shares - shares.max(axis=1, keepdims=True))
            found[:] = -shares / shares.sum(axis=1, keepdims=True)
            found[:, self.column] = 1
        return found.reshape(answer.shape).astype(answer.dtype)


@dataclass(frozen=True, slots=True)
class SeenAnswers:
    """Answers to the background rows and to the rows to be explained, joined, from which the output's nature is read.

    `classes` says whether the version was built to tell classes.
    """

    outputs: Mapping[str, Array]
    classes: bool
    _read: dict[str, tuple[Floats, ScoreKind]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, name: str) -> tuple[Floats, ScoreKind]:
        """An output's numbers and what they are: read once, since every row of a call asks."""
        if name not in self._read:
            numbers = flat(self.outputs[name])
            self._read[name] = numbers, _kind(numbers, classes=self.classes)
        return self._read[name]


def output_to_explain(signature: Signature, answers: Mapping[str, Array], options: ExplainOptions) -> str:
    """The output that is explained. Raises BadInput for one that is not there, or holds texts in more than one place."""
    name = options.output
    known = ", ".join(spec.name for spec in signature.outputs)
    if name is not None and name not in answers:
        raise BadInput("the version has no such output", where="explain.output", remedy=f"name one of {known}")
    if name is None:
        named = class_output(answers)
        others = {key: value for key, value in answers.items() if key != named}
        name = score_output(others) or named or next(iter(answers))
    value = answers[name]
    if value.dtype == np.object_ and value.size != len(value):
        raise BadInput(
            f"output {name} holds more than one text a row, which has no size",
            where="explain.output",
            remedy=f"name another of {known}",
        )
    return name


def resolve_target(name: str, row: Mapping[str, Array], seen: SeenAnswers, options: ExplainOptions) -> ExplainTarget:
    """What is explained of a row with the answer `row` (one row). Raises BadInput for a class or a scale that is not there."""
    answer = seen.outputs[name]
    named = class_output(seen.outputs)
    if answer.dtype == np.object_ or (name == named and seen.classes):
        return _class_itself(name, row, seen, options)
    numbers, kind = seen.read(name)
    scale = options.scale or (ExplainScale.RAW if kind is ScoreKind.NUMBERS else ExplainScale.LOG_ODDS)
    if scale is ExplainScale.LOG_ODDS and (kind is ScoreKind.NUMBERS) and numbers.shape[1] < 2:
        raise BadInput(
            f"output {name} holds no probability, so there are no log-odds",
            where="explain.scale",
            remedy="say raw, or leave it out",
        )
    if kind is ScoreKind.PROBABILITY or numbers.shape[1] == 1:
        return _single(name, kind, scale, options)
    known = {} if named is None or named == name else columns(_flat_class(seen.outputs[named]), numbers) or {}
    names = {column: _plain(label) for label, column in known.items()}
    if options.label is None and not seen.classes:
        raise BadInput(
            f"output {name} holds {numbers.shape[1]} numbers a row, and the version tells no classes",
            where="explain.class",
            remedy=f"say which of them by its place, 0 to {numbers.shape[1] - 1}",
        )
    column = int(flat(row[name])[0].argmax()) if options.label is None else _column(options.label, names, numbers.shape[1], name)
    return ExplainTarget(name, kind, scale, column, names.get(column, column))


def classes_of(answers: Mapping[str, Array]) -> list[Label]:
    """The class of each row, as a caller names it."""
    return [_plain(one) for one in decided(answers).tolist()]


def _single(name: str, kind: ScoreKind, scale: ExplainScale, options: ExplainOptions) -> ExplainTarget:
    if kind is ScoreKind.NUMBERS:
        if options.label not in (None, 0):
            raise BadInput(f"output {name} is one number a row", where="explain.class", remedy="leave it out")
        return ExplainTarget(name, kind, scale, 0, None)
    label = 1 if options.label is None else _as_place(options.label)
    if label not in (0, 1):
        raise BadInput(f"output {name} is the probability of class 1", where="explain.class", remedy="say 0 or 1")
    return ExplainTarget(name, kind, scale, 0, label, sign=1.0 if label else -1.0)


def _class_itself(name: str, row: Mapping[str, Array], seen: SeenAnswers, options: ExplainOptions) -> ExplainTarget:
    if options.scale is ExplainScale.LOG_ODDS:
        raise BadInput(
            f"output {name} is the class itself, which has no log-odds", where="explain.scale", remedy="say raw, or leave it out"
        )
    chosen = _flat_class(row[name])[0]
    if options.label is not None:
        every = sorted({str(_plain(one)): one for one in _flat_class(seen.outputs[name]).tolist()}.items())
        chosen = dict(every).get(str(options.label))
        if chosen is None:
            raise BadInput(
                "no row that was seen gets this class",
                where="explain.class",
                remedy=f"name one of {', '.join(label for label, _ in every[:20])}",
            )
    return ExplainTarget(name, ScoreKind.CLASS, ExplainScale.RAW, 0, _plain(chosen), chosen=chosen)


def _column(label: int | str | bool, names: Mapping[int, Label], width: int, output: str) -> int:
    """Which score is a class's: by the name that the model gives it, as far as rows told; else by its place."""
    by_name = next((column for column, known in names.items() if str(known) == str(label)), None)
    if by_name is not None:
        return by_name
    place = _as_place(label)
    if place is not None and not names and 0 <= place < width:
        return place
    known = ", ".join(str(one) for one in list(names.values())[:20]) or f"0 to {width - 1}"
    raise BadInput(f"output {output} has no such class", where="explain.class", remedy=f"name one of {known}")


def _as_place(label: int | str | bool) -> int | None:
    if isinstance(label, str):
        return int(label) if label.isdecimal() and len(label) <= PLACE_DIGITS_MOST else None
    return int(label)


def _kind(numbers: Floats, *, classes: bool) -> ScoreKind:
    if not classes or not numbers.size or not (numbers.min() >= 0 and numbers.max() <= 1 + 1e-6):
        return ScoreKind.NUMBERS
    if numbers.shape[1] == 1:
        return ScoreKind.PROBABILITY
    return ScoreKind.PROBABILITIES if np.allclose(numbers.sum(axis=1), 1, atol=1e-2) else ScoreKind.NUMBERS


def _least(answer: Array) -> float:
    """Nearer to 1 than this a probability has no digits left."""
    return float(np.finfo(answer.dtype).eps) / 2 if np.issubdtype(answer.dtype, np.floating) else SMALLEST  # type: ignore[type-var]


def _flat_class(value: Array) -> Array:
    return value.reshape(len(value))


def _plain(label: object) -> Label:
    if isinstance(label, bytes):
        return label.decode(errors="replace")
    if isinstance(label, np.generic):
        label = label.item()
    return label if isinstance(label, int | str | bool) else str(label)
