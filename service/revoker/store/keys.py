"""Every Redis key, as DESIGN §4 lists them: bounded in length, and no two things share one.

``rv:jti:<issuer>:<jti>``
    ms of revocation; until 60 s after the token can last be active.
``rv:session-cutoff:<issuer>:<sid>``, ``rv:client-cutoff:<issuer>:<client>``, ``rv:issuer-cutoff:<issuer>``
    ms, then a space and the reason where one was given; until cutoff + horizon + skew + leeway + 60 s.
``rv:{<u>}:user``
    JSON of :class:`revoker.models.UserStanding`; with the last of its cutoffs, or its block.
``rv:{<u>}:session-cutoff:<sid>``
    As above, for sessions kept here.
``rv:{<u>}:session:<sid>``
    One session kept here (:mod:`revoker.store.sessions`); until it ends or has been idle too long.
``rv:{<u>}:session:<sid>:<generation>``
    Empty: that refresh token was used, and the use is not confirmed; gone once it is, or with the session.
``rv:{<u>}:sessions``
    Sorted set of the user's ``sid`` by their latest end, ms; until the last of them has ended.
``rv:keys:<issuer>``
    JSON, ``{kid: [ms, reason]}``; never expires.
``rv:blocks``
    Hash, ``u`` to the ms until which the user is blocked; never expires, but blocks that have ended leave.
``rv:epoch``
    Id, when data was last found missing (ms), cutoff (ms), finding; never expires.
``rv:settings``
    JSON of :class:`revoker.store.issuer_records.Record` by issuer name; never expires.
``rv:lifted``
    Sorted set by ms of the cutoffs that were lifted of late, each ``rv:seq`` and key; an hour.
``rv:lifted:<request>``
    The result of a request that took something back; a minute.
``rv:refills``
    Hash, a process that puts back what it knows to the id of that and ms; a day after the last.
``rv:seq``, ``rv:seq:<instance>``
    Revocations stored in all, and by one process; the second for a day after its last write.
``rv:beat:<instance>``
    Written again and again where replicas confirm changes, so that they show themselves; for 10 s.
``rv:latest``
    The latest time (ms) that any server of the store has shown, where sessions are kept here; for 5 minutes
    after that. A server that takes over with a slower clock does not know it.

In a cluster every slot is a data set of its own: ``rv:epoch``, the last five, and ``rv:blocks`` with the
users of the slot, stand in each, as ``rv:{<tag>}:epoch`` with the slot's tag of :func:`slot_tags`.
"""

import base64
import binascii
import functools
import hashlib
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from revoker.bounded_cache import CACHED_CHARACTERS, cached_where_short
from revoker.models import Issuer, Payload

_PLAIN: Final = re.compile(r"[A-Za-z0-9\-._~:@/|+][A-Za-z0-9\-._~:@/|+=]{0,127}").fullmatch

_SID: Final = re.compile(r"[A-Za-z0-9_-]{37}[AQgw]").fullmatch
"""28 bytes in base64url; the last character has four bits that stand for nothing, and are zero."""

SLOTS: Final = 16384
"""Hash slots of a cluster, each kept by one primary at a time."""

_UNDER_ISSUERS: Final = {"jti", "session-cutoff", "client-cutoff", "issuer-cutoff", "keys"}
_NO_REVOCATIONS: Final = {"epoch", "seq", "beat", "lifted", "refills", "settings", "blocks", "latest"}
"""A block stands in the user's record, too."""

SID_BYTES: Final = 28
TAG_BYTES: Final = 12


def segment(value: str) -> str:
    """The form in which a value stands in a key: itself where that is short and safe, else a digest."""
    if _PLAIN(value):
        return value
    return "=" + _base64url(hashlib.sha256(value.encode()).digest())


def user_tag(iss: str, sub: str) -> str:
    """``u``: what all keys of one user share as their hash tag.

    base64url of the first 96 bits of SHA-256 over the length of ``iss`` in characters, a colon,
    ``iss`` and ``sub``: no two pairs give the same text.
    """
    return _cached_tag(iss, sub) if len(sub) <= CACHED_CHARACTERS else _tag(iss, sub)


def _tag(iss: str, sub: str) -> str:
    return _base64url(hashlib.sha256(f"{len(iss)}:{iss}{sub}".encode()).digest()[:TAG_BYTES])


_cached_tag: Final = functools.lru_cache(maxsize=16384)(_tag)


@cached_where_short(16384, 64, len)
def tag_and_start(sid: str) -> tuple[str, int] | None:
    """The user's tag and the start in ms that a ``sid`` minted here carries; None for any other."""
    if not _SID(sid):
        return None
    return sid[8:24], int.from_bytes(base64.urlsafe_b64decode(sid[:8]), "big")


def slot_of(key: str) -> int:
    """The slot in which a key lies: CRC16 (XMODEM) of its hash tag, or of all of it where it has none."""
    _, brace, rest = key.partition("{")
    tag, end, _ = rest.partition("}")
    return binascii.crc_hqx((tag if brace and end and tag else key).encode(), 0) % SLOTS


@functools.cache
def slot_tags() -> tuple[str, ...]:
    """For every slot a hash tag that lies there: the first number, in hex, that does."""
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < SLOTS:
        tag = f"{number:x}"
        tags.setdefault(binascii.crc_hqx(tag.encode(), 0) % SLOTS, tag)
        number += 1
    return tuple(tags[slot] for slot in range(SLOTS))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Held:
    """What one key holds: the first part of its name, whose it is, and the value of free length.

    Attributes:
        issuer: Its name; of what belongs to one user it is not known.
        value: The ``u`` of a user; else as it stands in the key, ``=`` and a digest where it was replaced.
    """

    kind: str
    issuer: str
    value: str


class Tail(NamedTuple):
    """What every reading of a data set brings, and every change of it reads or raises."""

    epoch: str
    seq: str
    share: str


class DataKeys:
    """The keys that every data set has once: in a cluster in every slot."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.epoch: Final = f"{place}:epoch"
        self.seq: Final = f"{place}:seq"
        self.blocks: Final = f"{place}:blocks"
        self.lifted: Final = f"{place}:lifted"
        self.refills: Final = f"{place}:refills"

    def share(self, instance: str) -> str:
        return f"{self._place}:seq:{instance}"

    def beat(self, instance: str) -> str:
        return f"{self._place}:beat:{instance}"

    def tail(self, instance: str) -> Tail:
        return Tail(self.epoch, self.seq, self.share(instance))


class Keys(DataKeys):
    """Builds keys under one prefix, and takes them apart."""

    def __init__(self, prefix: str, *, clustered: bool = False) -> None:
        super().__init__(prefix)
        self._prefix = prefix
        self.clustered: Final = clustered
        self.settings: Final = f"{prefix}:settings"
        self._user_of = functools.lru_cache(maxsize=16384)(self._make_user_of)
        self._shared = functools.lru_cache(maxsize=1024)(self._make_shared)

    def all(self) -> str:
        """A pattern that every key fits."""
        return f"{self._prefix}:*"

    def part(self, key: str) -> int:
        """Of which data set a key is part: in a cluster of that of its slot, else of the one."""
        return slot_of(key) if self.clustered else 0

    def in_part(self, part: int) -> DataKeys:
        """Of one data set."""
        return DataKeys(f"{self._prefix}:{{{slot_tags()[part]}}}") if self.clustered else self

    def beside(self, key: str) -> DataKeys:
        """Of the data set of which a key is part."""
        return self.in_part(slot_of(key)) if self.clustered else self

    def jti(self, issuer: Issuer, jti: str) -> str:
        return f"{self._prefix}:jti:{issuer.name}:{segment(jti)}"

    def of_user(self, tag: str) -> str:
        """What all keys of one user begin with."""
        return f"{self._prefix}:{{{tag}}}"

    def user(self, tag: str) -> str:
        return f"{self._prefix}:{{{tag}}}:user"

    def sessions(self, tag: str) -> str:
        return f"{self._prefix}:{{{tag}}}:sessions"

    def session(self, tag: str, sid: str) -> str:
        return f"{self._prefix}:{{{tag}}}:session:{sid}"

    def of_refresh(self, tag: str, sid: str, generation: int) -> tuple[str, str, str, str, str]:
        """What a refresh reads and writes.

        Returns:
            The session, its cutoff, the user, the user's sessions, and the mark of a use of this generation
            that is not confirmed.
        """
        user = f"{self._prefix}:{{{tag}}}:"
        session = f"{user}session:{sid}"
        return (
            session,
            f"{user}session-cutoff:{sid}",
            f"{user}user",
            f"{user}sessions",
            f"{session}:{generation}",
        )

    def user_of(self, issuer: Issuer, sub: str) -> str:
        return self.user(user_tag(issuer.iss, sub))

    def session_cutoff(self, issuer: Issuer, sid: str) -> str:
        """Of a session kept here with the user's keys, of any other by itself."""
        own = tag_and_start(sid) if issuer.own else None
        if own is None:
            return f"{self._prefix}:session-cutoff:{issuer.name}:{segment(sid)}"
        return f"{self._prefix}:{{{own[0]}}}:session-cutoff:{sid}"

    @property
    def latest(self) -> str:
        return f"{self._prefix}:latest"

    def client_cutoff(self, issuer: Issuer, client: str) -> str:
        return f"{self._prefix}:client-cutoff:{issuer.name}:{segment(client)}"

    def issuer_cutoff(self, issuer: Issuer) -> str:
        return f"{self._prefix}:issuer-cutoff:{issuer.name}"

    def revoked_keys(self, issuer: Issuer) -> str:
        return f"{self._prefix}:keys:{issuer.name}"

    def of_segment(self, kind: str, issuer: Issuer, segment: str) -> str:
        """What stands under an issuer's name, by the value as it stands in the key."""
        return f"{self._prefix}:{kind}:{issuer.name}:{segment}"

    def held(self, key: str) -> Held | None:
        """What a key holds; None where that is no revocation.

        Raises:
            ValueError: it is none of ours.
        """
        kind, _, rest = key.removeprefix(f"{self._prefix}:").partition(":")
        if kind in _NO_REVOCATIONS:
            return None
        if kind in _UNDER_ISSUERS:
            issuer, _, value = rest.partition(":")
            return Held(kind, issuer, value)
        if kind[:1] == "{" and len(kind) != 2 + 16 and rest.partition(":")[0] in _NO_REVOCATIONS:
            return None  # of the data set in a slot
        if len(kind) == 2 + 16 and kind[0] == "{":
            tag = kind[1:-1]
            kind, _, value = rest.partition(":")
            if kind == "user":
                return Held(kind, "", tag)
            if kind == "session-cutoff":
                return Held(kind, "", value)
            if kind in {"sessions", "session"}:
                return None
        raise ValueError(key)

    def named(self, name: str) -> list[str]:
        """Patterns of all keys that an issuer's name is part of; those of jtis first."""
        kinds = ("jti", "session-cutoff", "client-cutoff")
        return [
            *(f"{self._prefix}:{kind}:{name}:*" for kind in kinds),
            f"{self._prefix}:issuer-cutoff:{name}",
            f"{self._prefix}:keys:{name}",
        ]

    def renamed(self, key: str, old: str, new: str) -> str:
        """One of those keys under another name."""
        kind, _, value = key.removeprefix(f"{self._prefix}:").partition(":")
        return f"{self._prefix}:{kind}:{new}{value.removeprefix(old)}"

    def of_token(self, claims: Payload, issuer: Issuer) -> "TokenKeys":
        """What must be read to judge a token, in the order of :class:`revoker.models.Standing`."""
        jti, sub, sid = claims.jti, claims.sub, claims.sid
        client = claims.client_id or claims.azp
        shared_of = self._shared if not client or len(client) <= CACHED_CHARACTERS else self._make_shared
        listed, session, shared = shared_of(issuer.name, client)
        if not sid:
            cutoff = None
        elif issuer.own:
            cutoff = self.session_cutoff(issuer, sid)
        else:
            cutoff = session + segment(sid)
        return (
            listed + segment(jti) if jti else None,
            (self._user_of if len(sub) <= CACHED_CHARACTERS else self._make_user_of)(issuer.iss, sub)
            if sub
            else None,
            cutoff,
            *shared,
        )

    def of_client(self, issuer: Issuer, client: str, tag: str) -> "TokenKeys":
        """What must be read to judge a client of an issuer and the data set of a user, as :meth:`of_token`.

        Args:
            issuer: Of the client.
            client: Empty: none.
            tag: The user's. Where there is but one data set all users share what is read.
        """
        shared_of = self._shared if len(client) <= CACHED_CHARACTERS else self._make_shared
        user = self.user(tag) if self.clustered else None
        return (None, user, None, *shared_of(issuer.name, client)[2])

    def _make_user_of(self, iss: str, sub: str) -> str:
        return self.user(user_tag(iss, sub))

    def _make_shared(self, name: str, client: str | None) -> tuple[str, str, tuple[str | None, str, str]]:
        """What many tokens share.

        Returns:
            What a jti's and a session cutoff's key begin with; the cutoff of the client, that of the
            issuer, and its revoked keys.
        """
        return (
            f"{self._prefix}:jti:{name}:",
            f"{self._prefix}:session-cutoff:{name}:",
            (
                f"{self._prefix}:client-cutoff:{name}:{segment(client)}" if client else None,
                f"{self._prefix}:issuer-cutoff:{name}",
                f"{self._prefix}:keys:{name}",
            ),
        )


TokenKeys = tuple[str | None, str | None, str | None, str | None, str | None, str | None]
