"""The service without its periodic work, which under valgrind would be a great part of all instructions."""

from revoker.cli.commands import main
from revoker.store import watch

watch._BEAT_S = 3600.0  # type: ignore[misc]  # noqa: SLF001

if __name__ == "__main__":
    main()
