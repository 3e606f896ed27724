"""The manifests of several nodes agree with the server and its image: ports, paths, users, times and secrets."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_kubernetes import DOCKERFILE, ROOT
from webhookd.cli.systemd_unit import STOP_MARGIN_SECONDS
from webhookd.config import Config, load_config
from webhookd.crypto.key_file import create_master_key, find_key_place
from webhookd.journal import Server, place_of
from webhookd.journal.server import LeaseTimes

SERVICE, BUDGET, DEPLOYMENT = yaml.safe_load_all((ROOT / "docs/deploy/kubernetes-nodes.yaml").read_text())
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
MOUNTS = {each["name"]: Path(each["mountPath"]) for each in CONTAINER["volumeMounts"]}
COMPOSE = yaml.safe_load((ROOT / "docs/deploy/compose.yaml").read_text())
NODES = {name: each for name, each in COMPOSE["services"].items() if name != "nginx"}
NGINX = (ROOT / "docs/deploy/nginx-nodes.conf").read_text()
PAGE = (ROOT / "docs/kubernetes.md").read_text()
(USER, GROUP) = map(int, re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0])


def environ_of_pod() -> dict[str, str]:
    return {each["name"]: each.get("value", "the-pod") for each in CONTAINER["env"]}


ENVIRONS = {"kubernetes": environ_of_pod(), **{name: each["environment"] for name, each in NODES.items()}}


def journal_of(config: Config) -> Server:
    place = place_of(config.journal)
    assert isinstance(place, Server)
    return place


@pytest.mark.parametrize("name", ENVIRONS)
def test_the_settings_are_valid(name: str) -> None:
    """Every variable is a key of the configuration; the database is checked by its certificate, and has no password."""
    environ = ENVIRONS[name]
    assert set(environ) - {"CREDENTIALS_DIRECTORY"} == {each for each in environ if each.startswith("WEBHOOKD_")}
    config = load_config(None, environ)
    journal = journal_of(config)
    assert journal.node_name == ("the-pod" if name == "kubernetes" else name)
    assert journal.url.weakness is None
    assert journal.url.password is None
    assert config.server.host == "0.0.0.0"


def test_the_pod_is_found_where_it_listens() -> None:
    """Service, scrapes and probes use the server's port, and paths that need no key."""
    config = load_config(None, environ_of_pod())
    (port,), (served,) = CONTAINER["ports"], SERVICE["spec"]["ports"]
    metadata = DEPLOYMENT["spec"]["template"]["metadata"]
    labels = DEPLOYMENT["spec"]["selector"]["matchLabels"]
    assert config.server.port == port["containerPort"] == int(metadata["annotations"]["prometheus.io/port"])
    assert served["targetPort"] == port["name"]
    assert labels == metadata["labels"] == SERVICE["spec"]["selector"] == BUDGET["spec"]["selector"]["matchLabels"]
    assert all(each["labelSelector"]["matchLabels"] == labels for each in POD["topologySpreadConstraints"])
    openapi = (ROOT / "webhookd/admin/system.py").read_text()
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = CONTAINER[probe]["httpGet"]
        assert request["port"] == port["name"]
        assert f'"GET {request["path"]}"' in openapi
        paths[probe] = request["path"]
    # A restart doesn't bring a database back.
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}


def test_the_times_are_longer_than_the_servers() -> None:
    """A node is killed only after its pause, its longest drain and its stop."""
    config = load_config(None, environ_of_pod())
    stop_seconds = config.delivery.drain_seconds + STOP_MARGIN_SECONDS
    (_, pause) = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert POD["terminationGracePeriodSeconds"] >= int(pause) + stop_seconds
    assert f"terminationGracePeriodSeconds: {POD['terminationGracePeriodSeconds']}" in PAGE
    for each in NODES.values():
        assert float(each["stop_grace_period"].removesuffix("s")) >= stop_seconds
    readiness = CONTAINER["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= 2 * LeaseTimes().lease


def test_nodes_stop_one_after_the_other() -> None:
    """An upgrade or an emptied machine leaves all nodes but one."""
    assert DEPLOYMENT["spec"]["replicas"] == len(NODES) == 3
    assert BUDGET["spec"]["maxUnavailable"] == 1
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert {each["topologyKey"] for each in POD["topologySpreadConstraints"]} >= {"kubernetes.io/hostname"}


def test_the_users_are_the_images() -> None:
    """The user and the group are those of the Dockerfile, also of what a node writes to."""
    security = POD["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (USER, GROUP, GROUP)
    for each in NODES.values():
        assert any(f"uid={USER},gid={GROUP}" in place for place in each["tmpfs"] if place.startswith("/data"))
    assert f"chown {USER}:{GROUP} " in (ROOT / "docs/deploy/compose.yaml").read_text()
    # Both build the image with the driver of the database.
    assert all(each["build"]["args"] == {"LOCK": "postgresql.lock"} for each in NODES.values())
    assert (ROOT / "docs/deploy/postgresql.lock").is_file()
    assert "--build-arg LOCK=postgresql.lock" in PAGE


@pytest.mark.parametrize("name", ENVIRONS)
def test_what_a_node_reads_and_writes_is_mounted(name: str) -> None:
    """The sockets are where it may write; the authority of the database and both secrets are files."""
    environ = ENVIRONS[name]
    config = load_config(None, environ)
    journal = journal_of(config)
    authority = Path(str(journal.url.options["sslrootcert"]))
    if name == "kubernetes":
        volumes = {each["name"]: each for each in POD["volumes"]}
        assert volumes["secrets"]["secret"]["secretName"] == "webhookd"
        writable, secrets = MOUNTS["sockets"], MOUNTS["secrets"]
        assert authority.parent == MOUNTS["database-authority"]
    else:
        writable, secrets = Path("/data"), Path("/run/secrets")
        assert [each["target"] for each in NODES[name]["configs"]] == [str(authority)]
        assert NODES[name]["secrets"] == list(COMPOSE["secrets"])
    assert config.ingest.socket.parent == config.server.control_socket.parent == writable
    assert secrets == Path(environ["CREDENTIALS_DIRECTORY"])
    assert journal.password_file is not None
    assert journal.password_file.parent == secrets
    wanted = {config.secrets.master_key_credential, journal.password_file.name}
    assert wanted == (set(COMPOSE["secrets"]) if name != "kubernetes" else secrets_of_page())


def secrets_of_page() -> set[str]:
    """Return the names in the command that makes the Secret."""
    [made] = re.findall(r"create secret generic webhookd (.*)", PAGE)
    return set(re.findall(r"--from-file=(\S+)", made))


def test_the_secrets_are_accepted_with_the_mode_of_their_volume(tmp_path: Path) -> None:
    """A volume of a Secret gives its group the right to read, which the server accepts of both files."""
    from webhookd.journal.postgres.database import read_password  # noqa: PLC0415 - the driver isn't always installed

    config = load_config(None, environ_of_pod())
    mode = next(each["secret"]["defaultMode"] for each in POD["volumes"] if "secret" in each)
    key = tmp_path / config.secrets.master_key_credential
    created = create_master_key(key)
    key.chmod(mode)
    loaded = find_key_place(config, environ_of_pod() | {"CREDENTIALS_DIRECTORY": str(tmp_path)}).load()
    assert loaded is not None
    assert loaded.reveal() == created.reveal()
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(mode)
    assert read_password(password).reveal() == "secret"


def test_the_balancer_knows_each_node() -> None:
    """As many servers as there are nodes, at their port; what was sent once is not sent again."""
    servers = re.findall(r"^    server \S+:(\d+) max_fails=1 ", NGINX, re.MULTILINE)
    assert servers == [str(load_config(None, environ_of_pod()).server.port)] * len(NODES)
    [repeated] = re.findall(r"^ +proxy_next_upstream (.*);", NGINX, re.MULTILINE)
    assert set(repeated.split()) == {"error", "http_503"}
    assert set(COMPOSE["services"]["nginx"]["depends_on"]) == set(NODES)
