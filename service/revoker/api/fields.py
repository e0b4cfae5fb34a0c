"""Types of members that several endpoints read or answer."""

from typing import Annotated, Final

import msgspec

from revoker.errors import InvalidRequest
from revoker.models import Number

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=16384)]
MAX_REASON: Final = 512
Reason = Annotated[str, msgspec.Meta(max_length=MAX_REASON)]
# Python's "$" matches before a line feed at the end, too.
ConsumerName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._~-]{1,64}$(?!\n)")]

LATEST_S = 99_999_999_999

NumericDate = Annotated[
    Number,
    msgspec.Meta(
        description="seconds since 1970-01-01T00:00:00Z, UTC",
        extra_json_schema={"minimum": 0, "maximum": LATEST_S},
    ),
]


def numeric_date_ms(at: Number | None, name: str) -> int | None:
    """A NumericDate as whole ms; ``name`` is the member that has it.

    Raises:
        InvalidRequest: negative, not a number, or later than ``LATEST_S``.
    """
    if at is None:
        return None
    if not 0 <= at <= LATEST_S:  # NaN fails, too
        raise InvalidRequest(f"{name} is not a date in seconds since 1970")
    return round(at * 1000)
