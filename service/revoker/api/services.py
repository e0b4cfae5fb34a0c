"""What the endpoints use; made once, in ``app``."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from revoker.api.admission import Admission
from revoker.api.consumers import Consumers
from revoker.api.credentials import Authentication
from revoker.api.dry_run import DryRuns
from revoker.api.receipts import Receipts
from revoker.api.session_services import SessionServices
from revoker.api.verdicts import Verdicts
from revoker.metrics import Metrics
from revoker.models import Issuer
from revoker.store.consistency.clocks import Clocks
from revoker.store.journal.tail import JournalTail
from revoker.store.listing import Listing
from revoker.store.revocations import Revocations
from revoker.store.store import Store
from revoker.tokens.logout_tokens import LogoutTerms
from revoker.tokens.verifying import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the endpoints of one process use, by the names under which their handlers declare it.

    Attributes:
        logout_terms: By ``iss``, which logout tokens are accepted; other issuers can't send any.
        revoked_key_ids: Gives the ids (``kid``) of an issuer's keys that were revoked through the API.
        sessions: None where this service holds none.
        tail: Reads the journal for consumers of the feed.
    """

    admission: Admission
    authentication: Authentication
    clocks: Clocks
    consumers: Consumers
    dry_runs: DryRuns
    issuers: Mapping[str, Issuer]
    listing: Listing
    logout_terms: Mapping[str, LogoutTerms]
    metrics: Metrics
    receipts: Receipts
    revocations: Revocations
    revoked_key_ids: Callable[[Issuer], Collection[str]]
    sessions: SessionServices | None
    store: Store
    tail: JournalTail
    verdicts: Verdicts
    verifier: Verifier
