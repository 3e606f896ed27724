"""A real systemd runs the unit that `webhookd systemd-unit` prints, set up by the operator's page word by word."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.machines.root import TOP, debian, install

PAGE = (TOP / "docs/operations.md").read_text()
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="systemd-nspawn is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may boot a machine"),
]


def set_up() -> tuple[str, str]:
    """Return the page's configuration and its commands, without the one that installs."""
    section = PAGE[PAGE.index("## Installing") : PAGE.index("## Its files")]
    (config,) = re.findall(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    installing, commands = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert "venv /opt/webhookd" in installing
    return config, commands


# Each line that starts with "==" is looked at by the test.
SCRIPT = """
set -eux
mkdir -p /etc/webhookd
cat >/etc/webhookd/config.toml <<'CONFIG'
{config}
[egress]
allow_http = true
ports = []
allow_networks = ["127.0.0.0/8"]
CONFIG
export PATH=/opt/webhookd/bin:$PATH
{commands}
install -d -o webhookd -m 0750 /mnt/backups
config="--config /etc/webhookd/config.toml"
webhookd systemd-unit $config --backups /mnt/backups >/etc/systemd/system/webhookd.service
systemctl daemon-reload
systemctl restart webhookd
echo "== journals $(find / -xdev -name 'webhookd.db' -not -path '/proc/*' | wc -l)"
echo "== keys $(webhookd keys list $config | grep -c 'key_')"
webhookd listen --port 9000 >/tmp/heard &
webhookd webhooks create $config http://127.0.0.1:9000/hook --events 'user.*'
webhookd send $config --type user.created --data '{{"id": "usr_1"}}'
timeout 60 sh -c 'until grep -q user.created /tmp/heard; do sleep 0.2; done'
echo "== delivered"
webhookd backup $config /mnt/backups/today.db
echo "== backup $(stat -c '%U %a' /mnt/backups/today.db)"
before=$(systemctl show -P MainPID webhookd)
systemctl reload webhookd
echo "== after reload $([ "$before" = "$(systemctl show -P MainPID webhookd)" ] && echo the same process)"
systemctl kill -s KILL webhookd
timeout 60 sh -c 'until webhookd webhooks list --config /etc/webhookd/config.toml; do sleep 0.5; done'
echo "== restarts $(systemctl show -P NRestarts webhookd)"
webhookd doctor $config || true
systemctl stop webhookd
echo "== result $(systemctl show -P Result webhookd), status $(systemctl show -P ExecMainStatus webhookd)"
journalctl -u webhookd -o json --output-fields=PRIORITY,MESSAGE --no-pager >/shared/journal
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boot the machine, run the script in it to its end, and return what it shared."""
    root = debian()
    install(root)
    shared = tmp_path_factory.mktemp("machine")
    (shared / "memory").mkdir()
    config, commands = set_up()
    (shared / "script").write_text(SCRIPT.format(config=config, commands=commands))
    command = ["unshare", "--mount", "--propagation", "private", "sh", str(HERE / "booted.sh"), str(root), str(shared)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if not (shared / "status").exists():
        pytest.skip(f"systemd does not boot here: {(ended.stdout + ended.stderr)[-500:]}")
    return shared


def said(shared: Path) -> dict[str, str]:
    lines = [line.removeprefix("== ") for line in (shared / "log").read_text().splitlines() if line.startswith("== ")]
    return {line.split(" ")[0]: line for line in lines}


def test_the_set_up_of_the_page_works(played: Path) -> None:
    """One journal, one admin key, an event delivered, and every step of it succeeded."""
    log = (played / "log").read_text()
    assert (played / "status").read_text().strip() == "0", log
    assert said(played)["journals"] == "journals 1", log
    assert said(played)["keys"] == "keys 1", log
    assert "delivered" in said(played), log


def test_the_service_is_managed(played: Path) -> None:
    """A backup goes to another disk, a reload ends nothing, kill -9 is followed by a start, and a stop is clean."""
    found = said(played)
    assert found["backup"] == "backup webhookd 600"
    assert found["after"] == "after reload the same process"
    assert found["restarts"] == "restarts 1"
    assert found["result"] == "result success, status 0"


def test_the_journal_of_the_machine_knows_what_is_urgent(played: Path) -> None:
    """The log's levels are the priorities of journald, and no line carries its mark."""
    lines = [json.loads(line) for line in (played / "journal").read_text().splitlines()]
    ours = [line for line in lines if str(line["MESSAGE"]).startswith("{")]
    priorities = {json.loads(line["MESSAGE"])["level"]: line["PRIORITY"] for line in ours}
    assert priorities["info"] == "6"
    assert priorities["warning"] == "4"
    assert not [line for line in lines if str(line["MESSAGE"]).startswith("<")]
