"""The record of a session in the store: ``store/lua/session.lua`` writes and changes it."""

from typing import Any, Final

import msgspec

from revoker.errors import StoreRefused
from revoker.models import Session

Header = tuple[int, int, int, int, int]
"""The generation, when that was first given out, last use and end (ms after the start), and auth_time
(s after the start's)."""


class Profile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    sub: str
    client_id: str
    scope: str
    aud: tuple[str, ...]
    device: str
    ip: str
    user_agent: str


class ProfileWithClaims(Profile, frozen=True, array_like=True, gc=False):
    claims: dict[str, Any] = {}


class Auth(msgspec.Struct, frozen=True, array_like=True, gc=False):
    amr: tuple[str, ...]
    acr: str


_profile: Final = msgspec.json.Decoder(ProfileWithClaims).decode
_auth: Final = msgspec.json.Decoder(Auth).decode


def read_session(sid: str, start: int, text: bytes) -> Session:
    """Read the record of a session.

    Raises:
        StoreRefused: it can't be read.
    """
    try:
        generation, given, used, ends, auth_time, length, rest = text.split(b" ", 6)
        header = int(generation), int(given), int(used), int(ends), int(auth_time)
        size = int(length)
        return session_of(sid, start, header, _auth(rest[:size]), _profile(rest[size:]))
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise StoreRefused("the store holds a session that can't be read") from error


def session_of(sid: str, start: int, header: Header, auth: Auth, profile: Profile) -> Session:
    generation, _, used, ends, auth_time = header
    return Session(
        sid=sid,
        sub=profile.sub,
        client_id=profile.client_id,
        scope=profile.scope,
        aud=profile.aud,
        amr=auth.amr,
        acr=auth.acr,
        device=profile.device,
        ip=profile.ip,
        user_agent=profile.user_agent,
        start=start,
        used=start + used,
        ends=start + ends,
        auth_time=start // 1000 + auth_time,
        generation=generation,
        claims=profile.claims if isinstance(profile, ProfileWithClaims) else {},
    )
