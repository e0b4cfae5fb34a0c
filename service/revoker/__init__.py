"""Revoker: makes a JWT stop being valid now, beside any identity provider."""

__version__ = "0.1.0"
