import errno
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from models import bundle, files
from models.bundle import Bundle, BundleWriteError
from service.inference.admission import examine
from service.inference.backends import BackendName
from tests.support.project import COMMITTED, CREATED
from training.__main__ import main
from training.evaluation.runtimes import PolicyFileError, from_network
from training.export import parity
from training.export.candidates import from_import
from training.export.exporter import GateError, export
from training.export.reference import layers_of
from training.importing.layers import WEIGHTS_LIMIT
from training.importing.policy_file import FILE_LIMIT, ImportedPolicy, read_policy
from training.types import Float32Array

STATES = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


class CleanRLNetwork(nn.Module):
    """As CleanRL's dqn.py has it."""

    def __init__(self, inputs: int = 4, outputs: int = 2) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, outputs)
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.network(states)
        return result


@pytest.fixture(scope="module")
def network() -> CleanRLNetwork:
    torch.manual_seed(3)
    return CleanRLNetwork()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def sb3_archive(
    policy: bytes,
    module: str = "stable_baselines3.dqn.policies",
    policy_kwargs: dict[str, str] | None = None,
) -> bytes:
    """An archive with the names and the data that `DQN.save` writes."""
    data = {
        "policy_class": {":type:": "<class 'abc.ABCMeta'>", "__module__": module},
        "policy_kwargs": {":type:": "<class 'dict'>", **(policy_kwargs or {})},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", policy)
        archive.writestr("policy.optimizer.pth", b"not read")
        archive.writestr("_stable_baselines3_version", "2.9.2")
    return buffer.getvalue()


def sb3_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    online = {f"q_net.q_net.{name[8:]}": each for name, each in network.state_dict().items()}
    target = {f"q_net_target.{name[6:]}": torch.zeros_like(each) for name, each in online.items()}
    return online | target


def onnx_file(
    network: nn.Module,
    *,
    as_matmul: bool = False,
    batch: str | int = "n",
    more: tuple[onnx.NodeProto, ...] = (),
    inputs: int = 4,
    elements: int = TensorProto.FLOAT,
    external: bool = False,
) -> bytes:
    """The graph that other exporters write: other names, Cast and Flatten, perhaps MatMul."""
    nodes = [
        helper.make_node("Cast", ["obs"], ["/cast"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["/cast"], ["/in.0"], axis=1),
    ]
    constants = []
    layers = [each for each in network.modules() if isinstance(each, nn.Linear)]
    for index, layer in enumerate(layers):
        weight = layer.weight.detach().numpy()
        weight = np.ascontiguousarray(weight.T) if as_matmul else weight
        constants.append(numpy_helper.from_array(weight, f"w{index}"))
        constants.append(numpy_helper.from_array(layer.bias.detach().numpy(), f"b{index}"))
        last = index == len(layers) - 1
        output = "out" if last and not more else f"sum.{index}"
        if as_matmul:
            nodes.append(helper.make_node("MatMul", [f"/in.{index}", f"w{index}"], [f"p{index}"]))
            nodes.append(helper.make_node("Add", [f"b{index}", f"p{index}"], [output]))
        else:
            names = [f"/in.{index}", f"w{index}", f"b{index}"]
            nodes.append(helper.make_node("Gemm", names, [output], transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [output], [f"/in.{index + 1}"]))
    if external:
        constants[0].data_location = TensorProto.EXTERNAL
        entry = constants[0].external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"

    graph = helper.make_graph(
        [*nodes, *more],
        "graph",
        [helper.make_tensor_value_info("obs", elements, [batch, inputs])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 2])],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, producer_name="elsewhere", opset_imports=[opset], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def read(folder: Path, content: bytes, name: str = "their file.bin") -> ImportedPolicy:
    path = folder / name
    path.write_bytes(content)
    return read_policy(path)


KINDS: dict[str, Callable[[CleanRLNetwork], bytes]] = {
    "ONNX with Gemm": onnx_file,
    "ONNX with MatMul and Add": lambda network: onnx_file(network, as_matmul=True),
    "ONNX of one state": lambda network: onnx_file(network, batch=1),
    "ONNX of 64 states": lambda network: onnx_file(network, batch=64),
    "state dict": lambda network: saved(network.state_dict()),
    "state dict of 64-bit numbers": lambda network: saved(
        {name: each.double() for name, each in network.state_dict().items()}
    ),
    "state dict in a checkpoint": lambda network: saved(
        {"epoch": 3, "model": network.state_dict(), "optimizer": {"state": {}, "lr": 0.1}}
    ),
    "SB3 archive": lambda network: sb3_archive(saved(sb3_tensors(network))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_gives_the_network_of_the_program_that_wrote_it(
    kind: str, network: CleanRLNetwork, tmp_path: Path
) -> None:
    content = KINDS[kind](network)
    policy = read(tmp_path, content)
    expected = network(torch.from_numpy(STATES)).detach().numpy()
    np.testing.assert_array_equal(from_network(policy.network)(STATES), expected)
    for q_values in policy.runtimes.values():  # the file itself, as it was given
        np.testing.assert_allclose(q_values(STATES), expected, rtol=1e-5, atol=1e-6)
    assert policy.network.hidden == (12, 8)
    assert policy.origin.file == "their file.bin"
    assert policy.origin.sha256 == hashlib.sha256(content).hexdigest()
    assert policy.origin.size == len(content)


def test_the_origin_tells_the_library_where_the_file_does(
    network: CleanRLNetwork, tmp_path: Path
) -> None:
    origins = [read(tmp_path, KINDS[kind](network)).origin for kind in KINDS]
    assert {each.library for each in origins} == {"elsewhere", None, "stable-baselines3 2.9.2"}


def test_a_network_without_hidden_layers_or_biases_is_one_too(tmp_path: Path) -> None:
    weight = torch.tensor([[1.0, 2, 3, 4], [-1, -2, -3, -4]])
    policy = read(tmp_path, saved({"weight": weight}))
    expected = STATES @ weight.numpy().T
    np.testing.assert_allclose(from_network(policy.network)(STATES), expected, rtol=1e-5)


def onnx_with(operator: str) -> Callable[[CleanRLNetwork], bytes]:
    node = helper.make_node(operator, ["sum.2"], ["out"])
    return lambda network: onnx_file(network, more=(node,))


def bomb(_: CleanRLNetwork) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(65 << 20))
    return buffer.getvalue()


def script(_: CleanRLNetwork) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("policy/data.pkl", b"")
        archive.writestr("policy/constants.pkl", b"")
    return buffer.getvalue()


def sb3(**changes: object) -> Callable[[CleanRLNetwork], bytes]:
    return lambda network: sb3_archive(saved(sb3_tensors(network)), **changes)  # type: ignore[arg-type] # chosen by the cases below


REFUSED: dict[str, tuple[Callable[[CleanRLNetwork], bytes], str]] = {
    "empty": (lambda _: b"", "is empty"),
    "text": (lambda _: b'{"weights": 1}', "is a text"),
    "noise": (lambda _: bytes(range(1, 200)), "is no policy file"),
    "LFS": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "too large": (lambda _: bytes(FILE_LIMIT + 1), "too large: more than 64 MiB"),
    "bomb": (bomb, "too large: at most"),
    "pickle": (lambda _: pickle.dumps({"weights": [1]}), "is a pickle, and is not unpickled"),
    "whole module": (saved, "test_policy_file.CleanRLNetwork"),
    "old torch format": (
        lambda network: old_format(network.state_dict()),
        "is a pickle, and is not unpickled",
    ),
    "TorchScript": (script, "is a TorchScript archive"),
    "other ZIP": (lambda _: zip_of("readme.txt"), "ZIP archive of another program"),
    "torn ZIP": (lambda network: saved(network.state_dict())[:2_000], "ZIP archive that cannot"),
    "two state dicts": (
        lambda network: saved({"actor": network.state_dict(), "critic": network.state_dict()}),
        "several state dicts (actor, critic)",
    ),
    "no state dict": (lambda _: saved([1, 2]), "holds a list without tensors"),
    "six inputs": (lambda _: saved(CleanRLNetwork(inputs=6).state_dict()), "takes 6 values, but a"),
    "three actions": (
        lambda _: saved(CleanRLNetwork(outputs=3).state_dict()),
        "'network.4.weight' gives 3 values, expected 2",
    ),
    "two heads": (
        lambda _: saved(
            {
                "body.weight": torch.ones(8, 4),
                "v.weight": torch.ones(1, 8),
                "a.weight": torch.ones(2, 8),
            }
        ),
        "'a.weight' takes 8 values, but 'v.weight' gives 1",
    ),
    "image network": (
        lambda _: saved(nn.Conv2d(3, 8, 3).state_dict()),
        "of an image network",
    ),
    "recurrent network": (lambda _: saved(nn.LSTM(4, 8).state_dict()), "of a recurrent network"),
    "normalisation": (
        lambda _: saved(nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2)).state_dict()),
        "'1.weight' of shape (2,); only fully connected",
    ),
    "not finite": (
        lambda _: saved({"weight": torch.full((2, 4), float("nan"))}),
        "no finite 32-bit numbers",
    ),
    "whole numbers": (lambda _: saved({"weight": torch.ones(2, 4, dtype=torch.int64)}), "int64"),
    "one weight, repeated": (
        lambda _: saved({"weight": torch.ones(1).expand(WEIGHTS_LIMIT, 4)}),
        "'weight' is too large",
    ),
    "many weights": (
        lambda _: saved({"a.weight": torch.ones(300_000, 4), "b.weight": torch.ones(2, 300_000)}),
        "too large",
    ),
    "PPO": (sb3(module="stable_baselines3.common.policies"), "only those of DQN have Q-values"),
    "Tanh": (
        sb3(policy_kwargs={"activation_fn": "<class 'torch.nn.modules.activation.Tanh'>"}),
        "activation.Tanh'>; the service runs ReLU",
    ),
    "SB3 with a pickle": (lambda _: sb3_archive(pickle.dumps([1])), "policy.pth in it"),
    "ONNX with Conv": (onnx_with("Conv"), "'Conv': an image network"),
    "ONNX with LSTM": (onnx_with("LSTM"), "'LSTM': a recurrent network"),
    "ONNX with Tanh": (onnx_with("Tanh"), "'Tanh': a policy is a chain of Gemm"),
    "ONNX with Loop": (onnx_with("Loop"), "'Loop'"),
    "ONNX with ReLU at its end": (onnx_with("Relu"), "ends with Relu"),
    "ONNX of images": (
        lambda network: onnx_file(network, inputs=84),
        "has the shape (n, 84); states have (n, 4)",
    ),
    "ONNX of 64-bit states": (
        lambda network: onnx_file(network, elements=TensorProto.DOUBLE),
        "'obs' is DOUBLE; states are FLOAT",
    ),
    "ONNX with weights elsewhere": (
        lambda network: onnx_file(network, external=True),
        "keeps 'w0' in another file",
    ),
}


def old_format(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "text")
    return buffer.getvalue()


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_policy_is_refused_and_named(
    case: str, network: CleanRLNetwork, tmp_path: Path
) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(PolicyFileError) as refused:
        read(tmp_path, make(network))
    text = str(refused.value)
    assert text.startswith(f"{tmp_path / 'their file.bin'}: ")
    assert reason in text
    assert len(text) < 600


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    trap = pickle.dumps(Trap())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", trap)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    for content in (trap, saved({"weight": Trap()}), buffer.getvalue(), sb3_archive(trap)):
        with pytest.raises(PolicyFileError, match=r"unpickled|cannot read"):
            read(tmp_path, content)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "cannot be read (No such file or directory)"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
        (os.mkfifo, "is no file"),
    ],
)
def test_a_path_without_a_file_is_refused(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "policy.zip"
    make(path)
    with pytest.raises(PolicyFileError, match=r"policy\.zip: ") as refused:
        read_policy(path)
    assert reason in str(refused.value)


def small_export(policy: ImportedPolicy, out: Path, *, force: bool) -> None:
    export(
        from_import(policy, "robust"),
        out,
        name="theirs",
        model_version="1",
        created=CREATED,
        force=force,
        episodes=5,
        scenario_episodes=1,
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The committed policy's file, as if another program had trained it."""
    out = tmp_path_factory.mktemp("imported") / "theirs"
    assert main(["import", str(COMMITTED / "policy.onnx"), "--out", str(out), "--json"]) == 0
    return bundle.read(out)


def test_an_imported_policy_passes_its_gate_and_is_served(
    imported: Bundle, backend: BackendName
) -> None:
    served = examine(imported, backend, min_score=500.0)
    committed = bundle.read(COMMITTED)
    assert imported.artifacts["onnx"] == committed.artifacts["onnx"]
    assert imported.manifest.evaluation == committed.manifest.evaluation
    assert imported.manifest.gate.passed
    assert list(served.decide(STATES[:1]).actions) in ([0], [1])


def test_manifest_and_card_of_an_import_tell_where_it_is_from(imported: Bundle) -> None:
    manifest, origin = imported.manifest, read_policy(COMMITTED / "policy.onnx").origin
    assert manifest.provenance.origin == origin
    assert manifest.provenance.stopped == "imported"
    assert "imported file" in manifest.parity.largest_error
    # The range of its states is that of its evaluation, the starts of `recovery` included.
    assert 2.9 < manifest.state[1].training_max < 4

    card = (imported.folder / "README.md").read_text()
    assert "imported from `policy.onnx`" in card
    assert origin.sha256 in card
    assert "range in training" not in card
    assert "scores.csv" not in manifest.extra_files


def test_a_file_that_answers_otherwise_than_the_network_read_of_it_fails_parity(
    network: CleanRLNetwork, tmp_path: Path
) -> None:
    policy = read(tmp_path, onnx_file(network))
    q_values = policy.runtimes["imported file"]

    def wrong(states: Float32Array) -> Float32Array:
        return q_values(states) + np.float32(0.01)

    parity.compare(layers_of(policy.network), policy.runtimes, STATES)
    with pytest.raises(PolicyFileError, match=r"imported file errs by 0\.01"):
        parity.compare(layers_of(policy.network), {"imported file": wrong}, STATES)


def test_an_import_must_pass_its_gate(network: CleanRLNetwork, tmp_path: Path) -> None:
    policy = read(tmp_path, saved(network.state_dict()))
    with pytest.raises(GateError, match="does not pass the gate robust"):
        small_export(policy, tmp_path / "out", force=False)
    assert not (tmp_path / "out").exists()


def test_a_forced_import_without_room_leaves_nothing(
    network: CleanRLNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    policy = read(tmp_path, saved(network.state_dict()), "theirs")
    monkeypatch.setattr(files, "write_durably", full)
    with pytest.raises(BundleWriteError, match="No space left on device"):
        small_export(policy, tmp_path / "out", force=True)
    assert [each.name for each in tmp_path.iterdir()] == ["theirs"]


def test_the_command_refuses_a_taken_place_and_a_bad_file_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "note.txt").write_text("mine")
    words = ["import", str(COMMITTED / "policy.onnx"), "--out"]
    assert main([*words, str(taken)]) == 1
    assert "no readable manifest.json" in " ".join(capsys.readouterr().err.split())

    assert main(["import", str(taken / "note.txt"), "--out", str(tmp_path / "new")]) == 1
    captured = capsys.readouterr()
    assert "is no policy file" in " ".join(captured.err.split())
    assert captured.out == ""
    assert sorted(each.name for each in tmp_path.iterdir()) == ["taken"]
