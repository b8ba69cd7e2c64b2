"""The second half of a build: smaller and faster forms of the imported model, each made, measured and judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import BadArtifact, EngineFailure
from cluster.signature import Datatype, Signature
from deployments.builder.evaluation import gate as gates
from deployments.builder.evaluation.neighbours import Neighbours, neighbours
from deployments.builder.evaluation.quality import Task, quality
from deployments.builder.report import IMPORTED, Speed, Variant
from deployments.builder.sources.importing import Imported, Progress
from deployments.builder.sources.rows import LabelledRows
from deployments.builder.spec import BuildSpec, Prune
from deployments.builder.steps.graph import run_rows
from deployments.builder.worker import run_worker
from deployments.engines.arrays import save_arrays
from deployments.engines.datatypes import Array
from deployments.engines.load import open_engine
from deployments.engines.onnx_external import weights_beside

CALIBRATION_ROWS = 256
AUTO_SHARES = (0.5, 0.75)
OPTIMISED = "optimised"
HALF = "fp16"
AUTO_METHODS = ("int8-static", HALF, "int8-dynamic")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant's file, how it was made, and why it could not be (then there is no file)."""

    name: str
    file: Path
    steps: tuple[dict[str, Any], ...]
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a variant is made: pruned, then put through the methods."""

    prune: Prune | None = None
    methods: tuple[str, ...] = ()


class VariantBuilder:
    """Makes and judges the variants of one build in the folder `work`."""

    def __init__(
        self, spec: BuildSpec, imported: Imported, learn: LabelledRows | None, work: Path, log: Path, progress: Progress
    ) -> None:
        """`learn` are the rows that compression may learn from."""
        self._spec = spec
        self._imported = imported
        self._learn = learn
        self._work = work
        self._log = log
        self._progress = progress
        self._answers: dict[str, dict[str, Array]] = {}
        self._task: Task = spec.evaluate.task if spec.evaluate else "classification"
        # A file can't hold more than 2 GB, and onnxruntime writes what it has optimised as one.
        self._optimise = spec.optimise and not weights_beside(imported.file)

    def wanted(self) -> str | None:
        """The name of the variant that the document asks for; None for the fastest."""
        if self._spec.compress.method == "auto":
            return None
        return next(reversed(self._plan()), IMPORTED)

    def candidates(self) -> list[Candidate]:
        """Makes every variant of the plan, the imported model first, which stays as it is to compare with."""
        plan = self._plan()
        pruned = self._prune(
            {name: recipe.prune for name, recipe in plan.items() if recipe.prune and name == _pruned(recipe.prune)}
        )
        made = [Candidate(IMPORTED, self._imported.file, ())]
        jobs: list[tuple[Candidate, Path, list[str]]] = []
        for name, recipe in plan.items():
            source = pruned[_pruned(recipe.prune)] if recipe.prune else made[0]
            methods = list(recipe.methods)
            if self._optimise:
                # Not after fp16, which the CPU can't compute in: the model would do so in fp32 for ever, on a GPU too.
                methods.insert(0 if HALF in methods else len(methods), OPTIMISED)
            steps = (*source.steps, *({"step": method} for method in methods))
            if source.skipped or not methods:
                made.append(Candidate(name, source.file, steps, source.skipped))
            else:
                jobs.append((Candidate(name, self._file(f"{name}.made"), steps), source.file, methods))
        told = self._quantise(jobs)
        made += [replace(candidate, skipped=told[str(candidate.file)]) for candidate, _, _ in jobs]
        names = [IMPORTED, *plan]
        return sorted(made, key=lambda candidate: names.index(candidate.name))

    def _plan(self) -> dict[str, Recipe]:
        """How each variant is made, by name, the one wanted last; a pruned float variant stands before its int8."""
        compress = self._spec.compress
        if self._spec.engine == "torch":
            return {}
        plan: dict[str, Recipe] = {OPTIMISED: Recipe()} if self._optimise else {}
        if compress.method != "auto":
            if compress.prune:
                plan[_pruned(compress.prune)] = Recipe(compress.prune)
            if compress.method != "none":
                prefix = f"{_pruned(compress.prune)}+" if compress.prune else ""
                plan[f"{prefix}{compress.method}"] = Recipe(compress.prune, (compress.method,))
            return plan
        prunes = [compress.prune] if compress.prune else []
        if not prunes and self._learn is not None and self._learn.labels is not None and not self._has_text():
            prunes = [Prune(share=share) for share in AUTO_SHARES]
        plan |= {method: Recipe(None, (method,)) for method in AUTO_METHODS}
        for prune in prunes:
            plan[_pruned(prune)] = Recipe(prune)
            plan |= {f"{_pruned(prune)}+{method}": Recipe(prune, (method,)) for method in AUTO_METHODS if method != HALF}
        return plan

    def _has_text(self) -> bool:
        """Whether a row holds text, which no gradient goes through."""
        return any(spec.datatype is Datatype.BYTES for spec in self._imported.signature.inputs)

    def _prune(self, wanted: dict[str, Prune]) -> dict[str, Candidate]:
        if not wanted:
            return {}
        if self._has_text():
            why = "a model that reads text can't be pruned"
            return {name: Candidate(name, self._file(name), (), why) for name in wanted}
        self._progress("prune " + ", ".join(f"{prune.share:.0%}" for prune in wanted.values()))
        first = next(iter(wanted.values()))
        job = {
            "source": str(self._imported.file),
            "rows": self._save("learn", self._learn.inputs if self._learn else {}),
            "labels": self._save("labels", _labels(self._learn)),
            "task": self._task,
            "finetune": first.finetune.model_dump() if first.finetune else None,
            "variants": [{"share": prune.share, "target": str(self._file(name))} for name, prune in wanted.items()],
        }
        told = run_worker("steps.prune", job, what="pruning", log=self._log, extra="torch")["made"]
        made: dict[str, Candidate] = {}
        for name, prune in wanted.items():
            answer = told[str(self._file(name))]
            step = {"step": "prune", **prune.model_dump(), **{key: answer[key] for key in ("removed", "losses") if key in answer}}
            made[name] = Candidate(name, self._file(name), (step,), answer["skipped"])
        return made

    def _quantise(self, jobs: list[tuple[Candidate, Path, list[str]]]) -> dict[str, str]:
        """Runs the methods on each source, one after another; answers by target: "" or why it was not made."""
        if not jobs:
            return {}
        self._progress("compress " + ", ".join(candidate.name for candidate, _, _ in jobs))
        rows = self._learn or self._imported.rows
        job = {
            "rows": self._save("calibration", rows.take(slice(CALIBRATION_ROWS)).inputs),
            "variants": [
                {"methods": methods, "source": str(source), "target": str(candidate.file)} for candidate, source, methods in jobs
            ],
        }
        made: dict[str, str] = run_worker("steps.quantize", job, what="compressing", log=self._log, extra="torch")["made"]
        return made

    def judge(self, candidates: list[Candidate]) -> list[Variant]:
        """Measures and gates the candidates."""
        self._progress("evaluate " + ", ".join(candidate.name for candidate in candidates))
        rows, signature = self._imported.rows, self._imported.signature
        answers = self._answers
        beside: dict[str, Neighbours] = {}
        skipped = {candidate.name: candidate.skipped for candidate in candidates}
        for candidate in candidates:
            if not candidate.skipped:
                try:
                    engine = open_engine(self._spec.engine, candidate.file, signature)
                    beside[candidate.name] = neighbours(engine.score, rows.inputs, self._task)
                    answers[candidate.name] = run_rows(engine, rows.inputs)
                except (BadArtifact, EngineFailure) as error:
                    skipped[candidate.name] = error.what
        good = [candidate for candidate in candidates if candidate.name in answers]
        measured = self._measure(good, signature)
        found: list[Variant] = []
        for candidate in candidates:
            if skipped[candidate.name]:
                found.append(Variant(name=candidate.name, skipped=skipped[candidate.name]))
                continue
            variant = Variant(
                name=candidate.name,
                steps=candidate.steps,
                size_bytes=sum(one.stat().st_size for one in (candidate.file, *weights_beside(candidate.file).values())),
                quality=quality(answers[candidate.name], answers[IMPORTED], rows.labels, self._task),
                neighbours=beside[candidate.name],
                **measured[candidate.name],
            )
            imported = found[0] if found else variant
            found.append(variant.model_copy(update={"broken": gates.broken(self._spec.gate, variant, imported)}))
        return found

    def answers(self, name: str) -> dict[str, Array]:
        """What a variant that was judged answered on the evaluation's rows."""
        return self._answers[name]

    def _measure(self, candidates: list[Candidate], signature: Signature) -> dict[str, dict[str, Any]]:
        """By variant: its speed, what was not measured, and peak_bytes."""
        budget = self._spec.measure
        self._progress(f"measure, {budget.seconds:g} s a variant at most")
        job = {
            "engine": self._spec.engine,
            "files": {candidate.name: str(candidate.file) for candidate in candidates},
            "signature": signature.model_dump(mode="json"),
            "rows": self._save("measure", self._imported.rows.take(slice(1024)).inputs),
            "seconds": budget.seconds,
            "memory_bytes": budget.memory_bytes or psutil.virtual_memory().available // 2,
        }
        told = run_worker("evaluation.measure", job, what="measuring", log=self._log, show=self._progress)
        return {
            name: {
                "speed": {batch: Speed.model_validate(one) for batch, one in told["speed"][name].items()},
                "unmeasured": told["unmeasured"][name],
                "peak_bytes": told["peak_bytes"][name],
            }
            for name in told["speed"]
        }

    def _file(self, name: str) -> Path:
        return self._work / f"{name}.onnx"

    def _save(self, name: str, arrays: dict[str, Array]) -> str:
        file = self._work / f"{name}.npz"
        if not file.exists():
            save_arrays(file, arrays)
        return str(file)


def _labels(rows: LabelledRows | None) -> dict[str, Array]:
    return {} if rows is None or rows.labels is None else {"labels": rows.labels}


def _pruned(prune: Prune | None) -> str:
    return f"pruned-{prune.share * 100:.0f}" if prune else ""
