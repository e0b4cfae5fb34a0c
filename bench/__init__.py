"""Measures Revoker beside what it is compared with; run it with ``make bench``."""
