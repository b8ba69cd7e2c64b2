"""The `payloads` section of a Model document: checked when it is read, carried to the route table, told as a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.commands.differences import differences, model_fields
from cluster.errors import BadInput
from consumers.stream.payloads.topic_sink import open_topic
from deployments.gateway.deployment import named_opener
from headrace.local.services import PAYLOAD_TOPICS
from headrace.project.documents import load_project


def document(folder: Path, payloads: str) -> Path:
    file = folder / "m.yaml"
    file.write_text(f"kind: Model\nname: m\npayloads: {payloads}\n", encoding="utf-8")
    return file


def test_paths_are_meant_from_the_files_folder(tmp_path: Path) -> None:
    file = document(tmp_path, "{parquet: {path: kept}, kafka: {topic: t, security: {protocol: SSL, ca_file: ca.pem}}}")
    (model,) = load_project([file]).models
    payloads = model.document.payloads
    assert payloads is not None
    assert payloads.parquet is not None
    assert payloads.kafka is not None
    assert payloads.parquet.path == str(tmp_path / "kept")
    assert payloads.kafka.security["ca_file"] == str(tmp_path / "ca.pem")
    told = differences(model_fields(None, None, ""), model_fields(None, None, "", payloads))
    assert ("payloads.sample", None, 0.01) in [(each.field, each.before, each.after) for each in told]


@pytest.mark.parametrize(
    ("payloads", "named"),
    [
        ("{sample: 0.5}", "say where they go"),
        ("{sample: 2, parquet: {path: p}}", "sample"),
        ("{parquet: {path: p}, keep: all}", "keep"),
        ("{kafka: {topic: t, security: {protocol: SASL_SSL}}}", "needs mechanism"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(tmp_path: Path, payloads: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        load_project([document(tmp_path, payloads)])


def test_gateways_find_what_opens_topics_by_its_name() -> None:
    assert named_opener(PAYLOAD_TOPICS) is open_topic
    assert named_opener(None) is None
