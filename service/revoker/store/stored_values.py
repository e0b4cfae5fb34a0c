"""Decodes the values of keys that apply to tokens, and the store's time."""

import functools
from typing import Any, Final

import msgspec
import structlog

from revoker.bounded_cache import cached_where_short
from revoker.errors import StoreRefused
from revoker.models import Revocation, RevocationState, UserState

_log = structlog.get_logger("store")


def parse_revocation_state(values: list[bytes | None], loss: int) -> RevocationState:
    """What applies to a token, by the values of its keys; raises ``StoreRefused`` if one is malformed."""
    jti, user, session, client, issuer, keys, *claims = values
    try:
        return RevocationState(
            jti=None if jti is None else parse_revocation(jti),
            user=None if user is None else parse_user_state(user),
            session=None if session is None else parse_revocation(session),
            client=None if client is None else parse_revocation(client),
            issuer=None if issuer is None else parse_revocation(issuer),
            claims=_claim_cutoffs(claims) if claims else (),
            keys={} if keys is None else revoked_keys(keys),
            loss=loss,
        )
    except (ValueError, msgspec.MsgspecError) as error:
        _log.error("store_unreadable", error=str(error))
        raise StoreRefused("the store holds what can't be read") from error


def _claim_cutoffs(values: list[bytes | None]) -> tuple[Revocation | None, ...]:
    if values.count(None) == len(values):
        return ()
    return tuple(None if value is None else parse_revocation(value) for value in values)


@cached_where_short(4096, 128, len)
def parse_revocation(value: bytes) -> Revocation:
    """Decode a time in ms, followed by a space and a reason where one was given."""
    at, _, reason = value.decode().partition(" ")
    return Revocation(int(at), reason)


parse_user_state: Final = msgspec.json.Decoder(UserState).decode
revoked_keys: Final = functools.lru_cache(maxsize=64)(msgspec.json.Decoder(dict[str, Revocation]).decode)


def checked_values(reply: Any, count: int) -> list[bytes | None]:
    """The values in a reply to ``MGET``.

    Raises:
        ValueError: it has another number of values.
        TypeError: it is no list, or something in it is no value.
    """
    if len(reply) != count:
        raise ValueError("a reply to MGET with another number of values")
    if not all(value is None or isinstance(value, bytes) for value in reply):
        raise TypeError("a reply to MGET with something else than values")
    return list(reply)


def redis_time_ms(reply: list[bytes]) -> int:
    """Decode a reply to ``TIME``."""
    return int(reply[0]) * 1000 + int(reply[1]) // 1000
