"""The profile of the version that a build keeps: of which rows, and what the report says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cluster.errors import BadInput
from cluster.signature import Signature
from deployments.builder.evaluation.quality import are_probabilities
from deployments.builder.sources.importing import Imported
from deployments.builder.spec import BuildSpec, Profiling
from deployments.engines.answers import argmax, class_output, flat, score_output
from deployments.engines.datatypes import Array
from deployments.profiles.form import FEW_ROWS, Profile
from deployments.profiles.making import make_profile


def check_left_out(asked: Profiling, signature: Signature) -> None:
    """Raises BadInput where the document leaves out what is no input or output."""
    known = [spec.name for spec in (*signature.inputs, *signature.outputs)]
    check_names(asked.leave_out, known, "input or output", "profile.leave_out")


def check_names(names: Sequence[str], known: Sequence[str], what: str, where: str) -> None:
    """Raises BadInput where a name is not among those that are known."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadInput(
            f"no {what} is called {', '.join(unknown)}; there are {', '.join(known)}", where=where, remedy="correct the names"
        )


def profiled(spec: BuildSpec, imported: Imported, answers: Mapping[str, Array] | None) -> tuple[Profile | None, str]:
    """The profile of the evaluation's rows and the kept variant's answers to them, and a report's words for it.

    `spec` is the section as the user wrote it; `answers` are None where nothing was kept.
    """
    if not spec.profile.make:
        return None, "none, as the document says"
    if spec.evaluate is None:
        return None, "none, since there are no rows to evaluate it on"
    if answers is None:
        return None, "none, since no version was made"
    left_out = spec.profile.leave_out
    classes = _classes(answers, left_out, spec.evaluate.label) if spec.evaluate.task == "classification" else None
    profile = make_profile(imported.signature, imported.rows.inputs, answers, classes=classes, leave_out=left_out)
    return profile, _words(profile)


def _classes(answers: Mapping[str, Array], left_out: Collection[str], label: str | None) -> Array | None:
    """The class of each row as its scores tell it; None where an output is the class already, or no scores are of classes."""
    scores = score_output(answers)
    if class_output(answers) is not None or scores is None or scores in left_out:
        return None
    numbers = flat(answers[scores])
    return argmax(numbers) if numbers.shape[1] and (label is not None or are_probabilities(numbers)) else None


def _words(profile: Profile) -> str:
    told = [f"of {profile.summary.rows:,} rows"]
    if profile.summary.few:
        told.append(f"which are few (below {FEW_ROWS}): its edges and shares are rough")
    told += [
        f"of {tensor.name} the first {tensor.profiled:,} of {tensor.features:,} features"
        for tensor in profile.summary.tensors
        if tensor.profiled < tensor.features
    ]
    if profile.summary.left_out:
        told.append(f"without {', '.join(profile.summary.left_out)}")
    return ", ".join(told)
