"""What engines load from memory: the same answers as from files, and nothing of a sealed version beside it."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from cluster.errors import BadArtifact, Conflict, Forbidden, NoCapacity
from deployments.artifacts.manifest import Manifest
from deployments.artifacts.package import write_artifact
from deployments.artifacts.samples import read_samples
from deployments.engines.load import load_engine
from deployments.engines.model_bytes import file_in_memory, path_of
from deployments.engines.onnx_external import LocationMention, external_locations
from deployments.engines.program import check
from tests.support.models import INPUT, OUTPUT, SIGNATURE, mlp_artifact, rows
from tests.support.own_process import OwnProcess
from tests.support.sealed import OwnKeys, sealed_copy, told_anew
from tests.support.torch_models import mlp_program

WEIGHTS = "weights/first.bin"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnKeys:
    return OwnKeys(tmp_path / "keys", monkeypatch)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The process's folder, where onnxruntime looks for weights of a model that is bytes: others' of the same name lie there."""
    folder = tmp_path / "elsewhere"
    (folder / "weights").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(np.zeros((784, 128), np.float32).tobytes())
    monkeypatch.chdir(folder)
    return folder


def first_weights(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.name == "w1")


def with_weights_outside(root: Path, name: str = WEIGHTS) -> Path:
    """`mlp_artifact` with its first weights in a file beside it; the graph calls that one `name`."""
    plain = Path(mlp_artifact(root / "whole")[0])
    model = onnx.load(plain / "model.onnx")
    tensor = first_weights(model)
    (root / "parts" / "weights").mkdir(parents=True)
    (root / "parts" / WEIGHTS).write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, name)
    tensor.ClearField("raw_data")
    (root / "parts" / "model.onnx").write_bytes(model.SerializeToString())
    artifact = write_artifact(
        root / "outside",
        model="digits",
        engine="onnx",
        signature=SIGNATURE,
        files={one: root / "parts" / one for one in ("model.onnx", WEIGHTS)},
        samples=read_samples(plain),
        report={},
        source={},
    )
    return Path(artifact.uri)


@pytest.mark.parametrize("make", [mlp_artifact, pytest.param(mlp_program, marks=pytest.mark.proof)])
def test_a_sealed_version_answers_as_the_plain_one(
    tmp_path: Path, keys: OwnKeys, make: Callable[[Path], tuple[str, str, Manifest]]
) -> None:
    plain = Path(make(tmp_path / "plain")[0])
    sealed = Path(sealed_copy(plain, tmp_path / "sealed", keys.new()).uri)
    answers = [load_engine(folder).score({INPUT: rows(8)})[OUTPUT] for folder in (plain, sealed)]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("name", [WEIGHTS, f"./{WEIGHTS}"])
def test_weights_beside_the_graph_are_read_from_memory(tmp_path: Path, keys: OwnKeys, elsewhere: Path, name: str) -> None:
    plain = with_weights_outside(tmp_path, name)
    sealed = Path(sealed_copy(plain, tmp_path / "sealed", keys.new()).uri)
    whole = next((tmp_path / "whole" / "digits").iterdir())
    expected = load_engine(whole).score({INPUT: rows(8)})[OUTPUT]
    for folder in (plain, sealed):
        np.testing.assert_allclose(load_engine(folder).score({INPUT: rows(8)})[OUTPUT], expected, atol=1e-6)


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "plain"])
@pytest.mark.parametrize("way", ["another file", "a link", "up", "absolute", "in memory"])
def test_weights_that_no_file_of_the_version_has_are_refused(
    tmp_path: Path, keys: OwnKeys, elsewhere: Path, way: str, is_sealed: bool
) -> None:
    """Whoever may write beside the files changes nothing, and a graph reads nothing of the machine's."""
    plain = with_weights_outside(tmp_path)
    weights = (plain / WEIGHTS).read_bytes()
    other = {"up": "../other.bin", "absolute": str(elsewhere / "other.bin"), "in memory": "*/_ORT_MEM_ADDR_/*"}.get(
        way, "other.bin"
    )
    for folder in (plain, elsewhere):  # as a file that the graph names, and the manifest does not
        if way == "a link":
            (folder / "other.bin").symlink_to(elsewhere / WEIGHTS)
        else:
            (folder / "other.bin").write_bytes(weights)
    (plain.parent / "other.bin").write_bytes(weights)
    model = onnx.load(plain / "model.onnx", load_external_data=False)
    (location,) = first_weights(model).external_data
    location.value = other
    (plain / "model.onnx").write_bytes(model.SerializeToString())
    told_anew(plain)
    version = Path(sealed_copy(plain, tmp_path / "sealed", keys.new()).uri) if is_sealed else plain
    with pytest.raises(BadArtifact, match=r"which is no file of the version"):
        load_engine(version)


def test_a_file_of_weights_that_is_exchanged_for_another_is_refused(tmp_path: Path, elsewhere: Path) -> None:
    plain = with_weights_outside(tmp_path)
    (plain / WEIGHTS).unlink()
    (plain / WEIGHTS).symlink_to(elsewhere / WEIGHTS)
    with pytest.raises(BadArtifact, match=r"first\.bin is damaged: its digest differs"):
        load_engine(plain)


def test_a_graph_of_which_it_can_not_be_told_what_it_reads_is_refused(tmp_path: Path, elsewhere: Path) -> None:
    """A field that protobuf passes over and our reader does not know."""
    plain = with_weights_outside(tmp_path)
    group = b"\xa3\x06\xa4\x06"  # field 100, a group: begun and ended
    (plain / "model.onnx").write_bytes((plain / "model.onnx").read_bytes() + group)
    with pytest.raises(BadArtifact, match="the model is no protobuf of ONNX"):
        load_engine(told_anew(plain))


def external(name: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[784, 128])
    tensor.raw_data = b"\0"
    onnx.external_data_helper.set_external_data(tensor, WEIGHTS)
    tensor.ClearField("raw_data")
    return tensor


def in_a_function(model: onnx.ModelProto) -> None:
    body = [onnx.helper.make_node("Constant", [], ["w"], value=external("w"))]
    model.functions.append(onnx.helper.make_function("own", "F", [], ["w"], body, model.opset_import))
    model.opset_import.add(domain="own", version=1)
    model.graph.node.insert(0, onnx.helper.make_node("F", [], ["w1"], domain="own"))


def in_a_graph_inside(model: onnx.ModelProto) -> None:
    branches = [
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", [name], [f"{name}_out"])],
            name,
            [],
            [onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, [784, 128])],
            [external(name)],
        )
        for name in ("then", "other")
    ]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.insert(0, onnx.helper.make_node("If", ["always"], ["w1"], then_branch=branches[0], else_branch=branches[1]))


def as_a_constant(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w1"], value=external("w1")))


@pytest.mark.parametrize("put", [in_a_function, in_a_graph_inside, as_a_constant])
def test_weights_that_would_be_opened_whatever_is_in_memory_are_refused(
    tmp_path: Path, elsewhere: Path, put: Callable[[onnx.ModelProto], None]
) -> None:
    """The file is the version's own and verified; onnxruntime would take another of its name, from the process's folder."""
    plain = with_weights_outside(tmp_path)
    expected = load_engine(plain).score({INPUT: rows(8)})[OUTPUT]
    model = onnx.load(plain / "model.onnx", load_external_data=False)
    model.graph.initializer.remove(first_weights(model))
    put(model)
    (plain / "model.onnx").write_bytes(model.SerializeToString())
    told_anew(plain)
    if put is as_a_constant:  # these it takes from memory
        np.testing.assert_allclose(load_engine(plain).score({INPUT: rows(8)})[OUTPUT], expected, atol=1e-6)
        return
    with pytest.raises(BadArtifact, match=r"first\.bin', which would be opened unverified"):
        load_engine(plain)


def test_an_onnxruntime_that_reads_no_weights_from_memory_is_told(
    tmp_path: Path, keys: OwnKeys, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Older:
        """As 1.20: without the function."""

        def __init__(self) -> None:
            self.real = ort.SessionOptions()

    monkeypatch.setattr("deployments.engines.onnx._options", lambda _: Older())
    plain = with_weights_outside(tmp_path)
    sealed = Path(sealed_copy(plain, tmp_path / "sealed", keys.new()).uri)
    for folder in (plain, sealed):
        with pytest.raises(BadArtifact, match="can't read weights beside a model from memory"):
            load_engine(folder)


def test_what_a_model_itself_asks_for_writes_nothing(
    tmp_path: Path, keys: OwnKeys, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(mlp_artifact(tmp_path / "whole")[0])
    model = onnx.load(whole / "model.onnx")
    model.metadata_props.add(key="ort_config", value=json.dumps({"session_options": {"enable_profiling": 1}}))
    (whole / "model.onnx").write_bytes(model.SerializeToString())
    sealed = Path(sealed_copy(told_anew(whole), tmp_path / "sealed", keys.new()).uri)
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    with pytest.raises(Conflict, match="must not say itself how it is run"):
        load_engine(sealed)
    assert not list(elsewhere.glob("*.json"))
    load_engine(whole).score({INPUT: rows(1)})
    assert list(elsewhere.glob("*.json")), "it has asked for what would have been written"


@pytest.mark.parametrize("lacking", ["memfd_create", "its file", "leave"])
def test_where_no_file_lies_in_memory_the_bytes_are_read(
    tmp_path: Path, keys: OwnKeys, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    plain = Path(mlp_artifact(tmp_path / "plain")[0])
    sealed = Path(sealed_copy(plain, tmp_path / "sealed", keys.new()).uri)
    expected = load_engine(plain).score({INPUT: rows(2)})[OUTPUT]
    if lacking == "memfd_create":
        monkeypatch.delattr("os.memfd_create")
    elif lacking == "leave":
        monkeypatch.setattr("os.memfd_create", lambda *_: (_ for _ in ()).throw(PermissionError("not here")))
    else:
        monkeypatch.setattr("deployments.engines.model_bytes.path_of", lambda _: str(tmp_path / "none"))
    for folder in (plain, sealed):
        np.testing.assert_array_equal(load_engine(folder).score({INPUT: rows(2)})[OUTPUT], expected)


def test_a_file_in_memory_is_nobodys_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def pour(give: Callable[[memoryview], object]) -> None:
        give(memoryview(b"con"))
        give(memoryview(b"tent"))

    descriptor = file_in_memory(pour)
    assert descriptor is not None
    assert Path(path_of(descriptor)).read_bytes() == b"content"
    with pytest.raises(PermissionError):
        os.write(descriptor, b"another")
    os.close(descriptor)
    monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")))
    with pytest.raises(NoCapacity, match="no memory for the model"):
        file_in_memory(pour)


def test_a_mention_is_seen_wherever_blocks_part_it() -> None:
    text = b"..location.."
    for size in (1, 2, 3, 5, 7, 8, 11, 100):
        for content, expected in ((text, True), (text.replace(b"o", b"0"), False)):
            mention = LocationMention()
            for start in range(0, len(content), size):
                mention.look_at(memoryview(content)[start : start + size])
            assert mention.seen is expected


def test_locations_are_found_wherever_a_tensor_may_lie() -> None:
    def outside(location: str) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name=location, data_type=onnx.TensorProto.FLOAT, dims=[1], raw_data=b"\0\0\0\0")
        onnx.external_data_helper.set_external_data(tensor, location)
        return tensor

    inner = onnx.helper.make_graph([], "inner", [], [], [outside("in a subgraph")])
    nodes = [
        onnx.helper.make_node("Constant", [], ["a"], value=outside("in an attribute")),
        onnx.helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=inner),
        onnx.helper.make_node("Many", [], ["d"], tensors=[outside("in a list")], numbers=list(range(50)), share=0.5),
    ]
    sparse = onnx.SparseTensorProto(values=outside("sparse values"), indices=outside("sparse indices"), dims=[1])
    graph = onnx.helper.make_graph(nodes, "location", [], [], [outside("plain")], sparse_initializer=[sparse])
    function = onnx.helper.make_function("own", "f", [], ["a"], [nodes[0]], [onnx.helper.make_opsetid("", 20)])
    function.node[0].attribute[0].t.external_data[0].value = "in a function"
    model = onnx.helper.make_model(graph, functions=[function])
    model.metadata_props.add(key="location", value="no weights")
    assert external_locations(model.SerializeToString()) == {
        "in a subgraph",
        "in an attribute",
        "in a list",
        "sparse values",
        "sparse indices",
        "plain",
        "in a function",
    }
    hidden = b"\xba\x80\x80\x80\x70" + model.SerializeToString().split(b"\x3a", 1)[1]  # the graph's tag, with a bit above
    assert "plain" in external_locations(hidden)
    assert external_locations(b"") == set()
    for broken in (b"\x3a\x08location"[:-1] + b"location", b"\x0blocation", b"\xff" * 11 + b"location"):
        with pytest.raises(ValueError, match=r"cut off|no protobuf"):
            external_locations(broken)


def test_an_engines_own_process_opens_it_too(tmp_path: Path, keys: OwnKeys) -> None:
    plain = Path(mlp_artifact(tmp_path / "plain")[0])
    sealed = sealed_copy(plain, tmp_path / "sealed", keys.new())
    with closing(OwnProcess(Path(sealed.uri), threads=1)) as engine:
        np.testing.assert_array_equal(engine.score({INPUT: rows(8)})[OUTPUT], load_engine(plain).score({INPUT: rows(8)})[OUTPUT])
        (limit,) = [line for line in Path(f"/proc/{engine.process.pid}/limits").read_text().splitlines() if "core file" in line]
        assert limit.split()[4:6] == ["0", "0"]
    (keys.folder / "own.key").unlink()
    with pytest.raises(Forbidden, match="no key of this machine opens it"):
        OwnProcess(Path(sealed.uri), threads=1)


LISTED = json.dumps({"config": {"x": {"use_pickle": False, "path_name": "weight_x.so"}}})


@pytest.mark.parametrize(
    ("members", "says"),
    [
        # Called as the archive's own lists call plain numbers, which need not be read: torch would write the program to a file
        # in clear, and load this as a library.
        ({"model/data/aotinductor/m/a_config.json": LISTED, "model/data/aotinductor/m/weight_x.so": "ELF"}, "compiled code"),
        ({"model/data/aotinductor/m/wrapper_metadata.json": "{}"}, "compiled code"),
        ({"model/models/model.json": "{}", "model/Models/model.json": "{}"}, "two members of one name"),
    ],
)
def test_a_program_brings_no_compiled_code_and_no_member_twice(members: dict[str, str], says: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(BadArtifact, match=says):
        check(packed, "model.pt2")


@pytest.mark.parametrize(
    ("size", "runs"),
    [
        (
            "Add(FloorDiv(Mul(Integer(2), Symbol('s77', positive=True, integer=True)), Integer(3)), Float('1.5', precision=53))",
            "",
        ),
        ("Max(1, s0*2 + 3)//2", ""),
        ("__import__('os').system('true')", "by code"),
        ("exec(chr(112) + chr(97))", "by code"),
        ("Add('__import__(1)', 1)", "by code"),
        ("Symbol('a b')", "by code"),
        ("s0.__class__", "by code"),
        ("(lambda: 1)()", "by code"),
        ("Add(1,", "makes no sense"),
        ("(" * 100_000, "makes no sense"),
    ],
)
def test_a_programs_sizes_are_arithmetic_and_no_code(size: str, runs: str) -> None:
    """torch has SymPy evaluate them as Python, when the program is read."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("m/models/model.json", json.dumps({"sizes": [{"as_expr": {"expr_str": size}}]}))
    if runs:
        with pytest.raises(BadArtifact, match=runs):
            check(packed, "model.pt2")
    else:
        check(packed, "model.pt2")


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"guards_code": ["Eq(Mod(L['x'].size()[0], 2), 0)", "L['x'].stride()[0] >= 2"]}, ""),
        ({"guards_code": ["(4*L['a'][0].size()[0]) == (8*(L['a'][0].size()[0] // 2))", "L['x'].size()[3] != 1"]}, ""),
        ({"inputs": [{"name": "msg", "arg": {"as_string": "failed for u0 >= 0 on node 'ge_1'"}}]}, ""),
        ({"inputs": [{"as_string": "a' or print(1) or '"}]}, "a name that is none"),
        ({"guards_code": ["__import__('os').system('true') == 0"]}, "guards its inputs by code"),
        ({"guards_code": ["L['x'].__class__ == 1"]}, "guards its inputs by code"),
        ({"guards_code": ["L['x\"y'].size()[0] == 1"]}, "guards its inputs by code"),
        ({"name": "layers.0/dense@1", "in_spec": '[1, {"context": "[\\"a\\"]"}]', "metadata": {"stack_trace": "f('x')\n"}}, ""),
        ({"name": "x=print(1)"}, "a name that is none"),
        ({"as_string": "a' or print(1) or '"}, "a name that is none"),
        ({"in_spec": '[1, {"context": "[\\"a = print(1)\\"]"}]'}, "a name that is none"),
        ({"values": {"x=print(1)": {}}}, "a name that is none"),
    ],
)
def test_a_programs_guards_and_names_are_no_code(told: dict[str, object], says: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("m/models/model.json", json.dumps({"graph": [told]}))
    if says:
        with pytest.raises(BadArtifact, match=says):
            check(packed, "model.pt2")
    else:
        check(packed, "model.pt2")


def test_a_member_twice_is_refused_whichever_torch_would_read() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, warnings.catch_warnings(action="ignore"):
        for content in ("{}", "[]"):
            archive.writestr("model/models/model.json", content)
    with pytest.raises(BadArtifact, match="two members of one name"):
        check(packed, "model.pt2")
