"""``GET /users/{sub}`` and ``GET /revocations``: what is revoked, by whom, when and why."""

from typing import Annotated, Final

import msgspec

from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import LATEST_S, NumericDate, Text
from revoker.api.session_list import ListedSession, session_page
from revoker.api.session_services import SessionServices
from revoker.api.standing import StandingRevocation, standing_revocations
from revoker.errors import AccessDenied, InvalidRequest
from revoker.store.listed import Kind, Listed, Selection, visible_issuers
from revoker.store.listing import Listing
from revoker.store.store import Store
from revoker.store.transfer import records

MAX_SUB: Final = 16384

Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]
Cursor = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class UserQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``limit`` and ``cursor`` are of the sessions."""

    iss: Text | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    """What is in effect against a user, and a page of their sessions that are held by this service.

    ``standing`` has the user's block and cutoffs, and what is in effect for all users of the issuer. ``next``
    is the cursor of the next page of sessions, null on the last. Sessions that have ended are left out.
    """

    iss: str
    sub: str
    blocked: bool
    standing: list[StandingRevocation]
    sessions: list[ListedSession]
    next: str | None


class RevocationQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which revocations; without ``kind`` and ``iss`` all that the caller may see.

    ``cursor`` comes from the page before, and needs the same ``kind`` and ``iss``.
    """

    kind: Kind | msgspec.UnsetType = msgspec.UNSET  # beside None, the text "null" would be none
    iss: Text | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class ListedRevocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One revocation, with what names it; dates to the millisecond.

    A value that is stored as a digest only is there as ``segment``, a claim's name as ``claim_segment``, a
    user as ``tag``. ``before`` is the date of a cutoff, ``until`` the end of a block (absent: for good),
    ``at`` when a token or key was revoked. ``by`` and ``made`` say who revoked and when, where that is known.
    ``expires`` is when it is dropped, because nothing that it covers can be active any more.
    """

    kind: Kind
    iss: str | None = None
    sub: str | None = None
    tag: str | None = None
    sid: str | None = None
    jti: str | None = None
    client_id: str | None = None
    claim: str | None = None
    claim_segment: str | None = None
    value: str | None = None
    kid: str | None = None
    segment: str | None = None
    before: NumericDate | None = None
    until: NumericDate | None = None
    at: NumericDate | None = None
    except_sid: str | None = None
    reason: str | None = None
    by: str | None = None
    made: NumericDate | None = None
    expires: NumericDate | None = None


class RevocationPage(msgspec.Struct, frozen=True):
    """``next`` is the cursor of the next page, null on the last; more may follow even an empty page."""

    revocations: list[ListedRevocation]
    next: str | None


async def view_user(
    call: Call[UserQuery], *, listing: Listing, sessions: SessionServices | None, store: Store
) -> UserView:
    """Say what is in effect against a user, and list their sessions."""
    query, sub = call.body, call.path["sub"]
    if len(sub) > MAX_SUB:
        raise InvalidRequest("sub is too long")
    issuer = call.issuer(query.iss)
    keys = (None, store.keys.user_of(issuer, sub), None, None, store.keys.issuer_cutoff(issuer), None)
    found = await store.lookups.find(keys)
    standing = standing_revocations(found.state, found.now, audits=await listing.audits(keys))
    listed: list[ListedSession] = []
    following = None
    if issuer.own and sessions is not None:
        page = await session_page(sessions, sub, limit=query.limit, cursor=query.cursor)
        listed, following = page.sessions, page.next
    elif query.cursor is not None:
        raise InvalidRequest("cursor is not one that this service gave out")
    call.audit("user_viewed", iss=issuer.iss, sub=sub)
    return UserView(
        iss=issuer.iss,
        sub=sub,
        blocked=any(revocation.kind == "user_block" for revocation in standing),
        standing=standing,
        sessions=listed,
        next=following,
    )


async def list_revocations(call: Call[RevocationQuery], *, listing: Listing, store: Store) -> RevocationPage:
    """List what is revoked: the latest changes first, as far as the journal reaches, then the rest."""
    query = call.body
    call.refuse_bound_caller()
    issuer = None if query.iss is None else call.issuer(query.iss)
    kind = None if query.kind is msgspec.UNSET else query.kind
    selection = Selection(
        kind,
        None if issuer is None else issuer.name,
        visible_issuers(call.caller.issuers, store.issuers),
    )
    page = await listing.page(selection, limit=query.limit, cursor=query.cursor)
    iss_of = {issuer.name: issuer.iss for issuer in store.issuers.values()}
    if query.cursor is None:
        call.audit("revocations_listed", kind=kind, iss=None if issuer is None else issuer.iss)
    listed: list[ListedRevocation] = []
    if page.listed:
        async with listing.pace.turn() as turn:
            for item in page.listed:
                listed.append(_listed(item, iss_of.get(item.issuer)))
                await turn.give_way()
    return RevocationPage(listed, page.next)


def _listed(item: Listed, iss: str | None) -> ListedRevocation:
    record, audit = item.record, item.audit
    members = {
        name: value
        for name in record.__struct_fields__
        if name in _MEMBERS and (value := getattr(record, name)) is not None
    }
    if item.sub:
        members.pop("tag", None)
        members["sub"] = item.sub
    if iss is not None:
        members["iss"] = iss
    if "value" in members:
        members["value"] = str(members["value"])
    if item.expires is not None and item.expires <= LATEST_S * 1000:
        members["expires"] = item.expires / 1000
    if audit is not None:
        members |= {"by": audit.by, "made": audit.made / 1000}
        if audit.reason:
            members["reason"] = audit.reason
    return ListedRevocation(kind=records.kind(record), **members)  # type: ignore[arg-type]  # one of KINDS


_MEMBERS: Final = frozenset(ListedRevocation.__struct_fields__) - {"kind"}


ENDPOINTS: Final = (
    Endpoint(
        path="/users/{sub}",
        method="GET",
        scope="read",
        body=UserQuery,
        answer=UserView,
        summary="Show a user: the block, the cutoffs, and the sessions",
        handle=view_user,
        errors=(AccessDenied,),
    ),
    Endpoint(
        path="/revocations",
        method="GET",
        scope="read",
        body=RevocationQuery,
        answer=RevocationPage,
        summary="List what is revoked, page by page",
        handle=list_revocations,
        errors=(AccessDenied,),
    ),
)
