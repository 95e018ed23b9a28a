"""What whoever runs the farm's machines looks at: /metrics, /healthz and /readyz; without a login.

/healthz    this process works: its event loop answers
/readyz     it can do its work too: the broker and the database answer, and somebody leads
"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client.exposition import choose_encoder

from icefarm_control.health import Health
from icefarm_control.metrics import REGISTRY

_FRESH = {"Cache-Control": "no-store"}


def observing_router(health: Health) -> APIRouter:
    """The three pages of a control process; any FastAPI application can include them."""
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(REGISTRY), media_type=content_type, headers=_FRESH)

    @router.get("/healthz")
    async def healthz() -> Response:
        return PlainTextResponse("ok\n", headers=_FRESH)

    @router.get("/readyz")
    async def readyz() -> Response:
        faults = health.faults()
        known = {name: faults.get(name, "ok") for name in ("broker", "database", "leader")}
        about = {"ready": not faults, "leads": health.leads, **known}
        return JSONResponse(about, 503 if faults else 200, headers=_FRESH)

    return router
