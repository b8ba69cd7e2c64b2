"""`headrace quality`: what is sent of files, and how it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cluster.commands.labels import LabelsTold, TellLabels
from cluster.commands.models import ModelView
from cluster.commands.watch.quality import QualityView
from cluster.errors import BadInput, NotFound
from headrace.cli.screens.quality import alarm_told, shown_quality
from headrace.label_columns import of_parquet
from headrace.label_lines import LABELS_AT_ONCE, tell_all
from tests.support.brain import Brain
from tests.support.live_labels import tell_labels, with_labels


def write(path: Path, keys: list[Any], labels: list[Any], names: tuple[str, str] = ("key", "label")) -> None:
    pq.write_table(pa.table(dict(zip(names, (keys, labels), strict=True))), path)


def test_a_parquet_dataset_is_sent_some_thousand_rows_at_a_time(tmp_path: Path) -> None:
    rows = LABELS_AT_ONCE + 10
    write(tmp_path / "a.parquet", [f"0/1/7@1/in/0/{row}" for row in range(rows)], [7] * rows)
    write(tmp_path / "b.parquet", ["0/1/7@1/in/1/0", None, "0/1/7@1/in/1/2"], [7.0, 7.0, None])
    sent: list[TellLabels] = []

    def send(request: TellLabels) -> LabelsTold:
        sent.append(request)
        return LabelsTold(counted=len(request.labels), elsewhere=0, refused=0)

    told = tell_all("digits", of_parquet(str(tmp_path), "key", "label"), send)
    assert (told.counted, told.refused) == (rows + 1, 2)
    assert told.reasons == ("b.parquet row 2: no text and number", "b.parquet row 3: no text and number")
    assert [len(request.labels) for request in sent] == [LABELS_AT_ONCE, 11]
    assert sum(request.unreadable for request in sent) == 2
    assert sent[0].labels[0].label == 7


def test_what_is_no_dataset_of_labels_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no Parquet file"):
        list(of_parquet(str(tmp_path), "key", "label"))
    write(tmp_path / "a.parquet", ["k"], [1], ("label_key", "truth"))
    with pytest.raises(BadInput, match="no column key"):
        list(of_parquet(str(tmp_path), "key", "label"))
    (one,) = of_parquet(str(tmp_path / "a.parquet"), "label_key", "truth")
    assert not isinstance(one, str)
    assert (one.key, one.label) == ("k", 1)
    (tmp_path / "a.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(BadInput, match="no Parquet file"):
        list(of_parquet(str(tmp_path), "key", "label"))


def test_people_read_accuracy_and_what_is_proven() -> None:
    brain = Brain()
    brain.serve_first()
    brain.clock.now_s = 1_800_000_000.0
    version = with_labels(brain)
    tell_labels(brain, 1, right=930, wrong=70)
    tell_labels(brain, version, right=100, wrong=100, source="x", sequence=0)
    brain.call("rollout.label", model="digits", labels=[{"key": "?", "label": 1}])
    seen = QualityView.model_validate(brain.call("quality.show", model="digits"))
    console = Console(width=200, record=True)
    console.print(shown_quality(seen))
    text = console.export_text()
    assert "accuracy 93.0%" in text
    assert "accuracy 95.0% of 2,000" in text
    assert (
        "version 2 is proven worse than at build: accuracy 50.0% of 200 labels until 2027-01-15 08:00 UTC, accuracy 95.0% at"
        in text
    )
    assert "1 labels have no label key" in text
    assert seen.labels is not None
    assert [bool(alarm_told(one, seen.labels)) for one in seen.versions] == [False, True]
    model = ModelView.model_validate(brain.call("model.show", model="digits"))
    assert model.quality is not None
    assert model.quality.versions[1].alarm is not None
