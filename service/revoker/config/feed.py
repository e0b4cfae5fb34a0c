"""The section ``[feed]``."""

from typing import Annotated

from pydantic import Field

from revoker.config.section import Section


class FeedSettings(Section):
    """The [journal of revocations](feed.md), from which edges are fed."""

    keep_entries: Annotated[int, Field(ge=1000, le=100_000_000)] = 1_000_000
    """Entries that the journal keeps at most, roughly; about 100 bytes each."""

    keep_seconds: Annotated[int, Field(ge=10, le=7 * 86400)] = 600
    """Seconds for which the journal keeps an entry at most, roughly; the last thousand stay. A consumer that
    was away for longer starts again from a snapshot."""
