"""The endpoints whose whole requests are answered at once, before ASGI.

Each answers by the functions that the routes of the same endpoint call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

from service.api.act import Answer, act, act_batch, check_digest
from service.api.open_inference import protocol, rest
from service.api.open_inference.known_documents import KnownDocuments
from service.api.open_inference.model import ServedModel
from service.api.open_inference.rest import RAW_HEADER_LENGTH
from service.api.problems import JSON
from service.endpoints import OPEN_INFERENCE_PREFIX, Scope, endpoint_of
from service.inference.policy import Inference, Policy
from service.settings import Settings
from service.types import Body

Headers = Mapping[bytes, bytes]  # of a request, by their names in small letters

_INFER_PREFIX = f"{OPEN_INFERENCE_PREFIX}/models/".encode()


class WholeAnswer(NamedTuple):
    """A good answer."""

    content: bytes
    media_type: str
    header_lines: bytes  # those that this answer has beside the ones of all answers
    inference: Inference


AnswerFunction = Callable[[Policy, Body, Headers], WholeAnswer]  # raises `ServiceError`


@dataclass(frozen=True)
class FastEndpoint:
    """An endpoint whose whole requests can be answered at once."""

    path: str
    label: str  # of the metrics and the log
    scope: Scope | None  # that a key needs
    body_limit: int  # bytes
    answer: AnswerFunction


class FastEndpoints:
    """Finds such endpoints by their paths. Those of the model change with the policy served."""

    def __init__(self, settings: Settings) -> None:
        self._max_batch = settings.max_batch
        self._model = ServedModel(settings.model_name, settings.max_batch)
        self._refuses_out_of_range = settings.refuse_out_of_range
        self._known = KnownDocuments(strict=settings.refuse_out_of_range)
        self._infer_body_limit = settings.max_batch_body + protocol.JSON_HEADROOM
        self._of_service = {
            b"/act": _endpoint(
                "/act",
                settings.max_body,
                _whole(partial(act, strict=True) if settings.refuse_out_of_range else act),
            ),
            b"/act/batch": _endpoint(
                "/act/batch",
                settings.max_batch_body,
                _whole(
                    partial(
                        act_batch,
                        max_batch=settings.max_batch,
                        strict=settings.refuse_out_of_range,
                    )
                ),
            ),
        }
        self._of_model: dict[bytes, FastEndpoint] = {}
        self._policy: Policy | None = None  # whose model these are

    def find(self, target: bytes, policy: Policy) -> FastEndpoint | None:
        """Return the endpoint that a request's target names, as its path and nothing more."""
        endpoint = self._of_service.get(target)
        if endpoint is not None or not target.startswith(_INFER_PREFIX):
            return endpoint
        if policy is not self._policy:
            self._of_model = self._infer_endpoints(policy)
            self._policy = policy
        return self._of_model.get(target)

    def _infer_endpoints(self, policy: Policy) -> dict[bytes, FastEndpoint]:
        endpoints = {}
        for name, version in product(
            self._model.names(policy), (None, policy.bundle.manifest.version)
        ):
            of_version = "" if version is None else f"/versions/{version}"
            path = f"{OPEN_INFERENCE_PREFIX}/models/{name}{of_version}/infer"
            answer = partial(
                _answer_infer,
                model=self._model,
                name=name,
                version=version,
                max_batch=self._max_batch,
                strict=self._refuses_out_of_range,
                known=self._known,
            )
            endpoints[path.encode()] = _endpoint(path, self._infer_body_limit, answer)
        return endpoints


def _endpoint(path: str, body_limit: int, answer: AnswerFunction) -> FastEndpoint:
    endpoint = endpoint_of(path)
    return FastEndpoint(path, endpoint.label, endpoint.scope, body_limit, answer)


def _whole(function: Callable[[Policy, Body, str | None], Answer]) -> AnswerFunction:
    """Return what answers whole requests by a function of `service.api.act`."""

    def answer(policy: Policy, body: Body, headers: Headers) -> WholeAnswer:
        content, ((etag, digest), (timing, duration)), inference = function(
            policy, body, _decoded(headers.get(b"if-match"))
        )
        lines = b"%b: %b\r\n%b: %b\r\n" % (etag, digest, timing, duration)
        return WholeAnswer(content, JSON, lines, inference)

    return answer


def _answer_infer(
    policy: Policy,
    body: Body,
    headers: Headers,
    *,
    model: ServedModel,
    name: str,
    version: str | None,
    max_batch: int,
    strict: bool,
    known: KnownDocuments,
) -> WholeAnswer:
    model.check(policy, name, version)  # the policy may have changed since
    check_digest(policy, _decoded(headers.get(b"if-match")))
    header_length = headers.get(RAW_HEADER_LENGTH)
    if (answered := known.answer(policy, body, header_length)) is not None:
        return WholeAnswer(*answered)

    content, media_type, answer_headers, inference = rest.infer(
        policy,
        model.name(policy),
        body,
        _decoded(header_length),
        max_batch,
        strict=strict,
    )
    lines = b"".join([b"%b: %b\r\n" % header for header in answer_headers])
    answer = WholeAnswer(content, media_type, lines, inference)
    known.learn(policy, body, header_length, answer)
    return answer


def _decoded(value: bytes | None) -> str | None:
    """Return a header's value as Starlette gives it."""
    return None if value is None else value.decode("latin-1")
