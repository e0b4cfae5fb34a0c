"""Types of members that several endpoints take."""

from typing import Annotated

import msgspec

from revoker.errors import InvalidRequest
from revoker.models import Number

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=16384)]
Reason = Annotated[str, msgspec.Meta(max_length=512)]

LATEST_S = 99_999_999_999

NumericDate = Annotated[
    Number,
    msgspec.Meta(
        description="seconds since 1970-01-01T00:00:00Z, UTC",
        extra_json_schema={"minimum": 0, "maximum": LATEST_S},
    ),
]


def milliseconds(at: Number | None, name: str) -> int | None:
    """A NumericDate as whole ms.

    Raises:
        InvalidRequest: negative, or beyond any date that a token can bear.
    """
    if at is None:
        return None
    if not 0 <= at <= LATEST_S:  # nor is NaN
        raise InvalidRequest(f"{name} is not a date in seconds since 1970")
    return round(at * 1000)
