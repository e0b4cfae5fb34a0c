"""``POST /introspect/batch``: many tokens, one lookup, answers in the same order."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Annotated, Final, cast

import msgspec
from aiohttp import web

from revoker.api import bodies, refresh_tokens
from revoker.api.admission import Admission
from revoker.api.authentication import Authentication
from revoker.api.envelope import COUNTED
from revoker.api.introspection import (
    ACTIVE,
    INACTIVE,
    SCOPE,
    Introspect,
    claims_of,
    issuer_of_claims,
    token_of,
)
from revoker.api.prebuilt import PrebuiltResponse
from revoker.api.session_services import SessionServices
from revoker.api.verdicts import Verdicts
from revoker.auth import Caller
from revoker.errors import InvalidRequest, KeysUnavailable
from revoker.models import Issuer, Payload, Verdict
from revoker.tokens.refresh_tokens import looks_like
from revoker.tokens.verifying import VERIFY_BATCH, VerifiedToken, Verifier, Waiting

MALFORMED: Final = b'{"error":"invalid_request"}'
NO_KEYS: Final = b'{"error":"temporarily_unavailable"}'

_BYTES_AT_ONCE: Final = bodies.BODY_LIMIT
"""Of items read one by one before other requests get their turn of the event loop; one may be as long."""

_READ_WHOLE: Final = 1024 * 1024
"""Bytes of a batch that is read in one turn of the event loop where all its items are sound."""


class Batch(msgspec.Struct, frozen=True):
    """Up to 1,000 tokens, each in either form of ``/introspect``."""

    tokens: Annotated[list[Introspect], msgspec.Meta(max_length=1000)]


class Unread(msgspec.Struct, frozen=True):
    """As ``Batch``, its items not looked at yet: a malformed one spoils its own result only."""

    tokens: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=1000)]


class AsWritten(msgspec.Struct, frozen=True):
    """As ``Batch``, its list not looked into."""

    tokens: msgspec.Raw


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """As ``/introspect`` answers, or ``error`` without ``active``."""

    active: bool | None = None
    error: str | None = None


class Results(msgspec.Struct, frozen=True):
    """One result for each token, in the order of the request."""

    results: list[Result]


_decode_batch: Final = msgspec.json.Decoder(Batch).decode
_decode_unread: Final = msgspec.json.Decoder(Unread)
_decode_list: Final = msgspec.json.Decoder(AsWritten)
_decode_item: Final = msgspec.json.Decoder(Introspect)

Checked = tuple[Payload, Issuer, VerifiedToken | None]


class BatchIntrospection:
    """Answers batches."""

    def __init__(
        self,
        *,
        authentication: Authentication,
        sessions: SessionServices | None,
        verifier: Verifier,
        verdicts: Verdicts,
        admission: Admission,
    ) -> None:
        self._authentication = authentication
        self._verifier = verifier
        self._verdicts = verdicts
        self._admission = admission
        self._sessions = sessions

    async def respond(self, request: web.Request) -> PrebuiltResponse:
        """Respond to one batch; raises for all of it only where the store gave no verdict."""
        bodies.refuse_query(request)
        caller = self._authentication.authenticate(request, None)
        caller.require(SCOPE)
        fields, raw = await bodies.read(request, bodies.BATCH_LIMIT)
        if fields is not None:
            raise InvalidRequest("a batch is JSON")
        items = await _items_in_turns(raw)
        if caller.rate_limit is not None:
            caller.rate_limit.charge(len(items) - 1)
        answers: list[bytes] = [b""] * len(items)
        checked: dict[int, Checked] = {}
        unknown: list[tuple[int, str]] = []
        unyielded = 0
        for place, item in enumerate(items):
            if isinstance(item, bytes):
                unyielded += len(item) + 1024  # a short one takes its time, too
                if unyielded > _BYTES_AT_ONCE:
                    await asyncio.sleep(0)
                    unyielded = len(item)
            known = self._check(item, caller)
            if type(known) is tuple:
                checked[place] = known
            elif isinstance(known, bytes):
                answers[place] = known
            else:
                unknown.append((place, cast("str", known)))
        waiting = self._admission.aside if request.get(COUNTED) else contextlib.nullcontext
        for start in range(0, len(unknown), VERIFY_BATCH):
            together = unknown[start : start + VERIFY_BATCH]
            told = await self._check_tokens([text for _, text in together], caller, waiting)
            for (place, _), known in zip(together, told, strict=True):
                if isinstance(known, bytes):
                    answers[place] = known
                else:
                    checked[place] = known
        for place, (_, _, token) in list(checked.items()):
            if token is not None and not token.key.live:  # its key has left its set meanwhile
                del checked[place]
                self._verdicts.invalid()
                answers[place] = INACTIVE
        verdicts = await self._verdicts.of_many(list(checked.values()))
        for (place, (_, _, token)), verdict in zip(checked.items(), verdicts, strict=True):
            active = ACTIVE if token is None else token.answer
            answers[place] = active if verdict is Verdict.ACTIVE else INACTIVE
        return PrebuiltResponse(b'{"results":[' + b",".join(answers) + b"]}")

    def _check(self, item: Introspect | bytes, caller: Caller) -> Checked | bytes | str:
        """What is to be looked up for one item, or its answer where nothing is, or an unknown token."""
        try:
            asked = _read(item) if isinstance(item, bytes) else item
            text = token_of(asked)
            if text is not None:
                token = self._verifier.cached(text)
                return text if token is None else self._believed(token, caller)
            claims = claims_of(asked)
            issuer = issuer_of_claims(claims, caller)
        except InvalidRequest:
            return MALFORMED
        if issuer is None or (caller.audiences and not caller.may_see(claims.aud)):
            self._verdicts.foreign()
            return INACTIVE
        return claims, issuer, None

    async def _check_tokens(
        self, texts: Sequence[str], caller: Caller, waiting: Waiting
    ) -> list[Checked | bytes]:
        """As :meth:`_check`, for tokens that were not seen before."""
        found: dict[str, Checked | bytes] = {}
        if self._sessions is not None:
            for text in filter(looks_like, texts):
                found[text] = await refresh_tokens.introspect(self._sessions, text, caller) or INACTIVE
        asked = [text for text in texts if text not in found]
        for text, token in zip(asked, await self._verifier.verify_all(asked, waiting), strict=True):
            if isinstance(token, VerifiedToken):
                found[text] = self._believed(token, caller)
            elif isinstance(token, KeysUnavailable):
                found[text] = NO_KEYS
            else:
                self._verdicts.invalid()
                found[text] = INACTIVE
        return [found[text] for text in texts]

    def _believed(self, token: VerifiedToken, caller: Caller) -> Checked | bytes:
        claims = token.claims
        if claims.iss not in caller.issuers or not caller.may_see(claims.aud):
            self._verdicts.foreign()
            return INACTIVE
        return claims, token.issuer, token


async def _items_in_turns(raw: bytes) -> Sequence[Introspect | bytes]:
    """As :func:`_items`; of a long batch the steps are apart, so that other requests get their turn."""
    if len(raw) <= _READ_WHOLE:
        return _items(raw)
    _refuse_odd_surroundings(raw)
    await asyncio.sleep(0)
    return _unread_items(raw)


def _items(raw: bytes) -> Sequence[Introspect | bytes]:
    """The items of a batch, read where all are sound; else as they came, to be read one by one."""
    try:
        batch = _decode_batch(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        batch = None
    if batch is not None and bodies.is_unambiguous(raw, batch):
        return batch.tokens
    _refuse_odd_surroundings(raw)
    return _unread_items(raw)


def _unread_items(raw: bytes) -> Sequence[bytes]:
    return [bytes(item) for item in bodies.decoded(raw, _decode_unread).tokens]


def _refuse_odd_surroundings(raw: bytes) -> None:
    """Read what is beside the list of tokens as strictly as any body."""
    written = bytes(bodies.decoded(raw, _decode_list).tokens)
    if len(raw) - len(written) + len(b"[]") > bodies.BODY_LIMIT:
        raise InvalidRequest("there is too much beside the list of tokens")
    start = _place_of(written, raw)
    bodies.refuse_duplicates(raw[:start] + b"[]" + raw[start + len(written) :])


def _place_of(part: bytes, whole: bytes) -> int:
    """As ``whole.index(part)``, which takes long to prepare where the part is long."""
    beginning = part[:64]
    start = whole.index(beginning)
    while not whole.startswith(part, start):
        start = whole.index(beginning, start + 1)
    return start


def _read(item: bytes) -> Introspect:
    if len(item) > bodies.BODY_LIMIT:
        raise InvalidRequest("longer than a body may be that asks for one token")
    asked = bodies.decoded(item, _decode_item)
    bodies.refuse_ambiguous(item, asked)
    return asked
