"""``python -m bench.unjournaled``: as ``revoker``, but no script writes to the journal."""

import hashlib

from revoker.cli.commands import main
from revoker.store import scripts

_NOTE = b"local function changed(key, value, expiry, undone)\n"


def without_journal() -> None:
    """Let scripts note no change: the rest of each is as it was."""
    for name, text in list(scripts.TEXTS.items()):
        assert text.count(_NOTE) == 1, name
        changed = text.replace(_NOTE, _NOTE + b"  if true then return end\n")
        scripts.TEXTS[name] = changed
        scripts.DIGESTS[name] = hashlib.sha1(changed).hexdigest()  # as Redis names scripts


if __name__ == "__main__":
    without_journal()
    main()
