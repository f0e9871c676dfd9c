"""`POST /shadow/act`: what the shadow answers to one state, to see both policies side by side.

These answers control nothing, so they are not counted as inferences, recorded or compared.
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from service.api.act import act
from service.api.problems import JSON, ProblemError
from service.api.schemas import ActRequest, ActResponse
from service.rest.docs import problem_responses, request_body
from service.rest.request_body import read_body
from service.rest.responses import ObservedResponse, Outcome
from service.rollout.reloader import Reloader
from service.settings import Settings

IfMatch = Annotated[
    str | None,
    Header(description='answer only if the shadow has this digest, in quotes: "sha256:…"'),
]
REFUSALS = problem_responses(
    {
        400: "The body is not JSON",
        404: "There is no shadow",
        412: "The shadow is another bundle",
        413: "The body is too large",
        422: "The body is not of the schema, or the state is outside what training saw",
    }
)


def shadow_act_router(settings: Settings, reloader: Reloader) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["Operation"])

    @router.post(
        "/shadow/act",
        response_model=ActResponse,
        openapi_extra=request_body(ActRequest.model_json_schema()),
        responses=REFUSALS,
        summary="Ask the shadow",
    )
    async def shadow_act(request: Request, if_match: IfMatch = None) -> Response:
        """Answer one state as the shadow would answer it, if it were served."""
        body = await read_body(request, settings.max_body)
        shadow = reloader.shadow
        if shadow is None:
            detail = "No bundle is compared with the one served; --shadow names one"
            raise ProblemError(HTTPStatus.NOT_FOUND, "no-shadow", detail)

        content, headers, _ = act(
            shadow.policy, body, if_match, strict=settings.refuse_out_of_range
        )
        return ObservedResponse(content, HTTPStatus.OK, headers, JSON, Outcome())

    return router
