"""A real systemd runs the unit that `webhookd systemd-unit` prints, with the commands of docs/operations.md."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_two_versions import NEXT, STEP
from tests.machines.root import TOP, debian, install

PAGE = (TOP / "docs/operations.md").read_text()
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="systemd-nspawn is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may boot a machine"),
]


def set_up() -> tuple[str, str]:
    """Return the configuration and the commands of docs/operations.md, without those that install."""
    section = PAGE[PAGE.index("## Installing") : PAGE.index("## Its files")]
    (config,) = re.findall(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    installing, commands = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert "venv /opt/webhookd" in installing
    return config, commands


# The tests read each output line that starts with "==".
SCRIPT = """
set -eux
mkdir -p /etc/webhookd
cat >/etc/webhookd/config.toml <<'CONFIG'
{config}
[egress]
allow_http = true
ports = []
allow_networks = ["127.0.0.0/8"]
[delivery]
retry_delays = [1]
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
shown() {{ systemctl show -P "$1" webhookd; }}
answering() {{ timeout 60 sh -c 'until webhookd health --config /etc/webhookd/config.toml; do sleep 0.5; done'; }}
heard() {{ grep -c '"path"' /tmp/heard || true; }}
listening() {{ webhookd listen --port 9000 --json --secret "$secret" >>/tmp/heard & listener=$!; }}
until_heard() {{ until [ "$(heard)" -ge "$1" ]; do sleep 0.2; done; }}

secret=$(webhookd webhooks create $config http://127.0.0.1:9000/hook --events 'user.*' | grep -o 'whsec_.*')
listening
webhookd send $config --type user.created --data '{{"number": 0}}'
until_heard 1
echo "== delivered"
webhookd backup $config /mnt/backups/today.db
echo "== backup $(stat -c '%U %a' /mnt/backups/today.db)"
nsenter --target "$(shown MainPID)" --mount touch /etc/webhookd/written /opt/webhookd/written /usr/written || true
echo "== written $(find /etc/webhookd/written /opt/webhookd/written /usr/written 2>/dev/null | wc -l)"

before=$(shown MainPID)
sed -i 's/retry_delays = .*/retry_delays = [2]/' /etc/webhookd/config.toml
systemctl reload webhookd
timeout 60 sh -c 'until journalctl -u webhookd --no-pager | grep -q config.checked; do sleep 0.2; done'
echo "== after reload $([ "$before" = "$(shown MainPID)" ] && echo the same process)"
sed -i 's/retry_delays = .*/retry_delays = [1]/' /etc/webhookd/config.toml
systemctl kill -s KILL webhookd
answering
echo "== restarts $(shown NRestarts)"
systemctl restart webhookd
echo "== restart $([ "$before" != "$(shown MainPID)" ] && echo another process), $(shown ActiveState)"

mkdir /etc/systemd/system/webhookd.service.d
printf '[Service]\nWatchdogSec=10\n' >/etc/systemd/system/webhookd.service.d/quick.conf
systemctl daemon-reload
systemctl restart webhookd
systemctl kill --kill-whom=main -s STOP webhookd
until [ "$(shown NRestarts)" != 0 ]; do sleep 0.5; done
answering
echo "== watchdog $(journalctl -u webhookd --no-pager | grep -c 'Watchdog timeout')"
rm -r /etc/systemd/system/webhookd.service.d
systemctl daemon-reload

kill $listener
seq 200 | sed 's/.*/{{"type": "user.created", "data": {{"number": &}}}}/' | webhookd send $config >/tmp/results
cp -r /source /source.before
cat >>/source/webhookd/journal/sqlite/migrations.py <<'STEP'
{step}
STEP
installing() {{ /opt/webhookd/bin/pip install -q --force-reinstall --no-deps --no-build-isolation "$1"; }}
installing /source
systemctl restart webhookd
listening
until_heard 201
echo "== copied $(stat -c '%U %a' /var/lib/webhookd/webhookd.db.before-v{next})"
installing /source.before
systemctl restart webhookd && echo "== refused nothing" || echo "== refused $(shown ExecMainStatus)"
systemctl stop webhookd
webhookd restore $config /var/lib/webhookd/webhookd.db.before-v{next}
systemctl start webhookd
until_heard 401
webhookd doctor $config || true
systemctl stop webhookd
echo "== result $(shown Result), status $(shown ExecMainStatus)"
cp /tmp/heard /shared/heard
journalctl -u webhookd -o json --output-fields=PRIORITY,MESSAGE --no-pager >/shared/journal
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boot the machine and run the script in it to its end; return the shared directory."""
    root = debian()
    install(root)
    shared = tmp_path_factory.mktemp("machine")
    (shared / "memory").mkdir()
    config, commands = set_up()
    (shared / "script").write_text(SCRIPT.format(config=config, commands=commands, step=STEP, next=NEXT))
    command = ["unshare", "--mount", "--propagation", "private", "sh", str(HERE / "booted.sh"), str(root), str(shared)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if not (shared / "status").exists():
        pytest.skip(f"systemd does not boot on this machine: {(ended.stdout + ended.stderr)[-500:]}")
    return shared


def results(shared: Path) -> dict[str, str]:
    """Return the lines of the script's output that start with "==", by their first word."""
    lines = [line.removeprefix("== ") for line in (shared / "log").read_text().splitlines() if line.startswith("== ")]
    return {line.split(" ")[0]: line for line in lines}


def test_the_documented_set_up_works(machine: Path) -> None:
    """Every step of the set-up succeeds; there are one journal and one admin key, and an event is delivered."""
    log = (machine / "log").read_text()
    assert (machine / "status").read_text().strip() == "0", log
    assert results(machine)["journals"] == "journals 1", log
    assert results(machine)["keys"] == "keys 1", log
    assert "delivered" in results(machine), log


def test_the_service_is_managed(machine: Path) -> None:
    """A backup goes to another directory and nothing else is written; systemd reloads and restarts the service.

    A reload keeps the process, a killed and a hanging process are restarted, and a restart and a stop succeed.
    """
    found = results(machine)
    assert found["backup"] == "backup webhookd 600"
    assert found["written"] == "written 0"
    assert found["after"] == "after reload the same process"
    assert found["restarts"] == "restarts 1"
    assert found["restart"] == "restart another process, active"
    assert found["watchdog"] == "watchdog 1"
    assert found["result"] == "result success, status 0"


def test_an_upgrade_with_a_backlog_and_the_way_back(machine: Path) -> None:
    """The next version delivers the backlog in order; the old one refuses the journal until the copy is restored.

    What was delivered after the copy was made is delivered again, with the same ids.
    """
    found = results(machine)
    assert found["copied"] == "copied webhookd 600"
    assert found["refused"] == "refused 70"
    heard = [json.loads(line) for line in (machine / "heard").read_text().splitlines()]
    numbers = [json.loads(each["body"])["data"]["number"] for each in heard]
    assert numbers == [0, *range(1, 201), *range(1, 201)]
    assert all(each["signature"].startswith("signature verified") for each in heard)
    assert len({each["headers"]["webhook-id"] for each in heard}) == 201


def test_journald_gets_the_priority_of_each_line(machine: Path) -> None:
    """The levels of the log are priorities in journald, and the stored lines have no priority prefix."""
    lines = [json.loads(line) for line in (machine / "journal").read_text().splitlines()]
    ours = [line for line in lines if str(line["MESSAGE"]).startswith("{")]
    priorities = {json.loads(line["MESSAGE"])["level"]: line["PRIORITY"] for line in ours}
    assert priorities["info"] == "6"
    assert priorities["warning"] == "4"
    checked = [json.loads(line["MESSAGE"]) for line in ours if "config.checked" in str(line["MESSAGE"])]
    assert [each["restart_changes"] for each in checked] == [["delivery.retry_delays"]]
    assert not [line for line in lines if str(line["MESSAGE"]).startswith("<")]
