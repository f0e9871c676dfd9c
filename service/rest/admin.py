"""The endpoints by which an operator changes what is served."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from service.api.act import check_digest
from service.api.problems import ProblemError
from service.rest.docs import problem_responses
from service.rollout.reloader import Reload, Reloader
from service.rollout.shadow import ShadowReport
from service.state import ServiceState

IfMatch = Annotated[
    str | None,
    Header(description='do it only if the bundle served has this digest, in quotes: "sha256:…"'),
]
REFUSALS = problem_responses(
    {
        409: "Another bundle cannot be served; the one served stays",
        412: "Another bundle is served",
    }
)


class ReloadResponse(BaseModel):
    """What became of a change of the bundle."""

    outcome: Literal["loaded", "unchanged"]
    digest: str = Field(description="identity of the bundle that is served now")


def admin_router(service_state: ServiceState, reloader: Reloader) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["Operation"])

    @router.post("/model/rollback", responses=REFUSALS, summary="Return to the previous bundle")
    async def rollback(if_match: IfMatch = None) -> ReloadResponse:
        """Return to the bundle that was served before the last change.

        It was kept in memory, so nothing is read anew.
        """
        check_digest(service_state.policy, if_match)
        return _reload_response(await reloader.rollback(), "no-rollback")

    @router.get(
        "/shadow",
        responses=problem_responses({404: "There is no shadow"}),
        summary="Compare the shadow with the bundle served",
    )
    async def shadow() -> ShadowReport:
        """Report how the shadow's answers compare with those that were given."""
        if reloader.shadow is None:
            detail = "No bundle is compared with the one served; --shadow names one"
            raise ProblemError(HTTPStatus.NOT_FOUND, "no-shadow", detail)
        return reloader.shadow.report()

    @router.post("/shadow/promote", responses=REFUSALS, summary="Serve the shadow")
    async def promote(if_match: IfMatch = None) -> ReloadResponse:
        """Let the shadow answer from now on.

        The bundle that answered before is the one that a rollback returns to.
        """
        check_digest(service_state.policy, if_match)
        return _reload_response(await reloader.promote(), "not-promoted")

    return router


def _reload_response(reload: Reload, problem_name: str) -> ReloadResponse:
    if reload.outcome == "refused" or reload.outcome == "unavailable":
        detail = f"{reload.digest} is served on: {reload.reason}"
        raise ProblemError(HTTPStatus.CONFLICT, problem_name, detail)
    return ReloadResponse(outcome=reload.outcome, digest=reload.digest)
