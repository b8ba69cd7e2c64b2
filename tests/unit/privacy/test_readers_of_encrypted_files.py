"""Every reader of Parquet opens what is encrypted where its key is at hand, and says which key is not where it is away."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from cluster.commands.labels import Label
from cluster.errors import Unreachable
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.watch.payloads import PayloadFiles
from consumers.batch.run import begin
from consumers.batch.runs_seen import LedgerRuns, quarantine_of
from consumers.batch.spec import BatchSpec
from consumers.batch.write.publish import RunManifest
from consumers.payload_replay.recorded import payload_files, recorded
from deployments.builder.sources.rows import read_rows
from deployments.keys.hpke_key import HpkeKey
from deployments.keys.ring import VARIABLE
from deployments.observe.payloads.parquet_files import ParquetPayloads
from deployments.privacy import parquet
from deployments.privacy.parquet import LockedFile, decryption, encryption_of, open_parquet
from headrace.label_columns import of_parquet
from tests.support.batch_parts import ECHO, echo, echo_pin, echo_spec_of
from tests.support.key_services import TOKEN, small_vault
from tests.support.payloads import payload_event
from tests.unit.keys.test_keys import pair_in

pytestmark = pytest.mark.usefixtures("keys")

ROOT = Path(__file__).parents[3]
READS = {"ParquetFile", "read_table", "read_schema", "read_metadata", "read_parquet", "ParquetDataset", "dataset"}
READS |= {"ParquetFileFormat"}
WRITES = {"ParquetWriter", "write_table"}
# The one place; what leaves out row groups by their statistics; and a schema of our own, in memory.
OPENERS = {"deployments/privacy/parquet.py", "consumers/batch/read/dataset.py", "consumers/batch/write/output.py"}


@pytest.fixture
def without_key(keys: Path) -> Callable[[], str]:
    """Takes the private half away; returns the key's id."""

    def away() -> str:
        (keys / "prod.key").rename(keys.parent / "prod.key")
        parquet._factory.cache_clear()
        return HpkeKey.of_pem((keys / "prod.pub").read_text(), "").key_id

    return away


def encrypted(file: Path, **columns: Any) -> Path:
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), file, encryption_properties=encryption_of("prod"))
    return file


def calls_in(file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Calls of functions of Parquet's libraries, under the names that the house imports them by."""
    text = file.read_text(encoding="utf-8")
    known = any(f"import {library}" in text for library in ("pyarrow.parquet as pq", "pyarrow.dataset as ds", "pandas as pd"))
    for node in ast.walk(ast.parse(text)) if known else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            yield from [(node.func.attr, node)] if node.func.value.id in ("pq", "ds", "pd") else ()


def test_all_is_opened_in_one_place_and_all_that_is_written_says_for_whom() -> None:
    openers, silent = set(), []
    for top in ("cluster", "deployments", "consumers", "headrace"):
        for file in (ROOT / top).rglob("*.py"):
            path = file.relative_to(ROOT).as_posix()
            for name, call in calls_in(file):
                openers |= {path} if name in READS else set()
                if name in WRITES and "encryption_properties" not in [word.arg for word in call.keywords]:
                    silent.append(path)
    assert openers == OPENERS
    assert silent == []


def batch_with_bad_rows(tmp_path: Path, key: str = "prod") -> tuple[BatchSpec, RunManifest]:
    (tmp_path / "in").mkdir()
    rows = pa.table({"x": pa.array([1.0, None, None], pa.float32()), "who": ["Ada", "Bob", "Cy"]})
    pq.write_table(rows, tmp_path / "in/a.parquet")
    spec = echo_spec_of(tmp_path / "in", tmp_path / "out", output={"encrypt": key})
    return spec, begin("echo", spec, echo_pin(), ECHO, as_of=None, fresh=False, watch=lambda _: None)


def test_the_console_shows_quarantined_rows_or_says_which_key_is_not_there(
    tmp_path: Path, keys: Path, without_key: Callable[[], str]
) -> None:
    spec, manifest = batch_with_bad_rows(tmp_path)
    document, ledgers = spec.model_dump(mode="json"), LedgerRuns()
    found = ledgers.quarantine(document, manifest.run_id, frozenset({"x"}))
    assert (found.rows, found.locked, found.redacted) == (2, "", ("x",))
    assert [row["who"] for row in found.reasons[0].samples] == ["Bob", "Cy"]
    key = without_key()
    locked = ledgers.quarantine(document, manifest.run_id, frozenset())
    assert (locked.rows, locked.reasons, locked.kept) == (0, (), True)
    assert f"no key of this machine opens it (here: none in file:{keys})" in locked.locked
    assert f"it was encrypted for prod ({key})" in locked.remedy
    assert VARIABLE in locked.remedy
    with pytest.raises(LockedFile) as caught:
        quarantine_of(spec, manifest.run_id)
    assert "out.quarantine/part-" in caught.value.where
    # A key of the same name is not that one; one that others may read is refused in words; put right, it opens at once.
    pair_in(keys, "prod")
    assert "no key of this machine opens it" in ledgers.quarantine(document, manifest.run_id, frozenset()).locked
    back = (keys.parent / "prod.key").rename(keys / "prod.key")
    back.chmod(0o644)
    told = ledgers.quarantine(document, manifest.run_id, frozenset())
    assert "others than this user may read a private key" in told.locked
    assert f"chmod 600 {back}" in told.remedy
    back.chmod(0o600)
    assert ledgers.quarantine(document, manifest.run_id, frozenset()).rows == 2


def test_a_service_that_is_away_is_no_missing_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_vault().serving() as vault:
        monkeypatch.setenv("VAULT_ADDR", vault.url)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        monkeypatch.setenv(VARIABLE, "vault:transit/prod")
        spec, manifest = batch_with_bad_rows(tmp_path, "vault:transit/prod")
        assert quarantine_of(spec, manifest.run_id).rows == 2
        parquet._factory.cache_clear()
        vault.away = True
        with pytest.raises(Unreachable, match="Vault does not answer") as caught:
            LedgerRuns().quarantine(spec.model_dump(mode="json"), manifest.run_id, frozenset())
        assert "out.quarantine/part-" in caught.value.where
        assert vault.url in caught.value.what
        with pytest.raises(Unreachable, match="Vault does not answer"):
            begin("echo", spec, echo_pin(), ECHO, as_of=None, fresh=False, watch=lambda _: None)


def test_a_batch_reads_it_prunes_it_and_knows_it_again(tmp_path: Path, without_key: Callable[[], str]) -> None:
    encrypted(tmp_path / "in/a.parquet", x=pa.array([1.0, 2.0], pa.float32()), at=[1, 2])
    given = {"filter": [["at", ">", 1]], "only_new": True, "on_damage": "quarantine"}
    manifest = echo(tmp_path / "in", tmp_path / "out", input=given)
    assert (manifest.written, manifest.damaged) == (1, ())
    encrypted(tmp_path / "in/b.parquet", x=pa.array([3.0], pa.float32()), at=[3])
    assert [Path(path).name for path, _ in echo(tmp_path / "in", tmp_path / "out", input=given).inputs] == ["b.parquet"]
    # What can't be opened is not damaged: nothing is left out for it.
    encrypted(tmp_path / "in/c.parquet", x=pa.array([3.0], pa.float32()), at=[3])
    without_key()
    with pytest.raises(LockedFile, match="no key of this machine opens it") as caught:
        echo(tmp_path / "in", tmp_path / "out", input=given)
    assert Path(caught.value.where).parent == tmp_path / "in"


def test_labels_rows_to_build_with_and_payloads(tmp_path: Path, without_key: Callable[[], str]) -> None:
    encrypted(tmp_path / "labels/a.parquet", key=["k/1", "k/2"], label=[1, 0])
    rows = encrypted(tmp_path / "rows/a.parquet", x=pa.array([[1.0, 2.0]], pa.list_(pa.float32())), y=[1])
    log = ParquetPayloads(PayloadFiles(path=str(tmp_path / "log"), encrypt="prod"))
    assert log.write([payload_event(1)]).kept == 1
    shapes: dict[str, tuple[int, ...]] = {"x": (-1, 3), "sum": (-1,)}
    three, total = (TensorSpec(name=name, datatype=Datatype.FP32, shape=shape) for name, shape in shapes.items())
    two = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2))

    def labels() -> list[Any]:
        return list(of_parquet(str(tmp_path / "labels"), "key", "label"))

    def requests() -> list[Any]:
        (file,) = payload_files(str(tmp_path / "log"))
        return list(recorded(file, "digits", Signature(inputs=(three,), outputs=(total,))))

    def to_build() -> list[Any]:
        return read_rows(rows, [two], label="y").inputs["x"].tolist()

    assert labels() == [Label(key="k/1", label=1), Label(key="k/2", label=0)]
    assert (len(requests()), to_build()) == (1, [[1.0, 2.0]])
    key = without_key()
    for read, folder in ((labels, "labels"), (requests, "log"), (to_build, "rows")):
        with pytest.raises(LockedFile, match="no key of this machine opens it") as caught:
            read()
        assert str(tmp_path / folder) in caught.value.where
        assert key in caught.value.remedy


class _Theirs(pe.KmsClient):  # type: ignore[misc]
    """Of somebody else."""

    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return f"{master_key_identifier}:{key_bytes.hex()}"


def test_others_read_it_with_our_keys_and_what_others_encrypted_is_told(tmp_path: Path) -> None:
    for at in range(2):
        encrypted(tmp_path / f"out/{at}.parquet", x=[at])
    assert sorted(pq.read_table(tmp_path / "out", decryption_properties=decryption())["x"].to_pylist()) == [0, 1]
    assert sorted(pd.read_parquet(tmp_path / "out", decryption_properties=decryption())["x"]) == [0, 1]
    options = {"decryption_properties": decryption()}
    assert pl.read_parquet(tmp_path / "out/0.parquet", use_pyarrow=True, pyarrow_options=options)["x"].to_list() == [0]
    how = pe.EncryptionConfiguration(footer_key="k", uniform_encryption=True)
    theirs = pe.CryptoFactory(_Theirs).file_encryption_properties(pe.KmsConnectionConfig(), how)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "theirs.parquet", encryption_properties=theirs)
    with pytest.raises(LockedFile, match="not wrapped by Headrace"):
        open_parquet(tmp_path / "theirs.parquet", "theirs")
