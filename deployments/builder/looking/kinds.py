"""Which of the sources a file is, told by its first bytes and its members' names: nothing in it is loaded."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import BadInput, NotFound

HEAD_BYTES = 64 * 1024
KNOWN = (
    "ONNX, a PyTorch state_dict or exported program, Keras, a SavedModel folder, scikit-learn (skops or a pickle), XGBoost,"
    " LightGBM, CatBoost, a folder with an MLmodel file, or with a config.json that transformers wrote"
)
# Which library a pickle needs, by how its classes' modules begin. Text of the file: none of it is run.
PICKLED = ((b"lightgbm.", "lightgbm"), (b"sklearn.", "sklearn"))
HDF5, GZIP, ZLIB = b"\x89HDF\r\n\x1a\n", b"\x1f\x8b", b"\x78"


@dataclass(frozen=True, slots=True)
class FileKind:
    """The source's name in a document, and whether its file is a pickle, which stays unread."""

    source: str
    pickle: bool = False


def kind_of(file: Path) -> FileKind:
    """Raises NotFound, or BadInput for what is no source."""
    if not file.exists():
        raise NotFound("no such file", where=str(file), remedy="check the path")
    if file.is_dir():
        return _folder(file)
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    if not head:
        raise BadInput("is empty", where=str(file), remedy="write it again")
    if zipfile.is_zipfile(file):
        return _archive(file)
    if head.startswith(HDF5):
        return FileKind("keras")
    if head.startswith(b"CBM1"):
        return FileKind("catboost")
    if head.startswith(b"tree\n"):
        return FileKind("lightgbm")
    if head.lstrip()[:1] == b"{":
        return _braces(head, file)
    if re.match(rb"\x80[\x02-\x05]", head):
        return _pickle(head, file)
    if file.suffix == ".onnx" or (head[:1] == b"\x08" and file.suffix not in (".pb", ".pbtxt")):
        return FileKind("onnx")
    if head.startswith((GZIP, ZLIB)) and file.suffix in (".joblib", ".pkl", ".pickle", ".gz", ".z"):
        return FileKind("sklearn", pickle=True)
    raise _unknown(file)


def _folder(folder: Path) -> FileKind:
    if (folder / "MLmodel").is_file():
        return FileKind("mlflow")
    if (folder / "saved_model.pb").is_file():
        return FileKind("saved_model")
    if (folder / "config.json").is_file():
        return FileKind("huggingface")
    raise BadInput(
        "is a folder without saved_model.pb, MLmodel or config.json",
        where=str(folder),
        remedy="name a model file in it, or another folder",
    )


def _archive(file: Path) -> FileKind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput("is truncated", where=str(file), remedy="write it again") from error
    if _has(names, "config.json", "model.weights.h5"):
        return FileKind("keras")
    if _has(names, "schema.json"):
        return FileKind("sklearn")
    if any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise BadInput(
            "is TorchScript, which torch's exporter to ONNX does not take",
            where=str(file),
            remedy="where it was made, save it with torch.export.save(torch.export.export(...)), or export it to ONNX",
        )
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return FileKind("pt2")
    if any(name.endswith("data.pkl") for name in names):
        return FileKind("pytorch")
    raise _unknown(file)


def _has(names: Sequence[str], *wanted: str) -> bool:
    return all(name in names for name in wanted)


def _braces(head: bytes, file: Path) -> FileKind:
    if b'"oblivious_trees"' in head or b'"features_info"' in head or b'"model_info"' in head:
        return FileKind("catboost")
    if b"learner" in head:
        return FileKind("xgboost")
    raise _unknown(file)


def _pickle(head: bytes, file: Path) -> FileKind:
    found = next((source for module, source in PICKLED if module in head), None)
    if found:
        return FileKind(found, pickle=True)
    if b"torch" in head or b"collections" in head:
        return FileKind("pytorch")
    raise BadInput(
        "is a pickle of something else than scikit-learn, LightGBM or PyTorch; it was not read",
        where=str(file),
        remedy="save the model in its library's own format",
    )


def _unknown(file: Path) -> BadInput:
    return BadInput(f"is none of: {KNOWN}", where=str(file), remedy="save the model in one of these formats")
