"""The chart through helm, with the values that its tests go through. `make chart` brings helm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART, MANIFESTS = ROOT / "ops/helm/headrace", ROOT / "ops/kubernetes/headrace.yaml"
TOOLS = Path(os.environ.get("HEADRACE_CHART_TOOLS", ROOT / ".venv-chart")).absolute()
HELM = TOOLS / "bin" / "helm"
# Of Prometheus' operator: their schemas are not in Kubernetes'.
FOREIGN = ("monitoring.coreos.com/v1",)

EGRESS = 'networkPolicy.egress=[{"to":[{"ipBlock":{"cidr":"10.20.0.0/16"}}]}]'
# What users change, one at a time and together, on both examples.
VALUES = [
    (),
    ("gateway.minReplicas=1", "gateway.maxReplicas=1"),
    ("gateway.minReplicas=3", "gateway.maxReplicas=3", "gateway.minAvailable=1"),
    ("gateway.minAvailable=0",),
    ('gateway.service={"type":"NodePort"}',),
    ('gateway.allowHosts=["score.example.com"]',),
    ("autoscaler.enabled=false",),
    ("redis.enabled=false",),
    ("workers.gpu.enabled=true", "workers.gpu.gpus=2", "workers.gpu.gpuNodesComeLater=true"),
    (
        'workers.big={"enabled":true,"minReplicas":3,"maxReplicas":5,"resources":{"cpu":4,"memory":"64Gi"},"gpus":0,"drainSeconds":300}',
    ),
    ("metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true", 'metrics.serviceMonitor.labels={"team":"ml"}'),
    ("networkPolicy.enabled=true", 'networkPolicy.apiServer=["10.0.0.1/32"]', "networkPolicy.callers=[]", EGRESS),
    ('head.home={"size":"5Gi","storageClassName":"fast"}', 'head.nodeSelector={"zone":"a"}', 'ray.tokenSecret="mine"'),
    ('store={"url":"postgresql+psycopg://h:p@db/h","existingSecret":{"name":"","key":"url"}}',),
    ('env=[{"name":"A","value":"b"}]', 'envFrom=[{"secretRef":{"name":"s"}}]', 'serviceAccount.annotations={"role":"arn"}'),
]


def helm(*words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Helm with those words, to its end."""
    return subprocess.run([str(HELM), *words], capture_output=True, text=True, timeout=timeout_s, check=False)


def values_of(*sets: str, example: str = "full") -> list[str]:
    """The words by which helm takes an example's values, and `sets` (each KEY=JSON) over them."""
    return ["-f", str(CHART / "examples" / f"{example}.yaml"), *(word for one in sets for word in ("--set-json", one))]


def words_of(*sets: str, example: str = "full", version: str = "1.34.0") -> list[str]:
    """The chart and all that helm must know to render it without a cluster."""
    return [str(CHART), "--kube-version", version, "--namespace", "headrace", *values_of(*sets, example=example)]


def rendered(*sets: str, example: str = "full", version: str = "1.34.0") -> list[dict[str, Any]]:
    """What helm makes of it, document by document."""
    done = helm("template", "headrace", *words_of(*sets, example=example, version=version))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]
