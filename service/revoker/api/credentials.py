"""Who sends a request: by ``Authorization`` header, form or client certificate."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from revoker.api.client_address import ClientAddresses
from revoker.auth import Caller, Callers, Credentials, certificate_names
from revoker.errors import InvalidRequest

NOBODY: Final = Caller(name="", digests=(), scopes=frozenset(), issuers={}, default_issuer=None, client_id="")
"""The caller of an endpoint that needs no credential, where none was sent."""


class Authentication:
    """Authenticates requests.

    Attributes:
        callers: Of the present settings; a reload replaces them.
        client_certificates: Whether callers may use one instead of a secret.
        client_address: Gives the address of a request's client, whose failed attempts are limited.
    """

    def __init__(
        self, callers: Callers, *, client_certificates: bool, addresses: ClientAddresses | None = None
    ) -> None:
        self.callers = callers
        self.client_address: Final = (addresses or ClientAddresses()).of
        self.client_certificates: Final = client_certificates

    def authenticate(
        self, request: web.Request, fields: Mapping[str, str] | None, *, confirmation: bool = False
    ) -> Caller:
        """The caller, whose credential is required; raises as :meth:`Callers.authenticate`."""
        headers = request.headers.getall("Authorization", ())
        if len(headers) > 1:
            raise InvalidRequest("more than one Authorization header")
        if headers and not fields and (caller := self.callers.cached(headers[0])) is not None:
            return caller.spend_request(confirmation=confirmation)
        form = fields or {}
        return self.callers.authenticate(
            Credentials(
                headers[0] if headers else None,
                form.get("client_id"),
                form.get("client_secret"),
                certificate(request),
                self.client_address(request),
            ),
            confirmation=confirmation,
        )

    def authenticate_if_asked(self, request: web.Request, fields: Mapping[str, str] | None) -> Caller:
        """As :meth:`authenticate`, or ``NOBODY`` where no credential was sent."""
        if "Authorization" in request.headers or (fields and "client_secret" in fields):
            return self.authenticate(request, fields)
        if not self.client_certificates:
            return NOBODY
        caller = self.callers.find_by_certificate(certificate(request))
        return NOBODY if caller is None else caller.spend_request()


def certificate(request: web.Request) -> frozenset[str]:
    """The names in the client certificate, where the listener asked for one and verified it."""
    tls = request.get_extra_info("ssl_object")
    verified = tls.getpeercert() if tls is not None else None
    if not verified:
        return frozenset()
    subject = [pair for names in verified.get("subject", ()) for pair in names]
    return certificate_names((*subject, *verified.get("subjectAltName", ())))
