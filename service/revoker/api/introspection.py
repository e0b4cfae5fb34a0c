"""``POST /introspect`` (RFC 7662): may this token be used now?

Gateways ask this for every request that they serve: this is the hot path, with ``verdicts`` and
``store.lookups``.
"""

import contextlib
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, Final, cast

import msgspec
from aiohttp import web

from revoker.api import bodies, refresh_tokens
from revoker.api.admission import Admission
from revoker.api.credentials import Authentication
from revoker.api.mapped_claims import MappedClaims
from revoker.api.paths import INTROSPECT
from revoker.api.prebuilt import PrebuiltResponse
from revoker.api.session_services import SessionServices
from revoker.api.verdicts import Verdicts
from revoker.auth import Caller
from revoker.errors import InvalidRequest, InvalidToken
from revoker.models import ACTIVE_VERDICT, Issuer, Payload
from revoker.tokens.claims import identity_of, is_readable, joined_claims
from revoker.tokens.parsing import strict_json_object
from revoker.tokens.refresh_tokens import looks_like

SCOPE: Final = "introspect"

INACTIVE: Final = b'{"active":false}'
ACTIVE: Final = b'{"active":true}'
_RESPONSE_INACTIVE: Final = PrebuiltResponse(INACTIVE)
_RESPONSE_ACTIVE: Final = PrebuiltResponse(ACTIVE)


class Header(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The JOSE header of a token whose signature the caller has checked; other members are ignored."""

    kid: Annotated[str, msgspec.Meta(min_length=1)]


class Introspect(Payload, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A token, or the claims of one whose signature the caller has checked, or these with its header.

    In the claims form ``jti``, ``sub``, ``iat`` and ``exp`` are required, here or in ``claims``. A token
    whose ``header`` is not given is not active once a key of its issuer was revoked. One form excludes the
    others.
    """

    token: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    claims: Payload | None = None
    header: Header | None = None


_decode: Final = msgspec.json.Decoder(Introspect).decode

_ENVELOPE: Final = ("claims", "header")
_ISS: Final = b'"iss"'
_ENVELOPE_BEGINS: Final = (b'{"claims"', b'{"header"')

OPTIONAL_CLAIMS: Final = ("sid", "client_id", "azp", "auth_time")


_IDENTITIES: Final = ("jti", "sub")


def _has_claims(asked: Payload) -> bool:
    """Whether any claim is given; written out, because it runs for every token."""
    return (
        asked.jti is not None
        or asked.sub is not None
        or asked.iat is not None
        or asked.exp is not None
        or asked.iss is not None
        or asked.sid is not None
        or asked.client_id is not None
        or asked.azp is not None
        or asked.aud is not None
        or asked.auth_time is not None
        or asked.nbf is not None
    )


def read_introspect(raw: bytes) -> Introspect:
    """Read a JSON body; an optional claim that can't be read counts as absent.

    Raises:
        InvalidRequest: it is not JSON, or another member has the wrong type.
    """
    try:
        return _decode(raw)
    except msgspec.ValidationError:
        return _without_unreadable_claims(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidRequest("the body is not valid JSON") from error


def _without_unreadable_claims(raw: bytes) -> Introspect:
    """As :func:`read_introspect`, for a body that has a member of the wrong type."""
    try:
        document = strict_json_object(raw)
    except ValueError as error:
        raise InvalidRequest(f"the body is not a JSON object that can be read: {error}") from error
    if document.get("token") is None:
        # beside an envelope there is no claim, so none that may count as absent
        claims = document if document.get("claims") is None else document["claims"]
        if type(claims) is dict:
            for name in OPTIONAL_CLAIMS:
                if not is_readable(name, claims.get(name)):
                    claims.pop(name, None)
            for name in _IDENTITIES:
                if type(claims.get(name, "")) is not str and claims[name] is not None:
                    claims[name] = ""  # refused, unless the issuer has another name for it
    return bodies.converted_json(document, Introspect)


CLAIMS_IN_FORMS: Final = frozenset(Introspect.__struct_fields__) - {"token", "client_id"}
"""What may not be beside a token in a form; ``client_id`` is a credential there (RFC 6749 §2.3.1)."""


def token_of(asked: Introspect) -> str | None:
    """The token to judge; None where claims are given.

    Raises:
        InvalidRequest: claims are beside it, and it is not clear whose verdict is wanted.
    """
    if asked.token is not None and (
        asked.claims is not None or asked.header is not None or _has_claims(asked)
    ):
        raise InvalidRequest("claims are beside the token: one of the two is wanted")
    return asked.token


def _payload_of(asked: Introspect) -> Payload:
    """The payload of a token whose claims are asked about.

    Raises:
        InvalidRequest: only half of ``claims`` and ``header`` is there, or claims are beside them.
    """
    if asked.claims is None and asked.header is None:
        return asked
    if asked.claims is None or asked.header is None:
        raise InvalidRequest("claims and header belong together")
    if _has_claims(asked):
        raise InvalidRequest("claims are both in claims and beside it")
    return asked.claims


def claims_of(asked: Introspect, caller: Caller, document: bodies.Document) -> tuple[Payload, Issuer | None]:
    """The claims to judge, under their standard names, with the ``kid`` of the header where that is given.

    Args:
        asked: As read from the body.
        caller: Who asks.
        document: From which that was read: the issuer may have other names for its claims.

    Returns:
        The claims, and their issuer; None: the caller may not ask about it.

    Raises:
        InvalidRequest: a claim is missing that the claims form needs.
    """
    payload = asked if asked.claims is None and asked.header is None else _payload_of(asked)
    iss = payload.iss
    issuer = caller.issuer(None) if iss is None else caller.issuers.get(iss)
    if issuer is None and payload.named_by is not None:  # to this caller, its claims have the standard names
        asked = read_introspect(msgspec.json.encode(bodies.members_of(document)))
        payload = _payload_of(asked)
    claims = payload
    kid = None if asked.header is None else asked.header.kid
    if issuer is not None and issuer.claim_names is not None and payload.named_by is not issuer:
        members = bodies.members_of(document)
        try:
            identity = identity_of(members if kid is None else members["claims"], issuer)
        except InvalidToken as error:
            raise InvalidRequest(f"by the claim names of issuer {issuer.name}: {error}") from error
        claims = joined_claims(payload, kid, identity)
    elif kid is not None and payload.named_by is not None:
        claims = msgspec.structs.replace(payload, kid=kid)
    elif kid is not None:
        identity = (
            payload.jti, payload.sub, payload.sid, payload.client_id, payload.azp, payload.revocable
        )  # fmt: skip
        claims = joined_claims(payload, kid, identity)
    if not claims.sub or claims.iat is None or claims.exp is None:
        raise InvalidRequest("token, or jti, sub, iat and exp are needed, jti and sub as strings")
    if not claims.jti and issuer is not None and (issuer.require_jti or claims.jti is not None):
        raise InvalidRequest("jti is missing, or no string")
    return claims, issuer


Parsed = tuple[Introspect, bodies.Document]
"""What a body asks, and the document from which it was read."""

MAX_TOKENS: Final = 1000
"""In one batch."""


class IntrospectReader:
    """Reads bodies, in one pass where their claims have standard names or those of a configured issuer."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self._mapped = []
        for issuer in dict.fromkeys(issuers):
            if issuer.claim_names is not None:
                with contextlib.suppress(ValueError):  # such claims are read member by member
                    reader = _MappedReader(issuer)
                    self._mapped += [
                        (b'"%b"' % iss.encode(), reader) for iss in (issuer.iss, *issuer.aliases)
                    ]

    def read(self, raw: bytes) -> Parsed:
        """Read a body; raises ``InvalidRequest``, also for an object with a duplicate member."""
        for iss, mapped in self._mapped:
            if iss in raw and (parsed := mapped.read(raw)) is not None:
                return parsed
        asked = read_introspect(raw)
        return asked, bodies.refuse_ambiguous(raw, asked)

    def read_batch(self, raw: bytes) -> Sequence[Parsed] | None:
        """Read a batch whose claims are all of one issuer with names of its own; None for any other."""
        second = raw.find(_ISS, raw.find(_ISS) + len(_ISS))  # the first says enough, and others are long
        for iss, mapped in self._mapped:
            if raw.find(iss, 0, second) >= 0 and (items := mapped.read_batch(raw)) is not None:
                return items
        return None


class _MappedReader:
    """Reads bodies that have claims of one issuer by its names; for others it returns None."""

    def __init__(self, issuer: Issuer) -> None:
        mapped = MappedClaims(issuer)
        claims = mapped.type_of(Introspect, "token", *_ENVELOPE)
        envelope = msgspec.defstruct(
            "MappedEnvelope",
            [("claims", mapped.type_of(Payload)), ("header", Header)],
            bases=(Introspect,),
            frozen=True,
            kw_only=True,
            gc=False,
            omit_defaults=True,
        )
        self._decode_claims, self._decode_list_of_claims = _decoders(claims)
        self._decode_envelope, self._decode_envelopes = _decoders(cast("type[Introspect]", envelope))

    def read(self, raw: bytes) -> Parsed | None:
        decode = self._decode_envelope if raw[:9] in _ENVELOPE_BEGINS else self._decode_claims
        try:
            asked = decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return None
        return asked, bodies.refuse_ambiguous(raw, asked)

    def read_batch(self, raw: bytes) -> Sequence[Parsed] | None:
        """As :meth:`read`; all items are of one form."""
        first = raw.find(b"{", 1)
        wrapped = raw[first : first + 9] in _ENVELOPE_BEGINS
        decode = self._decode_envelopes if wrapped else self._decode_list_of_claims
        try:
            batch = decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return None
        tokens: list[Introspect] = batch.tokens
        if bodies.is_unambiguous(raw, batch):
            return [(asked, asked) for asked in tokens]
        if len(raw) <= bodies.BODY_LIMIT and bodies.is_unambiguous(raw, members := bodies.members_of(raw)):
            return list(zip(tokens, members["tokens"], strict=True))
        return None


def _decoders(body: type[Introspect]) -> tuple[Callable[[bytes], Introspect], Callable[[bytes], Any]]:
    """What reads a body of this type, and a batch of such."""
    tokens = Annotated[list[body], msgspec.Meta(max_length=MAX_TOKENS)]  # type: ignore[valid-type]
    batch = msgspec.defstruct("MappedBatch", [("tokens", tokens)], frozen=True)
    return msgspec.json.Decoder(body).decode, msgspec.json.Decoder(batch).decode


class Introspection:
    """Responds to introspection requests."""

    def __init__(
        self,
        *,
        authentication: Authentication,
        reader: IntrospectReader,
        sessions: SessionServices | None,
        verdicts: Verdicts,
        admission: Admission,
    ) -> None:
        self._authentication = authentication
        self._reader = reader
        self._verdicts = verdicts
        self._admission = admission
        self._sessions = sessions

    async def respond(self, request: web.Request) -> PrebuiltResponse:
        """Respond to one request, by the shortest way where a known caller sends JSON."""
        headers = request.headers
        credentials = headers.getall("Authorization", ())
        caller = self._authentication.callers.cached(credentials[0]) if len(credentials) == 1 else None
        fields = None
        if (
            caller is None
            or headers.get("Content-Type") != "application/json"
            or "Content-Encoding" in headers
            or request.raw_path != INTROSPECT
        ):
            fields, raw, caller = await self._read(request)
        else:
            if caller.rate_limit is not None:
                caller.spend_request()
            if SCOPE not in caller.scopes:
                caller.require(SCOPE)
            raw = await bodies.read_bytes(request, bodies.BODY_LIMIT)
            raw = raw.removeprefix(BOM_UTF8)
        self._admission.in_progress += 1
        try:
            if fields is not None:
                return await self.respond_to_form(fields, caller)
            asked, document = self._reader.read(raw)
            token = token_of(asked)
            if token is not None:
                return await self.respond_to_token(token, caller)
            claims, issuer = claims_of(asked, caller, document)
            judged = await self._verdicts.of_claims(claims, issuer, caller)
        finally:
            self._admission.in_progress -= 1
        return _RESPONSE_ACTIVE if judged.verdict is ACTIVE_VERDICT else _RESPONSE_INACTIVE

    async def _read(self, request: web.Request) -> tuple[bodies.Fields | None, bytes, Caller]:
        """Read a request whose caller was not seen before, or that is a form, or is refused."""
        bodies.refuse_query(request)
        fields, raw = await bodies.read(request, bodies.BODY_LIMIT)
        caller = self._authentication.authenticate(request, fields)
        caller.require(SCOPE)
        return fields, raw, caller

    def respond_to_form(self, fields: bodies.Fields, caller: Caller) -> Awaitable[PrebuiltResponse]:
        """Respond to the form of RFC 7662."""
        return self.respond_to_token(_token_of_form(fields), caller)

    async def respond_to_token(self, token: str, caller: Caller) -> PrebuiltResponse:
        """Respond to a token by its text."""
        if self._sessions is not None and looks_like(token):
            return PrebuiltResponse(
                await refresh_tokens.introspect(self._sessions, token, caller) or INACTIVE
            )
        judged = await self._verdicts.of_token(token, caller, waiting=self._admission.not_counted)
        if judged.verdict is ACTIVE_VERDICT and judged.token is not None:
            return PrebuiltResponse(judged.token.answer)
        return _RESPONSE_INACTIVE


def _token_of_form(fields: bodies.Fields) -> str:
    token = fields.get("token")
    if token is None:
        raise InvalidRequest("token is missing")
    if not CLAIMS_IN_FORMS.isdisjoint(fields):
        raise InvalidRequest("claims are beside the token: one of the two is wanted")
    return token
