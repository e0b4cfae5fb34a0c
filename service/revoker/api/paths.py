"""The paths on which verdicts are asked for."""

from typing import Final

INTROSPECT: Final = "/introspect"
BATCH: Final = "/introspect/batch"
FORWARD_AUTH: Final = "/forward-auth"
