"""The ten-minute tour, block by block as a reader types it, in one shell."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
END = "--- end of block"
ANSWER = r"POST /hook: (user\.\w+), (\S+), sequence (\d+), attempt (\d+), (.*), answered (\d+)"


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tour.md").read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_tour_goes_as_it_says(tmp_path: Path) -> None:
    """Each block succeeds, and shows what the text promises: order, duplicates, a reason, a recovery."""
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("the tour needs curl and bash")
    install, *others = blocks()
    assert "pip install -q --no-deps --no-build-isolation .\nexport PATH" in install
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # What is installed here stands in for the first lines; a free port for the one in the text.
    script = f"\necho '{END}'\n".join([install.partition("export PATH")[2].partition("\n")[2], *others])
    script = script.replace("9000", port)
    assert "webhookd init here" in script
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WEBHOOKD_SERVER__PORT": "0",
    }
    run = subprocess.run(
        ["bash", "-c", f"set -e\ntrap 'kill $server $receiver 2>/dev/null || true' EXIT\n{script}"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    shown = run.stdout.split(f"{END}\n")
    assert len(shown) == len(others) + 1
    assert "admin key (shown once): whd_" in shown[0]
    assert " ready: API http://127.0.0.1:" in run.stdout
    answers = re.findall(ANSWER, run.stdout)
    first, second, third, last = ([each for each in answers if each[2] == sequence] for sequence in "1234")
    assert [(each[0], each[3], each[5]) for each in first] == [
        ("user.created", "1", "500"),
        ("user.created", "2", "500"),
        ("user.created", "3", "200"),
    ]
    assert [each[5] for each in second] == ["200"]
    assert answers.index(second[0]) > answers.index(first[-1])
    assert "duplicate" in run.stdout
    assert re.search(r'"reason":"(Backing off|Circuit open)', run.stdout)
    assert third[-1][4].startswith("signature verified")
    assert '"queued":0' in run.stdout
    assert [each[0] for each in last] == ["user.deleted"]
    assert list(tmp_path.iterdir()) == []
