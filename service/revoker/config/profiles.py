"""Defaults for the tokens of well-known identity providers, from ``profiles.toml``.

A profile sets names of claims, required claims, algorithms and the like; never an issuer, audience or key.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PROFILES: Final[Mapping[str, Mapping[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("profiles.toml").read_text(encoding="utf-8")
)
"""Settings of ``[[issuers]]``, by the name of the profile."""

PROFILE_NAMES: Final = tuple(PROFILES)
