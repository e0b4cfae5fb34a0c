"""Introspection as tutorials write it: FastAPI, PyJWT for every token, one redis-py command for its jti.

Environment: STORE, its URL; JWKS, a file; SECRET_SHA256; AUDIENCE.
"""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, Form, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from redis.asyncio import Redis

app = FastAPI()
store = Redis.from_url(os.environ["STORE"])
key = jwt.PyJWKSet.from_json(Path(os.environ["JWKS"]).read_text()).keys[0]


def caller(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    digest = hashlib.sha256(credentials.password.encode()).hexdigest()
    if not hmac.compare_digest(digest, os.environ["SECRET_SHA256"]):
        raise HTTPException(401)
    return credentials.username


@app.post("/introspect")
async def introspect(token: Annotated[str, Form()], _: Annotated[str, Depends(caller)]) -> dict[str, object]:
    try:
        claims = jwt.decode(token, key, algorithms=["RS256"], audience=os.environ["AUDIENCE"])
    except jwt.InvalidTokenError:
        return {"active": False}
    if await store.exists(f"revoked:{claims['jti']}"):
        return {"active": False}
    return {"active": True, **claims}


@app.get("/readyz")
async def ready() -> str:
    return "ready"
