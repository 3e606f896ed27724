"""What a running server has imported: nothing that is large and that it never uses."""

import subprocess
import sys

HEAVY = {"rich", "pygments", "httpx", "httpcore", "markdown_it", "sqlite3.dump", "unittest", "pytest", "trustme"}


def test_a_server_imports_nothing_large_that_it_does_not_use() -> None:
    """Without an egress proxy the server needs neither an HTTP client nor a library for coloured tables."""
    code = "import sys, webhookd.cli.serve; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(run.stdout.split())
    assert "webhookd" in imported
    assert not HEAVY & imported
