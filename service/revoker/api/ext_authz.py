"""Envoy's ext_authz over gRPC: ``envoy.service.auth.v3.Authorization/Check``.

It asks what a request to ``/forward-auth`` asks, and :class:`ForwardAuth` decides. Only here are messages of
Envoy read and written; the module needs the extra ``grpc``.

Envoy lets a request pass where the call fails and ``failure_mode_allow`` is set. So the call fails, with
UNAVAILABLE, exactly where ``/forward-auth`` answers 503. All else is an answer, whatever the user sent.
"""

import functools
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import grpc
import structlog
from cryptography import x509
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from revoker.api.admission import Admission
from revoker.api.client_address import ClientAddresses
from revoker.api.envelope import Measures, count_error
from revoker.api.error_responses import NO_STORE
from revoker.api.forward_auth import (
    COOKIE_HEADER,
    KEY_HEADER,
    MALFORMED,
    REQUIREMENTS_HEADER,
    Answer,
    ForwardAuth,
    Question,
)
from revoker.errors import RevokerError
from revoker.metrics import Metrics

SERVICE: Final = "envoy.service.auth.v3.Authorization"
ENDPOINT: Final = f"/{SERVICE}/Check"
"""Of the metrics of requests."""

_KEY, _REQUIREMENTS, _COOKIE = (name.lower() for name in (KEY_HEADER, REQUIREMENTS_HEADER, COOKIE_HEADER))
_USER_HEADERS: Final = ("authorization", "cookie", "forwarded", "x-forwarded-for")
_CODES: Final = {200: grpc.StatusCode.OK, 401: grpc.StatusCode.UNAUTHENTICATED}
_FAILED: Final = Answer(500, {})

_log = structlog.get_logger("service")


class _NoConnection:
    """What load shedding would pause; here it only refuses calls."""

    refused_at = -1.0

    def pause(self, seconds: float) -> None:
        """The connection carries the calls of all users of the gateway."""


class ExtAuthz:
    """Answers the calls of one process."""

    def __init__(
        self,
        *,
        forward_auth: ForwardAuth,
        addresses: ClientAddresses,
        admission: Admission,
        metrics: Metrics,
    ) -> None:
        self._forward_auth = forward_auth
        self._addresses = addresses
        self._admission = admission
        self._metrics = metrics
        self._measures = Measures(ENDPOINT, metrics, buffered=True)
        metrics.request_seconds.labels(ENDPOINT)
        for status in ("200", "500"):
            metrics.requests.labels(ENDPOINT, status)

    def handler(self) -> grpc.GenericRpcHandler:
        """Requests are read by :meth:`check`: a call with one that can't be read would fail otherwise."""
        method = grpc.unary_unary_rpc_method_handler(
            self.check, response_serializer=CheckResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Check": method})

    async def check(self, message: bytes, context: Any) -> CheckResponse:
        """Answer one call; without a verdict it fails with UNAVAILABLE."""
        admission = self._admission
        if (admission.overloaded or admission.in_progress >= admission.limit) and admission.refuses(
            _NoConnection()
        ):
            self._metrics.no_verdicts.labels("overload").inc()
            self._measures.count(503)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too many requests are under way")
        began = time.perf_counter()
        failure: RevokerError | None = None
        admission.in_progress += 1
        try:
            answer = await self._forward_auth.answer(self._question(message, context))
        except RevokerError as error:
            failure, answer = error, _FAILED
        except DecodeError:
            answer = MALFORMED
        except Exception:  # noqa: BLE001  # the boundary of the service
            _log.exception("request_failed")
            answer = _FAILED
        finally:
            admission.in_progress -= 1
        self._measures.count(answer.status if failure is None else 503)
        self._measures.observe(time.perf_counter() - began)
        if failure is not None:
            count_error(failure, self._metrics)
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(failure))
        return _response(answer)

    def _question(self, message: bytes, context: Any) -> Question:
        attributes = CheckRequest.FromString(message).attributes
        user = _user_headers(attributes.request.http)
        gateway = _gateway_headers(context.invocation_metadata(), attributes.context_extensions)
        return Question(
            keys=gateway[_KEY],
            requirements=gateway[_REQUIREMENTS],
            cookie_names=gateway[_COOKIE],
            authorizations=user["authorization"],
            cookies=user["cookie"],
            certificate=functools.partial(_certificate, context),
            peer=lambda: self._addresses.behind(
                _address(context.peer()), user["forwarded"], user["x-forwarded-for"]
            ),
        )


def _gateway_headers(
    metadata: Iterable[tuple[str, str | bytes]], extensions: Mapping[str, str]
) -> dict[str, list[str]]:
    """What the gateway sets: in the call's metadata, or for a route in ``context_extensions``.

    Its key is in the metadata alone. What the user sent is in neither.
    """
    found: dict[str, list[str]] = {_KEY: [], _REQUIREMENTS: [], _COOKIE: []}
    for name, value in metadata:
        if name in found:
            found[name].append(value if isinstance(value, str) else value.decode("latin-1"))
    for name, value in extensions.items():
        if (name := name.lower()) in found and name != _KEY:
            found[name].append(value)
    return found


def _user_headers(http: Any) -> dict[str, list[str]]:
    """The user's headers; of those that were sent twice, ``headers`` has the values joined by commas."""
    found: dict[str, list[str]] = {name: [] for name in _USER_HEADERS}
    for header in http.header_map.headers:  # with encode_raw_headers
        if (name := header.key.lower()) in found:
            found[name].append(header.value or header.raw_value.decode("utf-8", "surrogateescape"))
    for name in _USER_HEADERS:
        if (value := http.headers.get(name)) is not None:
            found[name].append(value)
    return found


def _address(peer: str) -> str:
    """The address in gRPC's name of a peer, such as ``ipv6:%5B::1%5D:4711``."""
    family, _, rest = urllib.parse.unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if family in {"ipv4", "ipv6"} else ""


def _certificate(context: Any) -> frozenset[str]:
    pems: Sequence[bytes] = context.auth_context().get("x509_pem_cert", ())
    return _names_of(pems[0]) if pems else frozenset()


@functools.lru_cache(256)
def _names_of(pem: bytes) -> frozenset[str]:
    """The names in a certificate that can name a caller: common name and DNS names."""
    certificate = x509.load_pem_x509_certificate(pem)
    names = {str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)}
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset(names)
    return frozenset(names.union(others.get_values_for_type(x509.DNSName)))


def _response(answer: Answer) -> CheckResponse:
    status = Status(code=_CODES.get(answer.status, grpc.StatusCode.PERMISSION_DENIED).value[0])
    if answer.status == 200:
        return CheckResponse(status=status, ok_response=OkHttpResponse(headers=_set(answer.headers)))
    denied = DeniedHttpResponse(
        status=HttpStatus(code=answer.status),
        headers=_set({**NO_STORE, "Content-Type": "application/json", **answer.headers}),
        body=answer.body.decode(),
    )
    return CheckResponse(status=status, denied_response=denied)


def _set(headers: Mapping[str, str]) -> list[HeaderValueOption]:
    """Headers that replace what is there under their names."""
    return [
        HeaderValueOption(
            header=HeaderValue(key=name.lower(), value=value),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in headers.items()
    ]
