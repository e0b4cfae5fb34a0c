"""Lines of revocations, and what is stored beside those of who made them and when."""

from collections.abc import Mapping
from typing import Any

import msgspec

from revoker.models import Issuer, Number
from revoker.rules import FOREVER_MS
from revoker.store.audit import IMPORT, Audit, audit_text, audit_text_of_user
from revoker.store.keys import user_tag
from revoker.store.transfer import records
from revoker.store.transfer.records import Record, date, milliseconds


def audited_part(record: Record) -> str:
    """As ``of`` in :meth:`revoker.store.keys.Keys.audit`."""
    if isinstance(record, records.Key):
        return record.kid
    return "block" if isinstance(record, records.Block) else ""


def audited_time(record: Record) -> int:
    """The time (ms) of a revocation that is stored, as its audit names it."""
    if isinstance(record, records.Block) and record.until is None:
        return FOREVER_MS
    return milliseconds(_dated(record) or 0)


def attributed(record: Record, audit: Audit | None, issuers: Mapping[str, Issuer]) -> Record:
    """A line, with who made the revocation where that is stored.

    The audit of a user's revocation has the ``sub``, too. The line then names the user by it, so that an
    import stores it again.

    Args:
        record: The line without it.
        audit: What is stored; None if nothing is.
        issuers: By their names.
    """
    if audit is None:
        return record
    made = None if audit.made == audited_time(record) else date(audit.made)
    changes: dict[str, Any] = {"by": audit.by, "made": made}
    if isinstance(record, records.Jti):
        changes["reason"] = audit.reason or None
    elif isinstance(record, records.User | records.Block):
        issuer = issuers.get(audit.issuer)
        if issuer is not None and audit.sub and user_tag(issuer.iss, audit.sub) == record.tag:
            changes |= {"iss": issuer.iss, "sub": audit.sub, "tag": None}
    return msgspec.structs.replace(record, **changes)


def audit_of(record: Record, issuer: Issuer | None = None) -> tuple[bytes, int | str]:
    """What an import stores of who made a revocation, and when that was (ms; empty: now).

    That is nothing if the line names nobody. But the reason for revoking a token is always stored so, since
    the entry of a token has none.

    Args:
        record: The line.
        issuer: Of a user; None if the line has a tag in place of a user.
    """
    at = None if isinstance(record, records.Block) else _dated(record)
    at = at if record.made is None else record.made
    made = "" if at is None else milliseconds(at)
    if isinstance(record, records.Jti):
        by = record.by or (IMPORT if record.reason else "")
        return audit_text(by, reason=record.reason or ""), made
    if issuer is not None and isinstance(record, records.User | records.Block):
        return audit_text_of_user(record.by or "", issuer, record.sub or ""), made
    return audit_text(record.by or ""), made


def _dated(record: Record) -> Number | None:
    match record:
        case records.Block():
            return record.until
        case records.Jti() | records.Key():
            return record.at
        case _:
            return record.before
