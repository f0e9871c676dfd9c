import io
import zipfile

import numpy as np
import onnx
import pytest

from training.evaluation.runtimes import from_network, from_onnx, from_torchscript
from training.export.formats import to_onnx, to_torchscript
from training.network import DQNetwork

NETWORK = DQNetwork((5, 7))


@pytest.fixture(scope="module")
def onnx_file() -> bytes:
    return to_onnx(NETWORK)


@pytest.fixture(scope="module")
def torchscript_file() -> bytes:
    return to_torchscript(NETWORK)


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 1000])
def test_every_format_takes_a_batch_of_any_size(
    onnx_file: bytes, torchscript_file: bytes, batch: int
) -> None:
    states = np.random.default_rng(batch).normal(size=(batch, 4)).astype(np.float32)
    expected = from_network(NETWORK)(states)
    for run in (from_onnx(onnx_file), from_torchscript(torchscript_file)):
        np.testing.assert_allclose(run(states), expected, rtol=1e-5, atol=1e-5)


def test_onnx_names_what_goes_in_and_out_and_leaves_the_batch_open(onnx_file: bytes) -> None:
    model = onnx.load_from_string(onnx_file)
    (state,), (q_values,) = model.graph.input, model.graph.output
    assert (state.name, q_values.name) == ("state", "q_values")
    assert (
        state.type.tensor_type.shape.dim[0].dim_param
        == q_values.type.tensor_type.shape.dim[0].dim_param
        == "batch"
    )
    assert state.type.tensor_type.shape.dim[1].dim_value == 4


def test_no_file_holds_a_path_or_a_stack_trace(onnx_file: bytes, torchscript_file: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(torchscript_file)) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".debug_pkl")]
        contents = [archive.read(name) for name in archive.namelist()]
    for content in (onnx_file, *contents):
        for trace in (b"site-packages", b".py:", b".py(", b"stack_trace", __file__.encode()):
            assert trace not in content


def test_onnx_bytes_depend_on_the_network_alone(onnx_file: bytes) -> None:
    assert to_onnx(NETWORK) == onnx_file


def test_export_leaves_the_network_as_it_was() -> None:
    network = DQNetwork()
    to_torchscript(network)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.training
