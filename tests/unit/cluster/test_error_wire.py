"""Errors cross processes as the class they left as; findings of pydantic's are told in words without the value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from cluster import errors
from cluster.error_wire import KINDS, from_wire, to_wire
from cluster.findings import first_finding
from cluster.rollout.record import IllegalTransition


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_there_and_back_it_is_the_same(kind: str) -> None:
    error = KINDS[kind]("what", where="where", remedy="remedy")
    back = from_wire(json.loads(json.dumps(to_wire(error))))
    assert type(back) is KINDS[kind]
    assert (back.what, back.where, back.remedy) == ("what", "where", "remedy")


def test_an_error_of_elsewhere_comes_back_as_what_it_extends() -> None:
    assert type(from_wire(to_wire(IllegalTransition("no")))) is errors.Conflict


@pytest.mark.parametrize("data", [None, "text", {}, {"what": 3}, {"kind": "BadInput"}, []])
def test_what_is_no_error_of_ours_is_none(data: Any) -> None:
    assert from_wire(data) is None


def test_a_kind_of_a_newer_headrace_is_an_error_all_the_same() -> None:
    back = from_wire({"kind": "Melted", "what": "too hot"})
    assert (type(back), str(back)) == (errors.HeadraceError, "too hot")


NO_NUMBER = "Input should be a valid integer, unable to parse string as an integer"


class Inner(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def _small(cls, size: int) -> int:
        if size > 9:
            raise ValueError("size is above 9")
        return size


class Outer(BaseModel):
    inner: list[Inner]


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        ({}, "inner", "Field required"),
        ({"inner": [{"size": 1}, {"size": "secret"}]}, "inner.1.size", NO_NUMBER),
        ({"inner": [{"size": 10}]}, "inner.0.size", "size is above 9"),
        (3, "", "Input should be a valid dictionary or instance of Outer"),
    ],
)
def test_the_first_finding_is_a_field_and_words(data: Any, field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    found = first_finding(caught.value)
    assert (found.field, found.words) == (field, words)
    assert str(found) == (f"{field}: {words}" if field else words)
    assert "secret" not in str(found)
