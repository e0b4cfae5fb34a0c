"""The clients of a campaign write down all that they have asked for."""

import asyncio
import random

from aiohttp import web

from tests.faults.clients import Clients
from tests.faults.history import Revoked


async def test_a_revocation_in_flight_at_the_end_is_in_the_history():
    asked, answer = asyncio.Event(), asyncio.Event()

    async def revoke(_):
        asked.set()
        await answer.wait()
        return web.json_response({}, status=503)

    async def introspect(_):
        return web.json_response({"active": True})

    app = web.Application()
    app.add_routes([web.post("/introspect", introspect), web.post("/{revoke:revoke.*}", revoke)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    [url] = [f"http://127.0.0.1:{address[1]}" for address in runner.addresses]
    clients = Clients({"a": url}, rng=random.Random(1), history=[], per_instance=1, pause=0.001)
    try:
        async with clients:
            await asked.wait()
            stopping = asyncio.create_task(clients.stop())
            await asyncio.sleep(0)
            answer.set()
            await stopping
    finally:
        await runner.cleanup()
    [revocation] = [record for record in clients.history if isinstance(record, Revoked)]
    assert revocation.status == 503
