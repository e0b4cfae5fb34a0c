"""The port of gRPC: Envoy's ext_authz and the health service; it needs the extra ``grpc``."""

from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from revoker.api.ext_authz import SERVICE, ExtAuthz
from revoker.config.server import ServerSettings
from revoker.errors import ConfigError

_SERVICES: Final = ("", SERVICE)
_Status = health_pb2.HealthCheckResponse


class GrpcListener:
    """Serves on ``server.grpc_port``, with TLS where the main port has it."""

    def __init__(self, ext_authz: ExtAuthz, server: ServerSettings) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", int(server.workers > 1))])
        self._server.add_generic_rpc_handlers([ext_authz.handler()])
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._settings = server

    async def start(self) -> None:
        """Listen; the health service says NOT_SERVING.

        Raises:
            ConfigError: the address does not exist or is in use.
        """
        host, port = self._settings.host, self._settings.grpc_port
        await self._set_health(_Status.NOT_SERVING)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if credentials := _credentials(self._settings):
                self._server.add_secure_port(address, credentials)
            else:
                self._server.add_insecure_port(address)
        except RuntimeError:
            raise ConfigError([f"server.grpc_port: can't listen on {host} port {port}"]) from None
        await self._server.start()

    async def report_ready(self) -> None:
        """Say SERVING."""
        await self._set_health(_Status.SERVING)

    async def drain(self) -> None:
        """Say NOT_SERVING from now on; calls that still come are answered."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and close once those in progress are answered, or after this time."""
        await self._server.stop(seconds)

    async def _set_health(self, status: int) -> None:
        for service in _SERVICES:
            await self._health.set(service, status)


def _credentials(server: ServerSettings) -> grpc.ServerCredentials | None:
    """TLS as on the main port, but for client certificates: gRPC can require them, and not only request."""
    if not server.tls_cert_file:
        return None
    pair = Path(server.tls_key_file).read_bytes(), Path(server.tls_cert_file).read_bytes()
    authorities = Path(server.tls_client_ca_file).read_bytes() if server.tls_client_ca_file else None
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)
