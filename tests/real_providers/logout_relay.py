"""Where providers send logout tokens: they have one address for it, and every test has its own service."""

import asyncio

from aiohttp import web

from tests.rig.probes import within


class LogoutRelay:
    """Passes what is posted to it on to a service; ``statuses`` has what the service answered."""

    def __init__(self, port, running):
        self._port = port
        self._running = running
        self.statuses = []
        self._answered = asyncio.Event()

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
        self._answered.set()
        response = web.Response(status=answer.status, body=answer.body)
        response.force_close()  # a provider sends each token once, maybe on the connection of an earlier test
        return response

    async def answered(self):
        """Wait until the service has answered a logout token."""
        async with within(60, "a logout token from the provider"):
            await self._answered.wait()
