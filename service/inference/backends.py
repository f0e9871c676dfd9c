"""What runs an artifact: onnxruntime or torch."""

import io
import warnings
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
BackendName = Literal["onnx", "torchscript"]

STATE_SIZE = 4
# Rows that a backend is always given: its rounding may depend on their number, and must not decide
# an action.
BLOCK_SIZE = 16
# Larger ones, where these round as the small one, each with the number of rows from which on it is
# quicker than the next smaller one.
LARGE_BLOCKS = {1_024: 769, 256: 64}
MOST_BOUND = 4  # arrays that a backend remembers; a policy has three


class Backend(Protocol):
    """What runs an artifact."""

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (n, actions), of `states`, (n, 4).

        The next call may overwrite them.
        """
        ...


_Binding = tuple[Any, Float32Array, Float32Array]  # with the arrays of states and of Q-values


class OnnxBackend:
    """The ONNX file, run by onnxruntime on one thread.

    It reads and writes in place while it is given the same array again and again.
    """

    def __init__(self, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        # onnxruntime sizes its pool by the host's cores, not the container's quota, and its idle
        # threads spin.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # For so small a network the planning and pooling of memory costs more than it saves: 2 µs
        # of a request.
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False
        options.log_severity_level = 4  # what it has to say comes with its exception, in one line
        # A model may name files that hold its weights; a bundle's never does, and no other file's
        # hash was checked.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", "/nonexistent"
        )
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._bound: dict[int, _Binding] = {}  # by the identity of the array of states
        self._bind(np.zeros((BLOCK_SIZE, STATE_SIZE), np.float32))

    def _bind(self, states: Float32Array) -> None:
        result: Float32Array = self._session.run(["q_values"], {"state": states})[0]
        binding = self._session.io_binding()
        binding.bind_input("state", "cpu", 0, np.float32, states.shape, states.ctypes.data)
        binding.bind_output("q_values", "cpu", 0, np.float32, result.shape, result.ctypes.data)
        # The two arrays are kept as long as the binding, which knows only their addresses.
        self._bound[id(states)] = binding, states, result
        self._binding, self._states, self._q_values = binding, states, result

    def _change_to(self, states: Float32Array) -> None:
        """Read from another array than the last time."""
        bound = self._bound.get(id(states))
        if bound is not None and bound[1] is states:
            self._binding, self._states, self._q_values = bound
            return
        if len(self._bound) >= MOST_BOUND:
            self._bound.clear()
        self._bind(np.ascontiguousarray(states, np.float32))

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (n, actions), of `states`, (n, 4).

        The next call may overwrite them.
        """
        if states is not self._states:
            self._change_to(states)
        self._session.run_with_iobinding(self._binding)
        return self._q_values


class TorchScriptBackend:
    """The TorchScript archive, run by torch on one thread.

    Importing torch takes seconds, so only this backend does.
    """

    def __init__(self, content: bytes) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        with warnings.catch_warnings():
            # The format is kept for those who ask for it, though torch has deprecated it.
            warnings.filterwarnings(
                "ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning
            )
            # Loading an archive runs its code, so only what `checked_archive` returns comes here.
            self._module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call] # torch declares none
        self._module.eval()

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (n, actions), of `states`, (n, 4)."""
        with self._torch.inference_mode():
            result: Float32Array = self._module(self._torch.from_numpy(states)).numpy()
        return result
