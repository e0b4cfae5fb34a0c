"""Every Redis key: bounded in length, and no two things share one. ``rv`` is the configured prefix.

``rv:jti:<issuer>:<jti>``
    Time of the revocation (ms). Expires 60 s after the token can last be active.
``rv:session-cutoff:<issuer>:<sid>``, ``rv:client-cutoff:<issuer>:<client>``, ``rv:issuer-cutoff:<issuer>``
    Time of the cutoff (ms), then a space and the reason if there is one. Expires after the cutoff, by
    horizon + skew + leeway + 60 s.
``rv:claim-cutoff:<issuer>:<claim>:<value>``
    As above, for a value of a revocable claim. The name of the claim has no colon, or is a digest.
``rv:{<u>}:user``
    JSON of the user's cutoffs and block. Expires as the last of the cutoffs and the block.
``rv:{<u>}:session-cutoff:<sid>``
    As above, for sessions held by this service.
``rv:{<u>}:session:<sid>``
    One session held by this service (:mod:`revoker.store.sessions`). Expires at its end or idle time-out.
``rv:{<u>}:session:<sid>:<generation>``
    Empty: the refresh token of this generation was used, and the use is not confirmed. Deleted when it is;
    expires as the session.
``rv:{<u>}:sessions``
    Sorted set of the user's ``sid``, by the end of each session (ms). Expires when the last has ended.
``rv:keys:<issuer>``
    JSON of the revoked signing keys, ``{kid: [ms, reason]}``. Never expires.
``rv:audit:{<key>}``, ``rv:{<u>}:audit:<rest of a key>``
    Who made the revocation that has this key, and when (:mod:`revoker.store.audit`); in its slot. Of a block
    ``:block`` follows, of a revoked signing key ``:<kid>``, after the hash tag. Expires as the revocation. No
    verdict reads it.
``rv:blocks``
    Hash of the blocked users, ``u`` to the end of the block (ms). Never expires; ended blocks are removed.
``rv:epoch``
    Id of the data set, when data was last found missing (ms), cutoff (ms), finding. Never expires.
``rv:settings``
    JSON of :class:`revoker.store.issuer_records.IssuerRecord` by issuer name. Never expires.
``rv:lifted``
    Sorted set of the recently lifted cutoffs, ``rv:seq`` and key, by when they were lifted (ms); for an hour.
``rv:lifted:<request>``
    Result of a request that undid a revocation, so that repeating it is idempotent; for a minute.
``rv:refills``
    Hash of the processes that write their revocations again after a loss, to an id and the time (ms); for a
    day after the last.
``rv:seq``, ``rv:seq:<instance>``
    Number of revocations stored in all, and by one process; the second for a day after its last write.
``rv:writers``
    The same by all processes that write and have not ended, `` id count id count``. Never expires.
``rv:instances``
    Hash of the running processes: when they were last seen (ms), the id of the server at which they have
    found all that they knew, and what they repair (:mod:`revoker.store.instances`). Never expires; ended
    processes are removed.
``rv:repair``
    Hash of what the processes contribute to the repair of a loss (:mod:`revoker.store.consistency.repair`);
    for a day.
``rv:beat:<instance>``
    Written repeatedly where replicas confirm changes, so that they are seen to do so; for 10 s.
``rv:journal``
    Stream of the latest changes (:mod:`revoker.store.journal`): key, value, expiry and what was undone. Never
    expires; old entries are removed. In a cluster ``rv:{journal}:journal``, for the changes of all slots.
``rv:consumers``
    Hash of the processes that have consumers of the feed, to when they have said so (ms) and JSON of
    :class:`revoker.store.journal.shared_consumers.ConsumerState`; for a minute after the last. In a cluster
    ``rv:{journal}:consumers``. No verdict reads it.
``rv:console:<kind>:<digest>``
    JSON of the console (:mod:`revoker.store.console_records`): a sign-in in progress (``sign-in``), who is
    signed in (``session``), what became of a form (``form``). The digest is that of a random name which the
    browser has. Expires. No revocation, and not counted in ``rv:seq``.
``rv:latest``
    The latest time (ms) that any server of the store has reported, where this service holds sessions; for
    5 minutes after that. A server that takes over with a slower clock does not know it.

In a cluster every slot is a data set of its own. Each has its own ``rv:epoch``, ``rv:seq``, ``rv:writers``,
``rv:lifted``, ``rv:refills``, ``rv:repair`` and ``rv:beat``, and ``rv:blocks`` with the users of the slot, as
``rv:{<tag>}:epoch`` with the slot's tag of :func:`slot_tags`.
"""

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from revoker.bounded_cache import CACHED_CHARACTERS, cached_where_short
from revoker.models import ClaimNames, Issuer, Payload, RevocableClaims, RevocableValues
from revoker.rules import revocable_value

_PLAIN: Final = re.compile(r"[A-Za-z0-9\-._~:@/|+][A-Za-z0-9\-._~:@/|+=]{0,127}").fullmatch

_PLAIN_CLAIM: Final = re.compile(r"[A-Za-z0-9_.\-]{1,64}").fullmatch

_SID: Final = re.compile(r"[A-Za-z0-9_-]{37}[AQgw]").fullmatch
"""28 bytes in base64url; the last four bits of the last character are unused, and zero."""

SLOTS: Final = 16384
"""Hash slots of a cluster, each kept by one primary at a time."""

_UNDER_ISSUERS: Final = {"jti", "session-cutoff", "client-cutoff", "claim-cutoff", "issuer-cutoff", "keys"}
_OTHER_KINDS: Final = {
    "epoch", "seq", "writers", "beat", "lifted", "refills", "repair", "instances", "settings", "blocks",
    "latest", "journal", "consumers", "audit", "console",
}  # fmt: skip
"""Keys that an export does not need; a block is part of the user's record, too."""

TAG_BYTES: Final = 12
SID_CHARACTERS: Final = 38
TAG_CHARACTERS: Final = 16


def segment(value: str) -> str:
    """The form of a value in a key: itself if it is short and safe, else a digest."""
    if _PLAIN(value):
        return value
    return _digest(value)


def claim_segment(name: str) -> str:
    """The form of a claim's name in a key, where a value follows: without a colon."""
    return name if _PLAIN_CLAIM(name) else _digest(name)


def _digest(value: str) -> str:
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
    """The user's tag and the start in ms in a ``sid`` of this service; None for any other."""
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


class Held(msgspec.Struct, frozen=True, gc=False):
    """The parts of a key that holds a revocation.

    Attributes:
        issuer: Its name; empty for keys of one user.
        value: The ``u`` of a user; else the last part of the key, which may be a digest of :func:`segment`.
        claim: The name of a claim, by :func:`claim_segment`; empty for other keys.
    """

    kind: str
    issuer: str
    value: str
    claim: str = ""


class Tail(NamedTuple):
    """The keys at the end of every reading and every script of a data set."""

    epoch: str
    seq: str
    share: str
    writers: str


class DataKeys:
    """The keys that every data set has once; in a cluster every slot is one."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.epoch: Final = f"{place}:epoch"
        self.seq: Final = f"{place}:seq"
        self.blocks: Final = f"{place}:blocks"
        self.lifted: Final = f"{place}:lifted"
        self.refills: Final = f"{place}:refills"
        self.writers: Final = f"{place}:writers"
        self.repair: Final = f"{place}:repair"

    def share(self, instance: str) -> str:
        return f"{self._place}:seq:{instance}"

    def beat(self, instance: str) -> str:
        return f"{self._place}:beat:{instance}"

    def tail(self, instance: str) -> Tail:
        return Tail(self.epoch, self.seq, self.share(instance), self.writers)


_KeysOfValues = Callable[[RevocableValues], tuple[str, ...]]


class Keys(DataKeys):
    """Builds and parses keys under one prefix."""

    def __init__(self, prefix: str, *, clustered: bool = False) -> None:
        super().__init__(prefix)
        self.prefix: Final = prefix
        self._prefix = prefix
        self.clustered: Final = clustered
        self.settings: Final = f"{prefix}:settings"
        self.instances: Final = f"{prefix}:instances"
        of_the_feed = f"{prefix}:{{journal}}" if clustered else prefix
        self.journal: Final = f"{of_the_feed}:journal"
        self.consumers: Final = f"{of_the_feed}:consumers"
        self._user_of = functools.lru_cache(maxsize=16384)(self._make_user_of)
        self._of_values: dict[str, tuple[ClaimNames, _KeysOfValues]] = {}
        self._cached_claim_key = functools.lru_cache(maxsize=16384)(self._make_claim_key)
        self._shared = functools.lru_cache(maxsize=1024)(self._make_shared)

    def all(self) -> str:
        """A pattern that matches every key."""
        return f"{self._prefix}:*"

    def part(self, key: str) -> int:
        """The number of a key's data set: in a cluster its slot, else 0."""
        return slot_of(key) if self.clustered else 0

    def in_part(self, part: int) -> DataKeys:
        """The keys of one data set."""
        return DataKeys(f"{self._prefix}:{{{slot_tags()[part]}}}") if self.clustered else self

    def beside(self, key: str) -> DataKeys:
        """The keys of the data set of a key."""
        return self.in_part(slot_of(key)) if self.clustered else self

    def jti(self, issuer: Issuer, jti: str) -> str:
        return f"{self._prefix}:jti:{issuer.name}:{segment(jti)}"

    def of_user(self, tag: str) -> str:
        """The prefix of all keys of one user."""
        return f"{self._prefix}:{{{tag}}}"

    def user(self, tag: str) -> str:
        return f"{self._prefix}:{{{tag}}}:user"

    def of_block(self, tag: str) -> tuple[str, str]:
        """The keys of a user's block: the user, and the list of blocks in their data set."""
        user = self.user(tag)
        return user, self.beside(user).blocks

    def sessions(self, tag: str) -> str:
        return f"{self._prefix}:{{{tag}}}:sessions"

    def session(self, tag: str, sid: str) -> str:
        return f"{self._prefix}:{{{tag}}}:session:{sid}"

    def of_session(self, issuer: Issuer, tag: str, sid: str) -> list[str]:
        """The keys of a session held by this service, and of its cutoff."""
        return [self.session(tag, sid), self.session_cutoff(issuer, sid)]

    def of_refresh(self, tag: str, sid: str, generation: int) -> tuple[str, str, str, str, str]:
        """The keys of a refresh.

        Returns:
            The session, its cutoff, the user, the user's sessions, and the mark of an unconfirmed use of this
            generation.
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
        """The cutoff of a session; of one held by this service beside the user's other keys."""
        own = tag_and_start(sid) if issuer.own else None
        if own is None:
            return f"{self._prefix}:session-cutoff:{issuer.name}:{segment(sid)}"
        return f"{self._prefix}:{{{own[0]}}}:session-cutoff:{sid}"

    @property
    def latest(self) -> str:
        return f"{self._prefix}:latest"

    def client_cutoff(self, issuer: Issuer, client: str) -> str:
        return f"{self._prefix}:client-cutoff:{issuer.name}:{segment(client)}"

    def claim_cutoff(self, issuer: Issuer, claim: str, value: str) -> str:
        """The cutoff of a claim's value, in the form of :func:`revoker.rules.revocable_value`."""
        return self._claim_key(issuer.name, claim, value)

    def claim_cutoffs(self, issuer: Issuer, claims: RevocableClaims) -> tuple[str, ...]:
        """The cutoffs of all revocable claims of a token or a session, in their order."""
        key, name = self._claim_key, issuer.name
        return tuple([key(name, claim, value) for claim, value in claims])

    def issuer_cutoff(self, issuer: Issuer) -> str:
        return f"{self._prefix}:issuer-cutoff:{issuer.name}"

    def revoked_keys(self, issuer: Issuer) -> str:
        return f"{self._prefix}:keys:{issuer.name}"

    def audit(self, key: str, of: str = "") -> str:
        """The key that says who made a revocation.

        Args:
            key: Of the revocation.
            of: ``block`` for a user's block; the ``kid`` of a revoked signing key.
        """
        begin, brace, rest = key.partition("}:")
        audit = f"{begin}{brace}audit:{rest}" if brace else f"{self._prefix}:audit:{{{key}}}"
        return f"{audit}:{segment(of)}" if of else audit

    def console(self, kind: str, name: str) -> str:
        """A key of the console, by a random name, of which the store has only the digest."""
        return f"{self._prefix}:console:{kind}:{_digest(name)[1:]}"

    def of_segment(self, kind: str, issuer: Issuer, segment: str) -> str:
        """A key under an issuer's name, by its last part."""
        return f"{self._prefix}:{kind}:{issuer.name}:{segment}"

    def held(self, key: str) -> Held | None:
        """The parts of a key; None if it holds no revocation.

        Raises:
            ValueError: it is no key of this service.
        """
        kind, _, rest = key.removeprefix(f"{self._prefix}:").partition(":")
        if kind in _OTHER_KINDS:
            return None
        if kind in _UNDER_ISSUERS:
            issuer, _, value = rest.partition(":")
            if kind == "claim-cutoff":
                claim, _, value = value.partition(":")
                return Held(kind, issuer, value, claim)
            return Held(kind, issuer, value)
        if kind[:1] == "{" and len(kind) != 2 + 16 and rest.partition(":")[0] in _OTHER_KINDS:
            return None  # of the data set in a slot
        if len(kind) == 2 + 16 and kind[0] == "{":
            tag = kind[1:-1]
            kind, _, value = rest.partition(":")
            if kind == "user":
                return Held(kind, "", tag)
            if kind == "session-cutoff":
                return Held(kind, "", value)
            if kind in {"sessions", "session", "audit"}:
                return None
        raise ValueError(key)

    def of_token(self, claims: Payload, issuer: Issuer) -> "TokenKeys":
        """The keys to read to judge a token: those of :data:`TokenKeys`."""
        jti, sub, sid = claims.jti, claims.sub, claims.sid
        client = claims.client_id or claims.azp
        shared_of = self._shared if not client or len(client) <= CACHED_CHARACTERS else self._make_shared
        jti_prefix, session_prefix, shared = shared_of(issuer.name, client)
        if not sid:
            cutoff = None
        elif issuer.own:
            cutoff = self.session_cutoff(issuer, sid)
        else:
            cutoff = session_prefix + (sid if _PLAIN(sid) else _digest(sid))
        keys = (
            jti_prefix + (jti if _PLAIN(jti) else _digest(jti)) if jti else None,
            (self._user_of if len(sub) <= CACHED_CHARACTERS else self._make_user_of)(issuer.iss, sub)
            if sub
            else None,
            cutoff,
            *shared,
        )
        names = issuer.claim_names
        values = claims.revocable_values
        if names is None or not values:
            revocable = claims.revocable
            return keys + self.claim_cutoffs(issuer, revocable) if revocable else keys
        prepared = self._of_values.get(issuer.name)
        if prepared is None or prepared[0] is not names:
            prepared = self._of_values[issuer.name] = names, self._make_of_values(issuer.name, names)
        return keys + prepared[1](values)

    def of_client(
        self, issuer: Issuer, client: str, tag: str, revocable: RevocableClaims = ()
    ) -> "TokenKeys":
        """The keys to read to judge what sessions share, as :meth:`of_token`.

        Args:
            issuer: Of the sessions.
            client: Of the sessions; empty: none.
            tag: The user's, whose data set is judged in a cluster. Elsewhere all users share one.
            revocable: Claims of one of the sessions.
        """
        shared_of = self._shared if len(client) <= CACHED_CHARACTERS else self._make_shared
        user = self.user(tag) if self.clustered else None
        keys = (None, user, None, *shared_of(issuer.name, client)[2])
        return keys + self.claim_cutoffs(issuer, revocable) if revocable else keys

    def of_session_claims(self, issuer: Issuer, client: str, revocable: RevocableClaims) -> "TokenKeys":
        """The keys of what sessions of one client have in common that have the same revocable claims."""
        client_cutoff = self.client_cutoff(issuer, client)
        return (None, None, None, client_cutoff, None, None, *self.claim_cutoffs(issuer, revocable))

    def _make_user_of(self, iss: str, sub: str) -> str:
        return self.user(user_tag(iss, sub))

    def _claim_key(self, name: str, claim: str, value: str) -> str:
        make = self._cached_claim_key if len(value) <= CACHED_CHARACTERS else self._make_claim_key
        return make(name, claim, value)

    def _make_claim_key(self, name: str, claim: str, value: str) -> str:
        return self._claim_prefix(name, claim) + segment(value)

    def _claim_prefix(self, name: str, claim: str) -> str:
        return f"{self._prefix}:claim-cutoff:{name}:{claim_segment(claim)}:"

    def _make_of_values(self, name: str, names: ClaimNames) -> "_KeysOfValues":
        """What makes the cutoffs of all revocable claims of a token from :attr:`Payload.revocable_values`.

        All together are looked up in the cache: a token has the same ones whenever it is asked about, and
        one lookup costs less than to build a key. With the longest values a full cache has 12 MB.
        """
        prefixes = [(claim, self._claim_prefix(name, claim)) for claim in names.revocable]

        def keys(values: RevocableValues) -> tuple[str, ...]:
            found = []
            for (claim, prefix), value in zip(prefixes, values, strict=True):
                text = revocable_value(claim, value)
                if text:
                    found.append(prefix + segment(text))
            return tuple(found)

        return functools.lru_cache(maxsize=4096)(keys)

    def _make_shared(self, name: str, client: str | None) -> tuple[str, str, tuple[str | None, str, str]]:
        """The parts of keys that many tokens share.

        Returns:
            The prefixes of the keys of a jti and of a session cutoff; the keys of the client's cutoff, the
            issuer's, and its revoked signing keys.
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


TokenKeys = tuple[str | None, ...]
"""The keys to read to judge a token; None where there is nothing to read.

The first six are the token's own, its user's, session's and client's, the issuer's cutoff, and the issuer's
revoked signing keys. The cutoffs of the revocable claims follow.
"""
