"""The service as tutorials write it: aiohttp, and one command of redis-py for every request.

It is given the best of their ways: a connection pool, hiredis, and one MGET for all that must be
read. It does not look after lost data, clocks or roles; it counts nothing and logs nothing.
"""

import base64
import hashlib
import hmac
import sys

import redis.asyncio
import uvloop
from aiohttp import web

STORE = web.AppKey("store", redis.asyncio.Redis)
SECRET = web.AppKey("secret", str)


def authorized(request: web.Request) -> bool:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Basic":
        return False
    _, _, secret = base64.b64decode(value).decode().partition(":")
    return hmac.compare_digest(hashlib.sha256(secret.encode()).hexdigest(), request.app[SECRET])


async def introspect(request: web.Request) -> web.Response:
    if not authorized(request):
        return web.json_response({"error": "invalid_client"}, status=401)
    claims = await request.json()
    revoked, user, session, client = await request.app[STORE].mget(
        f"revoked:{claims['jti']}",
        f"cutoff:user:{claims['sub']}",
        f"cutoff:session:{claims['sid']}",
        f"cutoff:client:{claims['client_id']}",
    )
    cutoffs = [int(value) for value in (user, session, client) if value is not None]
    active = revoked is None and not any(claims["iat"] <= cutoff for cutoff in cutoffs)
    return web.json_response({"active": active})


async def ready(_: web.Request) -> web.Response:
    return web.Response(text="ready")


def application(url: str, secret: str) -> web.Application:
    made = web.Application()
    made[STORE] = redis.asyncio.Redis.from_url(url)
    made[SECRET] = secret
    made.router.add_post("/introspect", introspect)
    made.router.add_get("/readyz", ready)
    return made


if __name__ == "__main__":
    uvloop.install()
    port, store, digest = sys.argv[1:]
    made = application(store, digest)
    web.run_app(made, host="127.0.0.1", port=int(port), access_log=None, print=None)
