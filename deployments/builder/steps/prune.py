"""Worker: structured pruning, then fine-tuning by gradient descent on the user's rows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch.nn import functional as fn

from cluster.errors import HeadraceError
from deployments.builder.steps.pruning import prune
from deployments.builder.steps.torch_graph import TorchGraph
from deployments.builder.worker import serve
from deployments.engines.arrays import load_arrays

BATCH = 64
# Networks with fewer parameters train faster on one thread than on several that wait for each other.
SMALL = 1_000_000


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: source (ONNX), rows and labels (.npz, or None), task, finetune (or None), variants, each {share, target}.

    Answers by target: why it was not made, or what was removed and the losses by epoch.
    """
    plain = _folded(Path(job["source"]))
    made: dict[str, Any] = {}
    for variant in job["variants"]:
        model = copy.deepcopy(plain)
        try:
            removed = prune(model, variant["share"])
            losses = _finetune(model, job) if job["finetune"] else []
        except HeadraceError as error:
            made[variant["target"]] = {"skipped": error.what}
            continue
        onnx.save(model, variant["target"])
        made[variant["target"]] = {
            "skipped": "",
            "removed": {name: list(counts) for name, counts in removed.items()},
            "losses": losses,
        }
    return {"made": made}


def _folded(source: Path) -> onnx.ModelProto:
    """The graph with its constants folded and its batch norms and biases inside the layers, in plain ONNX operators."""
    target = source.with_suffix(".folded.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    model = onnx.load(target)
    target.unlink()
    return model


def _finetune(model: onnx.ModelProto, job: dict[str, Any]) -> list[float]:
    """Trains the graph's constants in place; returns the mean loss of each epoch."""
    settings = job["finetune"]
    torch.manual_seed(settings["seed"])
    module = TorchGraph(model)
    if sum(parameter.numel() for parameter in module.parameters()) < SMALL:
        torch.set_num_threads(1)
    rows = load_arrays(Path(job["rows"]))
    feed = [torch.from_numpy(rows[item.name]) for item in model.graph.input]
    labels = torch.from_numpy(load_arrays(Path(job["labels"]))["labels"])
    steps = settings["epochs"] * -(-len(labels) // BATCH)
    optimiser = torch.optim.SGD(module.parameters(), lr=settings["rate"], momentum=0.9, weight_decay=settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses: list[float] = []
    for epoch in range(settings["epochs"]):
        total = 0.0
        order = torch.randperm(len(labels))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            optimiser.zero_grad()
            loss = _loss(module.logits(*(tensor[batch] for tensor in feed)), labels[batch], job["task"])
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(batch)
        losses.append(total / len(labels))
        print(f"fine-tune epoch {epoch + 1}: loss {losses[-1]:.4f}", flush=True)  # noqa: T201  this is the build's log
    module.write_to(model)
    return losses


def _loss(out: torch.Tensor, labels: torch.Tensor, task: str) -> torch.Tensor:
    flat = out.reshape(len(out), -1)
    if task == "regression":
        return fn.mse_loss(flat, labels.to(flat.dtype).reshape(len(flat), -1))
    if flat.shape[1] == 1:
        return fn.binary_cross_entropy(flat[:, 0].clamp(1e-6, 1 - 1e-6), labels.to(flat.dtype))
    return fn.cross_entropy(flat, labels.long())


if __name__ == "__main__":
    serve(step)
