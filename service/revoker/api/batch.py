"""``POST /introspect/batch``: many tokens, one lookup, answers in the same order."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Annotated, Final, cast

import msgspec
from aiohttp import web

from revoker.api import bodies, refresh_tokens
from revoker.api.admission import Admission
from revoker.api.credentials import Authentication
from revoker.api.envelope import COUNTED
from revoker.api.introspection import (
    ACTIVE,
    INACTIVE,
    MAX_TOKENS,
    SCOPE,
    Introspect,
    IntrospectReader,
    Parsed,
    claims_of,
    token_of,
)
from revoker.api.prebuilt import PrebuiltResponse
from revoker.api.session_services import SessionServices
from revoker.api.verdicts import Verdicts
from revoker.auth import Caller
from revoker.errors import InvalidRequest, KeysUnavailable
from revoker.models import ACTIVE_VERDICT, Issuer, Payload
from revoker.tokens.refresh_tokens import looks_like
from revoker.tokens.verifying import VERIFY_BATCH, VerifiedToken, Verifier, Waiting

MALFORMED: Final = b'{"error":"invalid_request"}'
NO_KEYS: Final = b'{"error":"temporarily_unavailable"}'

_BYTES_PER_TURN: Final = bodies.BODY_LIMIT
"""Of items that are read one by one before other requests get a turn of the event loop."""

_BYTES_READ_AT_ONCE: Final = 1024 * 1024
"""Bytes of a batch that is read in one turn of the event loop, if all its items are well-formed."""


class Batch(msgspec.Struct, frozen=True):
    """Up to 1,000 tokens, in either form of ``/introspect``."""

    tokens: Annotated[list[Introspect], msgspec.Meta(max_length=MAX_TOKENS)]


class RawItems(msgspec.Struct, frozen=True):
    """As ``Batch``, its items not parsed: a malformed one affects its own result only."""

    tokens: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_TOKENS)]


class RawList(msgspec.Struct, frozen=True):
    """As ``Batch``, its list not parsed."""

    tokens: msgspec.Raw


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """As ``/introspect`` answers, or ``error`` without ``active``."""

    active: bool | None = None
    error: str | None = None


class Results(msgspec.Struct, frozen=True):
    """One result for each token, in the order of the request."""

    results: list[Result]


_decode_batch: Final = msgspec.json.Decoder(Batch).decode
_decode_raw_items: Final = msgspec.json.Decoder(RawItems)
_decode_list: Final = msgspec.json.Decoder(RawList)

Checked = tuple[Payload, Issuer, VerifiedToken | None]


class BatchIntrospection:
    """Responds to batches."""

    def __init__(
        self,
        *,
        authentication: Authentication,
        reader: IntrospectReader,
        sessions: SessionServices | None,
        verifier: Verifier,
        verdicts: Verdicts,
        admission: Admission,
    ) -> None:
        self._authentication = authentication
        self._reader = reader
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
        items = await _items_in_turns(raw, self._reader)
        if caller.rate_limit is not None:
            caller.rate_limit.charge(len(items) - 1)
        answers = [INACTIVE] * len(items)
        checked: list[Checked] = []
        places: list[int] = []
        unverified: list[tuple[int, str]] = []
        read_in_this_turn = 0
        for index, item in enumerate(items):
            if isinstance(item, bytes):
                read_in_this_turn += len(item) + 1024  # a short one takes its time, too
                if read_in_this_turn > _BYTES_PER_TURN:
                    await asyncio.sleep(0)
                    read_in_this_turn = len(item)
            outcome = self._check(item, caller)
            if type(outcome) is tuple:
                checked.append(outcome)
                places.append(index)
            elif isinstance(outcome, bytes):
                answers[index] = outcome
            else:
                unverified.append((index, cast("str", outcome)))
        waiting = self._admission.not_counted if request.get(COUNTED) else contextlib.nullcontext
        for start in range(0, len(unverified), VERIFY_BATCH):
            together = unverified[start : start + VERIFY_BATCH]
            outcomes = await self._check_tokens([text for _, text in together], caller, waiting)
            for (index, _), outcome in zip(together, outcomes, strict=True):
                if isinstance(outcome, bytes):
                    answers[index] = outcome
                else:
                    checked.append(outcome)
                    places.append(index)
        if unverified or read_in_this_turn:  # otherwise nothing else had a turn since they were found
            checked, places = self._without_dead_keys(checked, places)
        verdicts = await self._verdicts.of_many(checked)
        for index, (_, _, token), verdict in zip(places, checked, verdicts, strict=True):
            if verdict is ACTIVE_VERDICT:
                answers[index] = ACTIVE if token is None else token.answer
        return PrebuiltResponse(b'{"results":[' + b",".join(answers) + b"]}")

    def _without_dead_keys(
        self, checked: Sequence[Checked], places: Sequence[int]
    ) -> tuple[list[Checked], list[int]]:
        """Without tokens whose key has left its set while others were verified: these are not active."""
        left = [(item, index) for item, index in zip(checked, places, strict=True) if _has_live_key(item)]
        for _ in range(len(checked) - len(left)):
            self._verdicts.invalid()
        return [item for item, _ in left], [index for _, index in left]

    def _check(self, item: Parsed | bytes, caller: Caller) -> Checked | bytes | str:
        """What to look up for one item; or its answer, where that is certain; or a token to verify."""
        try:
            asked, document = item if type(item) is tuple else _read(cast("bytes", item), self._reader)
            text = None if asked.token is None else token_of(asked)
            if text is not None:
                token = self._verifier.cached(text)
                return text if token is None else self._checked(token, caller)
            claims, issuer = claims_of(asked, caller, document)
        except InvalidRequest:
            return MALFORMED
        if issuer is None or (caller.audiences and not caller.may_see(claims.aud)):
            self._verdicts.foreign()
            return INACTIVE
        return claims, issuer, None

    async def _check_tokens(
        self, texts: Sequence[str], caller: Caller, waiting: Waiting
    ) -> list[Checked | bytes]:
        """As :meth:`_check`, for tokens that were not verified before."""
        found: dict[str, Checked | bytes] = {}
        if self._sessions is not None:
            for text in filter(looks_like, texts):
                found[text] = await refresh_tokens.introspect(self._sessions, text, caller) or INACTIVE
        asked = [text for text in texts if text not in found]
        for text, token in zip(asked, await self._verifier.verify_all(asked, waiting), strict=True):
            if isinstance(token, VerifiedToken):
                found[text] = self._checked(token, caller)
            elif isinstance(token, KeysUnavailable):
                found[text] = NO_KEYS
            else:
                self._verdicts.invalid()
                found[text] = INACTIVE
        return [found[text] for text in texts]

    def _checked(self, token: VerifiedToken, caller: Caller) -> Checked | bytes:
        claims = token.claims
        if claims.iss not in caller.issuers or not caller.may_see(claims.aud):
            self._verdicts.foreign()
            return INACTIVE
        return claims, token.issuer, token


def _has_live_key(item: Checked) -> bool:
    token = item[2]
    return token is None or token.key.live


async def _items_in_turns(raw: bytes, reader: IntrospectReader) -> Sequence[Parsed | bytes]:
    """As :func:`_items`; a long batch is read in several turns of the event loop."""
    if len(raw) <= _BYTES_READ_AT_ONCE:
        return _items(raw, reader)
    _validate_around_list(raw)
    await asyncio.sleep(0)
    return _raw_items(raw)


def _items(raw: bytes, reader: IntrospectReader) -> Sequence[Parsed | bytes]:
    """The items of a batch, parsed if all are well-formed; otherwise raw, to be parsed one by one."""
    try:
        items = reader.read_batch(raw)
        if items is not None:
            return items
        batch = _decode_batch(raw)
        if bodies.is_unambiguous(raw, batch):
            return [(asked, asked) for asked in batch.tokens]
        if len(raw) <= bodies.BODY_LIMIT and bodies.is_unambiguous(raw, members := bodies.members_of(raw)):
            return list(zip(batch.tokens, members["tokens"], strict=True))
    except (msgspec.MsgspecError, RecursionError, UnicodeError, InvalidRequest):
        pass  # at least one is malformed
    _validate_around_list(raw)
    return _raw_items(raw)


def _read(item: bytes, reader: IntrospectReader) -> Parsed:
    if len(item) > bodies.BODY_LIMIT:
        raise InvalidRequest("longer than a body may be that asks for one token")
    return reader.read(item)


def _raw_items(raw: bytes) -> Sequence[bytes]:
    return [bytes(item) for item in bodies.decoded(raw, _decode_raw_items).tokens]


def _validate_around_list(raw: bytes) -> None:
    """Apply the rules for any body to what surrounds the list of tokens."""
    items = bytes(bodies.decoded(raw, _decode_list).tokens)
    if len(raw) - len(items) + len(b"[]") > bodies.BODY_LIMIT:
        raise InvalidRequest("there is too much beside the list of tokens")
    start = _find(items, raw)
    bodies.refuse_duplicates(raw[:start] + b"[]" + raw[start + len(items) :])


def _find(part: bytes, whole: bytes) -> int:
    """As ``whole.index(part)``, which is slow to prepare for a long part."""
    beginning = part[:64]
    start = whole.index(beginning)
    while not whole.startswith(part, start):
        start = whole.index(beginning, start + 1)
    return start
