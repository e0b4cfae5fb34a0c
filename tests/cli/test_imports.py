"""What the command line may import before it knows how many processes there will be."""

import subprocess
import sys


def test_the_command_line_counts_nothing_before_it_knows_where_processes_share_their_counts():
    program = "import sys, revoker.__main__; print('prometheus_client' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )

    assert done.stdout == "False\n"
