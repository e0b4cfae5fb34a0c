"""The service without its periodic work, which under valgrind would be a great part of all instructions."""

from revoker.cli.commands import main
from revoker.store import watch
from revoker.store.mirror import follower, upstream_clock

watch.BEAT_S = 3600.0  # type: ignore[misc]
follower.SAMPLE_S = 3600.0  # type: ignore[attr-defined]
upstream_clock.SAMPLE_VALID_MS = 3600_000.0  # type: ignore[misc]

if __name__ == "__main__":
    main()
