"""The service without what it does by the clock: for counting, where a second lasts many times as long."""

from revoker.cli.commands import main
from revoker.store import watch

watch._BEAT_S = 3600.0  # type: ignore[misc]  # noqa: SLF001

if __name__ == "__main__":
    main()
