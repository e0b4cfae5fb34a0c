"""Where providers send logout tokens: they have one address for it, and every test has its own service."""

import asyncio

from aiohttp import web

from tests.rig.probes import within
from tests.rig.service import HANGS_S


class LogoutRelay:
    """Passes what is posted to it on to a service.

    Attributes:
        statuses: What the service has answered.
    """

    def __init__(self, port, running):
        self._port = port
        self._running = running
        self.statuses = []
        self._accepted = asyncio.Event()

    async def __aenter__(self):
        application = web.Application()
        application.router.add_post("/backchannel-logout", self._pass_on)
        self._runner = web.AppRunner(application, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _pass_on(self, request):
        answer = await self._running.ask(
            "POST",
            request.path,
            data=await request.read(),
            headers={"Content-Type": request.headers["Content-Type"]},
        )
        self.statuses.append(answer.status)
        if answer.status == 200:
            self._accepted.set()
        response = web.Response(status=answer.status, body=answer.body)
        response.force_close()  # a provider sends each token once, maybe on the connection of an earlier test
        return response

    async def accepted(self):
        """Wait until the service has accepted a logout token; it refuses those of other clients."""
        try:
            async with within(HANGS_S, "a logout token that the service accepts"):
                await self._accepted.wait()
        except AssertionError as fault:
            fault.add_note(f"statuses of those that came: {self.statuses}")
            raise
