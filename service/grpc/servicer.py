"""The methods of the Open Inference Protocol over gRPC.

What a request means is in `service.api.open_inference.protocol`.
"""

from http import HTTPStatus

from google.protobuf import json_format

from service.api.act import check_digest
from service.api.open_inference import protocol
from service.api.open_inference.model import ServedModel
from service.api.open_inference.protocol import OpenInferenceError, bad_request
from service.api.ranges import STRICT
from service.grpc import inference_pb2 as pb
from service.grpc import inference_pb2_grpc
from service.grpc.interceptors import Call
from service.inference.backends import Float32Array
from service.rollout.reloader import Reloader
from service.settings import Settings
from service.state import ServiceState

# The field of `InferTensorContents` that holds numbers of a datatype. There is none for FP16, which
# comes as raw bytes.
CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "FP16": "",
    "INT32": "int_contents",
    "INT64": "int64_contents",
}


class InferenceServicer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The service's methods, named as in its description. Each may raise `ServiceError`."""

    def __init__(self, settings: Settings, service_state: ServiceState, reloader: Reloader) -> None:
        self._settings = settings
        self._service_state = service_state
        self._reloader = reloader
        self._model = ServedModel(settings.model_name, settings.max_batch)

    # Health

    async def ServerLive(self, _: pb.ServerLiveRequest, __: Call) -> pb.ServerLiveResponse:
        """Answer while the process is alive."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest, __: Call) -> pb.ServerReadyResponse:
        """Answer whether a self-tested policy is loaded, and the service does not drain."""
        return pb.ServerReadyResponse(ready=not self._service_state.draining)

    async def ModelReady(self, request: pb.ModelReadyRequest, _: Call) -> pb.ModelReadyResponse:
        """Answer whether this model is served."""
        policy = self._service_state.policy
        self._model.check(policy, request.name, request.version, has_key=False)
        return pb.ModelReadyResponse(ready=not self._service_state.draining)

    # Descriptions

    async def ServerMetadata(
        self, _: pb.ServerMetadataRequest, __: Call
    ) -> pb.ServerMetadataResponse:
        """Describe the server."""
        return pb.ServerMetadataResponse(
            name=protocol.SERVER,
            version=protocol.SERVER_VERSION,
            extensions=protocol.EXTENSIONS,
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, _: Call
    ) -> pb.ModelMetadataResponse:
        """Describe the model's tensors."""
        self._check_model(request.name, request.version)
        response = pb.ModelMetadataResponse()
        json_format.ParseDict(self._model.metadata(self._service_state.policy), response)
        return response

    async def ModelConfig(self, request: pb.ModelConfigRequest, _: Call) -> pb.ModelConfigResponse:
        """Describe the model as Triton's own configuration would."""
        self._check_model(request.name, request.version)
        config = self._model.config(self._service_state.policy)
        response = pb.ModelConfigResponse()
        json_format.ParseDict({"config": config}, response)
        return response

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, _: Call
    ) -> pb.ModelStatisticsResponse:
        """Count what was inferred since the service began."""
        if request.name:
            self._check_model(request.name, request.version)
        totals = self._service_state.metrics.totals()
        response = pb.ModelStatisticsResponse()
        json_format.ParseDict(self._model.statistics(self._service_state.policy, totals), response)
        return response

    # Inference

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """Answer some states."""
        call.name(request.id)
        call.check_deadline()
        policy = self._service_state.policy
        self._model.check(policy, request.model_name, request.model_version)
        if_match = call.metadata.get("if-match")
        check_digest(policy, if_match if isinstance(if_match, str) else None)

        for output in request.outputs:
            protocol.check_output_parameters(output.name, output.parameters)
        states = _states(request, self._settings.max_batch)
        tensors, inference = protocol.infer(
            policy,
            states,
            [output.name for output in request.outputs],
            strict=asks_strictly(request) or self._settings.refuse_out_of_range,
        )
        call.note_inference(inference)
        self._service_state.observers.on_inference(inference, call.request_id)

        return pb.ModelInferResponse(
            model_name=self._model.name(policy),
            model_version=policy.bundle.manifest.version,
            id=request.id,
            parameters={"digest": pb.InferParameter(string_param=policy.bundle.digest)},
            outputs=[
                pb.ModelInferResponse.InferOutputTensor(
                    name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
                )
                for tensor in tensors
            ],
            raw_output_contents=[tensor.raw for tensor in tensors],
        )

    async def ModelStreamInfer(
        self, request: pb.ModelInferRequest, call: Call
    ) -> pb.ModelStreamInferResponse:
        """Answer one message of a stream as `ModelInfer` would; an error ends no stream."""
        response = await self.ModelInfer(request, call)
        if "triton_enable_empty_final_response" in request.parameters:
            response.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=response)

    # The repository of models

    async def RepositoryIndex(
        self, _: pb.RepositoryIndexRequest, __: Call
    ) -> pb.RepositoryIndexResponse:
        """List the one model."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(**entry)
                for entry in self._model.index(self._service_state.policy)
            ]
        )

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, _: Call
    ) -> pb.RepositoryModelLoadResponse:
        """Serve the bundle that lies in the folder."""
        self._check_model(request.model_name, None)
        if request.parameters:
            raise bad_request(protocol.NO_LOAD_PARAMETERS)
        reload = await self._reloader.load(self._model.bundle_name(request.model_name))
        if reload.outcome == "refused":
            raise protocol.refused_load(reload.digest, reload.reason)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, _: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Refuse: the model is served until the service ends."""
        self._check_model(request.model_name, None)
        raise OpenInferenceError(HTTPStatus.NOT_IMPLEMENTED, protocol.NO_UNLOAD)

    def _check_model(self, name: str, version: str | None) -> None:
        self._model.check(self._service_state.policy, name, version)


def asks_strictly(request: pb.ModelInferRequest) -> bool:
    """Return whether states outside what training saw are to be refused.

    Raises `OpenInferenceError` where that is neither true nor false.
    """
    if STRICT not in request.parameters:
        return False
    parameter = request.parameters[STRICT]
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise bad_request(f"parameter {STRICT} must be true or false, as bool_param")
    return bool(parameter.bool_param)


def _states(request: pb.ModelInferRequest, max_batch: int) -> Float32Array:
    """Return the states, (n, 4), from the raw contents or from the typed ones.

    Raises `OpenInferenceError`.
    """
    names = [tensor.name for tensor in request.inputs]
    tensor = request.inputs[0] if names else pb.ModelInferRequest.InferInputTensor()
    count = protocol.check_input(names, tensor.datatype, tensor.shape, max_batch)
    protocol.refuse_shared_memory(f"input {tensor.name!r}", tensor.parameters)

    raw = request.raw_input_contents
    numbers = getattr(tensor.contents, CONTENTS[tensor.datatype], ())
    held = [field.name for field, _ in tensor.contents.ListFields()]
    if held and not numbers:
        raise bad_request(
            f"input {tensor.name!r}: {tensor.datatype} stands in {CONTENTS[tensor.datatype]},"
            f" not in {held[0]}"
        )
    if not raw:
        return protocol.states_of_numbers(list(numbers), count, tensor.datatype)
    if numbers:
        raise bad_request(
            f"input {tensor.name!r}: has both {CONTENTS[tensor.datatype]} and raw_input_contents"
        )
    if len(raw) != 1:
        raise bad_request(f"raw_input_contents holds {len(raw)} tensors, expected 1")
    return protocol.states_of_raw(raw[0], count, tensor.datatype)
