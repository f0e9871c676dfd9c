"""The calls of `benchmarks.protocol.kserve_clients`; runs where kserve is installed."""

import asyncio
import logging
import sys
from collections.abc import Awaitable

import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

STATE = [[0.01, 0.02, 0.03, 0.04]]
NUMPY_TYPES = {"FP32": np.float32, "FP64": np.float64}


class Calls:
    """Makes the calls, one after the other, and counts those that did not go as they must."""

    def __init__(self, http: str, grpc: str, name: str) -> None:
        self._base = f"http://127.0.0.1:{http}"
        self._grpc = f"127.0.0.1:{grpc}"
        self._name = name
        self.failures = 0

    async def expect(self, label: str, call: Awaitable[object], expected: object) -> None:
        """Compare what a call returns."""
        result = await call
        actions = [
            output.as_numpy().tolist()
            for output in getattr(result, "outputs", [])
            if output.name == "action"
        ]
        found = actions[0] if actions else result
        self._report(label, found, is_right=found == expected)

    async def expect_refusal(self, label: str, call: Awaitable[object], text: str) -> None:
        """Check that a call is refused with a text."""
        try:
            result = await call
        except Exception as error:  # each client has errors of its own
            told = getattr(error, "details", lambda: "")() or str(error)
            self._report(label, told, is_right=text in told)
        else:
            self._report(label, result, is_right=False)

    def _report(self, label: str, found: object, *, is_right: bool) -> None:
        self.failures += not is_right
        print(f"{'right' if is_right else 'WRONG'}  {label}: {' '.join(str(found).split())[:110]}")

    def request(
        self, *, binary: bool, datatype: str = "FP32", name: str = "", outputs: object = None
    ) -> InferRequest:
        """Return a request with one state."""
        tensor = InferInput("state", [1, 4], datatype)
        tensor.set_data_from_numpy(np.array(STATE, NUMPY_TYPES[datatype]), binary_data=binary)
        return InferRequest(name or self._name, [tensor], "r1", request_outputs=outputs)

    async def rest(self) -> None:
        """Make the calls of the REST client."""
        client, base, name = (
            InferenceRESTClient(RESTConfig(protocol="v2")),
            self._base,
            self._name,
        )
        await self.expect("REST is_server_live", client.is_server_live(base), True)
        await self.expect("REST is_server_ready", client.is_server_ready(base), True)
        await self.expect("REST is_model_ready", client.is_model_ready(base, name), True)
        await self.expect("REST is_model_ready, other", client.is_model_ready(base, "no"), False)
        for binary in (False, True):
            for datatype in NUMPY_TYPES:
                request = self.request(binary=binary, datatype=datatype)
                label = f"REST infer, {datatype}, {'binary' if binary else 'JSON'}"
                await self.expect(label, client.infer(base, request, model_name=name), [1])
        request = self.request(
            binary=True, outputs=[RequestedOutput("action", {"binary_data": True})]
        )
        await self.expect("REST infer, action", client.infer(base, request, model_name=name), [1])
        await self.expect_refusal(
            "REST infer, other",
            client.infer(base, self.request(binary=False, name="no"), model_name="no"),
            f"there is no model 'no'; '{name}' is served",
        )
        await client.close()

    async def first_protocol(self) -> None:
        """Make calls of the protocol's first version, which is not offered."""
        client, base, name = (
            InferenceRESTClient(RESTConfig(protocol="v1")),
            self._base,
            self._name,
        )
        data = {"instances": STATE}
        for label, call in (
            ("V1 infer", client.infer(base, data, model_name=name)),
            ("V1 explain", client.explain(base, name, data)),
            ("V1 is_model_ready", client.is_model_ready(base, name)),
        ):
            await self.expect_refusal(label, call, "404")
        await client.close()

    async def grpc(self) -> None:
        """Make the calls of the gRPC client."""
        client, name = InferenceGRPCClient(self._grpc), self._name
        await self.expect("gRPC is_server_live", client.is_server_live(), True)
        await self.expect("gRPC is_server_ready", client.is_server_ready(), True)
        await self.expect("gRPC is_model_ready", client.is_model_ready(name), True)
        await self.expect_refusal(
            "gRPC is_model_ready, other", client.is_model_ready("no"), "there is no model 'no'"
        )
        for binary in (False, True):
            for datatype in NUMPY_TYPES:
                request = self.request(binary=binary, datatype=datatype)
                label = f"gRPC infer, {datatype}, {'binary' if binary else 'typed'}"
                await self.expect(label, client.infer(request), [1])
        await self.expect_refusal(
            "gRPC infer, other",
            client.infer(self.request(binary=True, name="no")),
            f"there is no model 'no'; '{name}' is served",
        )
        await client.close()


async def main() -> int:
    """Make all calls."""
    logging.disable()
    calls = Calls(*sys.argv[1:4])
    await calls.rest()
    await calls.first_protocol()
    await calls.grpc()
    return 1 if calls.failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
