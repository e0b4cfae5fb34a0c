"""The service without its periodic work, which under valgrind would be a great part of all instructions."""

from revoker.cli.commands import main
from revoker.store import watch

watch.BEAT_S = 3600.0  # type: ignore[misc]

if __name__ == "__main__":
    main()
