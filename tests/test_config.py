"""The configuration: the shipped file, the environment, and the error for each mistake."""

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.linear import MOST_GROWTH, growth
from webhookd.base.errors import ConfigError
from webhookd.base.models import Role
from webhookd.config import Config, describe, load_config, shown
from webhookd.journal import Server, place_of

ROOT = Path(__file__).parents[1]


def load(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Config:
    path = directory / "config.toml"
    path.write_text(text)
    return load_config(path, environ or {})


def test_the_shipped_file_is_the_defaults(tmp_path: Path) -> None:
    """The shipped `config.toml`, an empty file and no file give the same configuration."""
    text = (ROOT / "config.toml").read_text()
    assert load(tmp_path, text) == load(tmp_path, "")
    uncommented = text.replace("# max_bytes", "max_bytes").replace("# proxy", "proxy")
    assert load(tmp_path, uncommented).journal.max_bytes == 10_737_418_240


def test_paths_start_from_the_files_directory(tmp_path: Path) -> None:
    """Relative paths, defaults included, start from the file's directory; absolute paths are not changed."""
    config = load(tmp_path, '[journal]\npath = "j.db"\n[ingest]\nsocket = "/run/x.sock"\n')
    assert config.journal.path == tmp_path / "j.db"
    assert config.ingest.socket == Path("/run/x.sock")
    assert config.server.control_socket == tmp_path / "var/control.sock"
    assert load_config(None, {}).journal.path == Path.cwd() / "var/webhookd.db"


def test_the_environment_wins(tmp_path: Path) -> None:
    """Variables set keys of every type; names of other sections, or of none, are ignored."""
    environ = {
        "WEBHOOKD_SERVER__PORT": "9000",
        "WEBHOOKD_SERVER__HOST": "::1",
        "WEBHOOKD_EGRESS__PORTS": "[443, 9443]",
        "WEBHOOKD_EGRESS__ALLOW_HTTP": "true",
        "WEBHOOKD_DELIVERY__ORDERING": "key",
        "WEBHOOKD_EGRESS__PROXY": "",
        "WEBHOOKD_JWT__ROLES": '{ boss = "admin" }',
        "WEBHOOKD_SOMETHING": "else",
        "WEBHOOKD_OTHER__THING": "left alone",
        "PATH": "/bin",
    }
    config = load(tmp_path, '[server]\nport = 1\n[egress]\nproxy = "http://p:1"\n', environ)
    assert (config.server.port, config.server.host) == (9000, "::1")
    assert config.egress.ports == (443, 9443)
    assert config.egress.allow_http
    assert config.egress.proxy is None
    assert config.delivery.ordering.value == "key"
    assert config.jwt.roles == {"boss": Role.ADMIN}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nport = 'x'\n", r"config\.toml:2: server\.port takes .*65535.*'?x"),
        ("[server]\nhost = ''\n", r"config\.toml:2: server\.host takes"),
        ("[server]\nport = 70000\n", r":2: server\.port takes"),
        ("[server]\nprot = 1\n", r":2: there is no key server\.prot; did you mean port\?"),
        ("[sever]\nport = 1\n", r":1: there is no section \[sever\]; did you mean server\?"),
        ("port = 1\n", r":1: port is in no section; it belongs under \[server\]"),
        ("[delivery]\n\nretry_delays = []\n", r":3: delivery\.retry_delays takes"),
        ("[delivery]\nretry_delays = [1, -1]\n", r":2: delivery\.retry_delays takes"),
        ("[delivery]\nordering = 'strictly'\n", r":2: delivery\.ordering takes .*strict"),
        ("[delivery]\ntimeout_seconds = 4\n", r":2: delivery\.connect_timeout_seconds is 5, and must not be above"),
        ("[delivery]\nwarn_after_seconds = 999999\n", r"must not be above delivery\.disable_after_seconds"),
        (
            "[egress]\nallow_networks = ['10.0.0.1/8']\n",
            r":2: egress\.allow_networks takes .*did you mean 10\.",
        ),
        ("[egress]\nproxy = 'socks5://x'\n", r":2: egress\.proxy takes http"),
        ("[journal]\npath = 'a'\n[ingest]\nsocket = 'a'\n", r"must not be the file of journal\.path"),
        (
            "[journal]\npath = 'a'\nurl = 'postgresql://u@h/d'\n",
            r":2: journal\.path can't be set together with journal\.url: the journal is either a file or a database",
        ),
        (
            "[journal]\nurl = 'postgresql://u@h/d'\nmax_bytes = 100000000\n",
            r":3: journal\.max_bytes can't be set together with journal\.url",
        ),
        (
            "[journal]\nurl = 'postgresql://u:p@h/d'\npassword_file = 'p'\n",
            r":3: journal\.password_file can't be set together with a password in journal\.url",
        ),
        ("[journal]\npassword_file = 'p'\n", r":2: journal\.password_file has no effect without journal\.url"),
        ("[journal]\nnode_name = 'n'\n", r":2: journal\.node_name has no effect without journal\.url"),
        ("[journal]\nurl = 'mysql://u@h/d'\n", r":2: journal\.url must begin with postgresql://"),
        ("[journal]\nurl = 5\n", r":2: journal\.url takes a string$"),
        (
            "[journal]\nurl = 'postgresql://u@h/d'\npassword_file = 'p'\n[secrets]\nmaster_key_file = 'p'\n",
            r":5: secrets\.master_key_file must not be the file of journal\.password_file",
        ),
        ("[events]\nunknown_event_types = 'maybe'\n", r":2: events\.unknown_event_types takes"),
        ("[jwt]\njwks_file = 'a'\n", r":2: jwt\.issuer must be set if jwt\.jwks_file is"),
        ("[jwt]\njwks_file = 'a'\nissuer = 'i'\n", r":2: jwt\.audience must be set if jwt\.jwks_file is"),
        (
            "[jwt]\nissuer = 'i'\naudience = 'a'\n",
            r":2: jwt\.issuer has no effect without a key: set one of jwt\.secret_",
        ),
        (
            "[jwt]\nissuer = 'i'\naudience = 'a'\nsecret_file = 's'\njwks_file = 'j'\n",
            r":5: jwt\.jwks_file can't be set together with jwt\.secret_file",
        ),
        ("[jwt]\nroles = { boss = 'king' }\n", r":2: jwt\.roles takes a table .*\"admin\" or .*king"),
        ("[jwt]\nroles = {}\n", r":2: jwt\.roles must name at least one"),
        ("[jwt]\nleeway_seconds = 301\n", r":2: jwt\.leeway_seconds takes a number from 0 to 300"),
        ("[log]\nlevel = 3\n", r":2: log\.level takes"),
        ("[server\n", r":1: not TOML"),
        ("[server]\nport = " + "1" * 5000 + "\n", r"config\.toml: not TOML: a number is too long"),
        ("[server]\nport = " + "[" * 5000 + "\n", r"config\.toml: not a configuration: .*too deep"),
        ("[server]\nport = 1\n" + "a." * 40_000 + "a = 1\n", r":3: a name has more than 32 parts"),
        ("[" + "a." * 40_000 + "a]\n", r":1: a name has more than 32 parts"),
        ("[server]\n'a b'" + ".'c.d'" * 40_000 + " = 1\n", r":2: a name has more than 32 parts"),
        ("#" * 300_000, r"config\.toml: the file is larger than 262144 bytes"),
        ("[ server ]\n 'port' = 'x'\n", r":2: server\.port takes"),
        ("server.port = 'x'\n", r":1: server\.port takes"),
        ("[server]\n2fa = 1\n", r":2: there is no key server\.2fa"),
    ],
)
def test_each_mistake_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    """An invalid setting is refused with file, line, key and what is accepted."""
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WEBHOOKD_SERVER__PORT", "x", "the environment's WEBHOOKD_SERVER__PORT: server.port takes"),
        ("WEBHOOKD_SERVER__PROT", "1", "there is no key server.prot"),
        ("WEBHOOKD_EGRESS__PROXY", "http://user:hunter2@[", "egress.proxy takes"),
        ("WEBHOOKD_JOURNAL__URL", "postgresql://u:hunter2@h", "the environment's WEBHOOKD_JOURNAL__URL: journal.url "),
        ("WEBHOOKD_JOURNAL__URL", "postgresql://u:hunter2/h/d", "journal.url "),
    ],
)
def test_a_bad_variable_is_named(tmp_path: Path, name: str, value: str, says: str) -> None:
    """An invalid variable is refused by its name, without the password in it."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, "", {name: value})
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and one that is not text are refused."""
    with pytest.raises(ConfigError, match=r"can't read the configuration .*nowhere\.toml: No such file"):
        load_config(tmp_path / "nowhere.toml", {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "binary.toml", {})


def test_what_is_in_force_can_be_loaded_again(tmp_path: Path) -> None:
    """`describe` prints TOML with the same meaning, and hides the proxy's password."""
    tokens = '[jwt]\nroles = { "a \\" b" = "viewer" }\n'
    config = load(tmp_path, f'[delivery]\nretry_delays = [0.5, 3]\n[server]\nhost = "::1"\n{tokens}')
    assert load(tmp_path, describe(config)) == config
    secretive = load(tmp_path, '[egress]\nproxy = "http://user:hunter2@proxy.example:3128"\n')
    assert "hunter2" not in describe(secretive)
    assert "proxy.example" in describe(secretive)


def test_a_database_is_shown_without_its_password(tmp_path: Path) -> None:
    """The path of a file, which isn't used then, is not shown as one; the rest can be loaded again."""
    config = load(tmp_path, '[journal]\nurl = "postgresql://u:hunter2@db.example:6432/d"\n')
    assert config.journal.name == "d on db.example:6432"
    assert "hunter2" not in describe(config) + str(shown(config))
    assert "# path is not used\n" in describe(config)
    assert 'url = "postgresql://u:[hidden]@db.example:6432/d"\n' in describe(config)
    text = '[journal]\nurl = "postgresql://u@db.example/d"\npassword_file = "p"\nnode_name = "n"\n'
    config = load(tmp_path, text)
    assert config.journal.password_file == tmp_path / "p"
    assert load(tmp_path, describe(config)) == config


def test_the_place_of_the_journal_is_a_file_or_a_server(tmp_path: Path) -> None:
    """Without a name of its own, a node has that of its host."""
    assert place_of(load(tmp_path, "").journal) == tmp_path / "var/webhookd.db"
    text = '[journal]\nurl = "postgresql://u@h/d"\n'
    place = place_of(load(tmp_path, text).journal)
    assert isinstance(place, Server)
    assert (str(place.url), place.node_name) == ("d on h:5432", socket.gethostname())
    named = place_of(load(tmp_path, text, {"WEBHOOKD_JOURNAL__NODE_NAME": "web-1"}).journal)
    assert isinstance(named, Server)
    assert named.node_name == "web-1"


def test_a_line_of_many_networks_is_no_name(tmp_path: Path) -> None:
    """Dots in quotes, in a list of several lines, don't count as parts of a name."""
    networks = ", ".join(f'"10.{number}.0.0/16"' for number in range(100))
    config = load(tmp_path, f"[egress]\nallow_networks = [\n  {networks}  # all = 100\n]\n")
    assert len(config.egress.allow_networks) == 100


@pytest.mark.parametrize("start", ["", "[", "a", "[ a", "a.", "'", "[server]\nhost = '"], ids=repr)
@pytest.mark.parametrize("unit", [" ", "[", "]", "\t", "=", "a ", "'", '"', "\n", "#", "[]", "a=1\n"], ids=repr)
def test_a_file_is_read_in_time_linear_in_its_length(tmp_path: Path, start: str, unit: str) -> None:
    """A file of repeated brackets, quotes, spaces or lines is read in linear time."""
    path = tmp_path / "config.toml"

    def text(length: int) -> str:
        return start + unit * (length // len(unit)) + "\n!"

    def read(text: str) -> None:
        path.write_text(text)
        with pytest.raises(ConfigError):
            load_config(path, {})

    assert growth(text, read, 4096) < MOST_GROWTH
