"""The command line; `revoker` and `python -m revoker` are the same."""

import sys

from revoker.server import start_signals

if sys.argv[1:2] in (["serve"], ["edge"], ["canary"]) and not {"--once", "init"}.intersection(sys.argv):
    start_signals.install_handlers()  # before the other imports, which take long enough for a signal to come

from revoker.cli.commands import main

if __name__ == "__main__":
    main()
