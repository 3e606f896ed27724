"""The Kubernetes manifests agree with the server and its image: ports, paths, users, times and settings."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from webhookd.cli.systemd_unit import STOP_MARGIN_SECONDS
from webhookd.config import load_config
from webhookd.crypto.key_file import create_master_key, find_key_place

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "docs/deploy/Dockerfile").read_text()
PAGE = (ROOT / "docs/kubernetes.md").read_text()
SERVICE, SET = yaml.safe_load_all((ROOT / "docs/deploy/kubernetes.yaml").read_text())
POD: dict[str, Any] = SET["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENVIRON = {each["name"]: each["value"] for each in CONTAINER["env"]}
MOUNTS = {each["name"]: Path(each["mountPath"]) for each in CONTAINER["volumeMounts"]}


def test_the_settings_are_valid() -> None:
    """Every variable is a configuration key, and the server listens where Service, probes and metrics expect it."""
    config = load_config(None, ENVIRON)
    assert set(ENVIRON) - {"CREDENTIALS_DIRECTORY"} == {name for name in ENVIRON if name.startswith("WEBHOOKD_")}
    (port,) = CONTAINER["ports"]
    (served,) = SERVICE["spec"]["ports"]
    annotations = SET["spec"]["template"]["metadata"]["annotations"]
    assert config.server.host == "0.0.0.0"
    assert config.server.port == port["containerPort"] == served["port"] == int(annotations["prometheus.io/port"])
    assert served["targetPort"] == port["name"]
    assert annotations["prometheus.io/path"] == "/metrics"
    assert SERVICE["spec"]["selector"] == SET["spec"]["selector"]["matchLabels"]
    assert SERVICE["metadata"]["name"] == SET["spec"]["serviceName"]


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_the_probes_need_no_key(probe: str) -> None:
    """Each probe requests a path that needs no key, at the port of the server."""
    request = CONTAINER[probe]["httpGet"]
    assert request["path"] == ("/readyz" if probe == "readinessProbe" else "/healthz")
    assert request["port"] == CONTAINER["ports"][0]["name"]
    openapi = (ROOT / "webhookd/admin/system.py").read_text()
    assert f'"GET {request["path"]}"' in openapi


def test_the_times_are_longer_than_the_servers() -> None:
    """The pod is killed only after the longest drain and stop, and a start may take ten minutes for a migration."""
    config = load_config(None, ENVIRON)
    assert POD["terminationGracePeriodSeconds"] >= config.delivery.drain_seconds + STOP_MARGIN_SECONDS
    startup = CONTAINER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
    assert f"terminationGracePeriodSeconds: {POD['terminationGracePeriodSeconds']}" in PAGE


def test_the_user_is_the_images() -> None:
    """The user, the group and the group of the volume are those of the Dockerfile."""
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    security = POD["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (int(user), int(group), int(group))


def test_the_data_is_on_the_volume(tmp_path: Path) -> None:
    """The journal and the sockets are on the volume, and the Secret's key is accepted with the mode of its volume."""
    (claim,) = SET["spec"]["volumeClaimTemplates"]
    data = MOUNTS[claim["metadata"]["name"]]
    workdir = Path(re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)[-1])
    config = load_config(None, ENVIRON)
    for path in (config.journal.path, config.ingest.socket, config.server.control_socket):
        # Relative paths are below the working directory: that of the image there, and that of the test here.
        assert (workdir / os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path).is_relative_to(data)
    (secret,) = (each["secret"] for each in POD["volumes"] if "secret" in each)
    assert MOUNTS["master-key"] == Path(ENVIRON["CREDENTIALS_DIRECTORY"])
    key = tmp_path / config.secrets.master_key_credential
    assert f"--from-file={key.name}\n" in PAGE
    created = create_master_key(key)
    key.chmod(secret["defaultMode"])
    place = find_key_place(config, ENVIRON | {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert place.path == key
    loaded = place.load()
    assert loaded is not None
    assert loaded.reveal() == created.reveal()
