"""Reads a torch.export program (.pt2) without running code that it holds.

`torch.export.load` unpickles some members without asking. So each member that is not text or plain numbers must first pass
torch's weights-only reader; a file that would run code is refused before torch.export sees it. The program itself is JSON, of
which torch evaluates sizes and guards as Python, and pastes names into code that it runs: sizes must be arithmetic of symbols,
guards comparisons of them, and names hold no letter that ends one.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from cluster.errors import BadArtifact
from deployments.engines.model_bytes import ModelBytes, told

# What torch writes of a size: SymPy's classes and its own functions, by their names.
_FUNCTION = re.compile(
    "Add|Mul|Pow|Integer|Float|Rational|Symbol|Dummy|Max|Min|Abs|Piecewise|ExprCondPair|And|Or|Not|Xor|ITE|Eq|Ne|Lt|Le|Gt|Ge"
    "|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|floor|ceiling|sqrt|log|exp|sign|Heaviside"
    "|FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|IntTrueDiv|FloatTrueDiv|LShift|RShift"
    "|IsNonOverlappingAndDenseIndicator|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|FloatPow|PowByNatural|Identity"
    r"|IntInfinity|NegativeIntInfinity|OpaqueUnaryFn_\w+|BitwiseFn_\w+"
)
_NAMING = frozenset({"Symbol", "Dummy", "Integer", "Float", "Rational"})  # of which text is a name or number, and not evaluated
_NAME_OR_NUMBER = re.compile(r"[A-Za-z_]\w*|[-+]?[0-9.]+(e[-+]?[0-9]+)?")
_PLAIN = re.compile(r"[\w ,.()'=+\-*/%<>&|~]*", re.ASCII)
_PLAIN_GUARD = re.compile(r"[\w ,.()'=+\-*/%<>&|~!\[\]]*", re.ASCII)
_OF_INPUTS = frozenset({"size", "stride", "storage_offset", "shape", "isnan", "inf"})
# Names, operators' targets, constants among the inputs: none with a quote, a bracket or an equals sign.
_NAME = re.compile(r"[\w.:#@/+\-,> ]*")
_LAYOUTS = frozenset({"in_spec", "out_spec", "context", "dataclass_context"})  # JSON as text
_TOLD = frozenset({"expr_str", "guards_code", "metadata", *_LAYOUTS})  # looked at apart; metadata is told, and never run
_ARITHMETIC = (
    ast.Expression,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.keyword,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)
REMEDY = "save it again with torch.export.save"
# Where torch keeps compiled code, which it loads, by way of a file in clear where the program is bytes.
COMPILED = "aotinductor"
# Members that torch reads as text.
TEXTS = {"version", "archive_format", "archive_version", "byteorder", "serialization_id"}


def load_program(model: Path | ModelBytes) -> torch.export.ExportedProgram:
    """Checks and reads the program, a file or its bytes. Raises BadArtifact."""
    file = told(model)
    if isinstance(model, ModelBytes):
        content = model.read()
        # Neither copies the bytes: what is read are those that were checked.
        checked, program = io.BytesIO(content), io.BytesIO(content)
        del content
        check(checked, file)
        return _loaded(program, file)
    check(model, file)
    return _loaded(model, file)


def _loaded(program: Path | io.BytesIO, file: str) -> torch.export.ExportedProgram:
    try:
        return torch.export.load(program)
    except (RuntimeError, ValueError, KeyError, OSError, AssertionError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise BadArtifact(f"is no torch.export program: {first}", where=file, remedy=REMEDY) from error


def check(program: Path | io.BytesIO, file: str) -> None:
    """Raises BadArtifact, which names `file`, where it is no whole archive, or a member of it would run code when loaded."""
    try:
        with zipfile.ZipFile(program) as archive:
            # A member may be an archive too: where the file's end is cut off, zipfile finds that one's end instead.
            if min((member.header_offset for member in archive.infolist()), default=0) != 0:
                raise BadArtifact("is truncated", where=file, remedy=REMEDY)
            _refuse_names(archive.namelist(), file)
            damaged = archive.testzip()
            if damaged:
                raise BadArtifact(f"is damaged: {damaged}", where=file, remedy=REMEDY)
            listing = [(name, archive.read(name)) for name in archive.namelist() if name.endswith(".json")]
            for name, content in listing:
                _refuse_code(name, content, file)
            # Weights, nearly all of it, are plain numbers: what need not be looked at is not in memory a second time.
            told = {*_raw_tensors(listing, file), *TEXTS}
            for name in archive.namelist():
                if not name.endswith(".json") and name.rpartition("/")[2] not in told:
                    _refuse_pickled(name, archive.read(name), file)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise BadArtifact("is truncated, or no torch.export program", where=file, remedy=REMEDY) from error


def _refuse_pickled(name: str, content: bytes, file: str) -> None:
    """Raises BadArtifact for a member that holds more than tensors."""
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BadArtifact(f"{name} holds more than tensors; it was not run", where=file, remedy=REMEDY) from error


def _refuse_names(names: list[str], file: str) -> None:
    """Raises BadArtifact for compiled code, and where torch might read another member than the one that is checked."""
    code = next((name for name in names if COMPILED in name.casefold().split("/")), None)
    if code is not None:
        raise BadArtifact(f"{code} is compiled code; it was not run", where=file, remedy=REMEDY)
    if len({name.casefold() for name in names}) != len(names):  # torch finds members whatever their case
        raise BadArtifact("has two members of one name", where=file, remedy=REMEDY)


def _refuse_code(name: str, content: bytes, file: str) -> None:
    """Raises BadArtifact where a size would be computed by anything but arithmetic."""
    try:
        left: list[Any] = [json.loads(content)]
        while left:
            item = left.pop()
            if isinstance(item, dict):
                if "expr_str" in item and not _is_arithmetic(item["expr_str"]):
                    raise BadArtifact(f"{name} computes a size by code; it was not run", where=file, remedy=REMEDY)
                if not all(_is_arithmetic(guard, guards=True) for guard in item.get("guards_code") or ()):
                    raise BadArtifact(f"{name} guards its inputs by code; it was not run", where=file, remedy=REMEDY)
                left += item
                for key in _LAYOUTS & item.keys():
                    left.append(json.loads(item[key]) if isinstance(item[key], str) and item[key] else item[key])
                left += [value for key, value in item.items() if key not in _TOLD and not (key == "arg" and _is_text(value))]
            elif isinstance(item, list):
                left += item
            elif isinstance(item, str) and _NAME.fullmatch(item) is None:
                raise BadArtifact(f"{name} has a name that is none; it was not run", where=file, remedy=REMEDY)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadArtifact(f"{name} makes no sense; it was not run", where=file, remedy=REMEDY) from error


def _is_text(value: Any) -> bool:
    """Whether it is a text that an operator takes, which torch quotes: an assertion's words, for one."""
    return isinstance(value, dict) and value.keys() == {"as_string"} and isinstance(value["as_string"], str)


def _is_arithmetic(text: Any, *, guards: bool = False) -> bool:
    """Whether it is a SymPy expression of symbols, numbers, operators and known functions, as torch writes them; of text in it
    there are names and numbers alone. A guard may ask for inputs' sizes too. Raises SyntaxError where it is no expression."""
    if not isinstance(text, str) or not (_PLAIN_GUARD if guards else _PLAIN).fullmatch(text):
        return False
    tree = ast.parse(text.strip(), mode="eval")
    named = {id(node) for call in ast.walk(tree) if isinstance(call, ast.Call) and _called(call) in _NAMING for node in call.args}
    if guards:
        named |= {id(node.slice) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
    for node in ast.walk(tree):
        if guards and (isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and node.attr in _OF_INPUTS)):
            continue
        if guards and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            continue  # of which the attribute is looked at
        if isinstance(node, ast.Call):
            if _FUNCTION.fullmatch(_called(node)) is None:
                return False
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in named or _NAME_OR_NUMBER.fullmatch(node.value) is None:
                return False
        elif not isinstance(node, _ARITHMETIC):
            return False
    return True


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _raw_tensors(members: list[tuple[str, bytes]], file: str) -> set[str]:
    """The members that torch reads as plain numbers, by the archive's own lists, which torch follows too."""
    raw: set[str] = set()
    pickled: set[str] = set()
    try:
        for name, content in members:
            if name.endswith("_config.json"):
                for item in json.loads(content)["config"].values():
                    (pickled if item["use_pickle"] else raw).add(str(item["path_name"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact("its list of weights makes no sense", where=file, remedy=REMEDY) from error
    strange = [name for name in raw | pickled if not name.startswith(("weight_", "tensor_")) or "/" in name]
    if strange:
        raise BadArtifact(f"{strange[0]} is an object, not a tensor; it was not run", where=file, remedy=REMEDY)
    return raw - pickled
