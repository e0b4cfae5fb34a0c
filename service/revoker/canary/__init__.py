"""Revokes a token of its own again and again, and measures how soon edges and gateways refuse it."""
