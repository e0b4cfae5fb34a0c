"""REVOKER_URL=… REVOKER_SECRET=… uvicorn fastapi_app:app"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI

from revoker_client import Introspection, RevokerClient
from revoker_client.fastapi import ActiveToken

client = RevokerClient(os.environ["REVOKER_URL"], os.environ["REVOKER_SECRET"])
active = ActiveToken(client)
may_write = ActiveToken(client, scopes=["orders:write"])
app = FastAPI()


@app.get("/orders")
async def orders(token: Annotated[Introspection, Depends(active)]) -> dict[str, str | None]:
    return {"user": token.sub}


@app.post("/orders")
async def order(token: Annotated[Introspection, Depends(may_write)]) -> dict[str, str | None]:
    return {"ordered_by": token.sub}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
