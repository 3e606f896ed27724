"""A connection to PostgreSQL: its settings, what it refuses, and what each error becomes."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from peewee import PeeweeException

from tests.journal.postgres.connections import connected, rows, value
from tests.ports import held_port
from tests.postgres_server import OWNER, PostgresServer
from webhookd.base.database_url import parse
from webhookd.base.errors import ConfigError, JournalError, ReadTimeoutError
from webhookd.journal.errors import ConnectionLostError, DamagedDatabaseError, JournalFullError, MustRepeatError
from webhookd.journal.postgres.database import (
    ConnectionRole,
    PostgresDatabase,
    check_server,
    connect,
    connection_parameters,
    is_logic_error,
    read_password,
)

PASSWORD = "s3cr3t p@ss/word"
SMALL_DISK_BYTES = 1 << 20


# Sessions


@pytest.mark.parametrize("role", ConnectionRole)
def test_a_session_is_ended_before_it_blocks_others(empty_database: str, role: ConnectionRole) -> None:
    """Whatever a connection is for, neither a statement nor an open transaction lasts without end."""
    with connected(empty_database, role, application_name="node 7") as database:
        for name in ("statement_timeout", "idle_in_transaction_session_timeout", "client_connection_check_interval"):
            assert value(database, f"SHOW {name}") in {"1s", "2s", "5s", "10s"}, name
        assert value(database, "SHOW application_name") == "node 7"
        assert value(database, "SHOW client_encoding") == "UTF8"
        assert value(database, "SELECT backend_type FROM pg_stat_activity WHERE pid = %s", database.backend_pid)


def test_an_idle_transaction_is_ended(empty_database: str) -> None:
    """The server ends a session that stands in a transaction, and with it the locks that others wait for."""
    with connected(empty_database) as stuck, connected(empty_database) as other:
        rows(stuck, "CREATE TABLE held AS SELECT 1 AS number")
        stuck.begin()
        rows(stuck, "LOCK TABLE held")
        pid = stuck.backend_pid
        # However long it takes until the session is ended.
        rows(other, "SET lock_timeout = 0; SET statement_timeout = 0")
        assert value(other, "SELECT number FROM held") == 1
        assert not rows(other, "SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid)
        with pytest.raises(ConnectionLostError):
            rows(stuck, "SELECT 1")
        assert stuck.is_lost
        assert not other.is_lost


def test_commits_are_synced_whatever_the_default_is(postgres_server: PostgresServer, empty_database: str) -> None:
    """A default that would lose acknowledged events is overruled for writers, a stricter one isn't."""
    name = parse(empty_database).database
    with postgres_server.administer() as administrator:
        for default, expected in (("off", "on"), ("remote_apply", "remote_apply"), ("local", "local")):
            administrator.execute(f"ALTER DATABASE {name} SET synchronous_commit = {default}")
            with connected(empty_database) as database:
                assert value(database, "SHOW synchronous_commit") == expected
    with connected(empty_database, ConnectionRole.NOTIFIER) as database:
        assert value(database, "SHOW synchronous_commit") == "off"


@pytest.mark.parametrize("default", ["serializable", "read committed"])
def test_isolation_does_not_depend_on_defaults(
    postgres_server: PostgresServer, empty_database: str, default: str
) -> None:
    """Writers see what others commit while their transaction runs; a reader's transaction has one snapshot."""
    with postgres_server.administer() as administrator:
        name = parse(empty_database).database
        administrator.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{default}'")
    with (
        connected(empty_database) as writer,
        connected(empty_database) as other,
        connected(empty_database, ConnectionRole.READER) as reader,
    ):
        rows(writer, "CREATE TABLE numbers (number int)")
        with other.atomic(), reader.atomic():
            before = [value(each, "SELECT count(*) FROM numbers") for each in (other, reader)]
            rows(writer, "INSERT INTO numbers VALUES (1)")
            after = [value(each, "SELECT count(*) FROM numbers") for each in (other, reader)]
        assert (before, after) == ([0, 0], [1, 0])


def test_a_reader_only_reads(empty_database: str) -> None:
    """A query that writes is a bug, and is refused."""
    with connected(empty_database, ConnectionRole.READER) as reader:
        with pytest.raises(PeeweeException) as refused:
            rows(reader, "CREATE TABLE found (number int)")
        assert is_logic_error(refused.value)


# Refused databases


def test_a_database_with_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    """Text of another encoding can't hold every event."""
    provider = "LOCALE_PROVIDER libc" if postgres_server.version >= 15 else ""
    options = f"ENCODING 'LATIN1' LOCALE 'C' {provider}"
    with (
        postgres_server.database("template0", options) as name,
        pytest.raises(JournalError, match=rf"{name} on /.* has the encoding LATIN1: create one with UTF8"),
    ):
        connect(parse(postgres_server.url(name)), ConnectionRole.WRITER, application_name="a test")


@pytest.mark.parametrize(("version", "is_refused"), [(90_624, True), (130_021, True), (140_000, False)])
def test_an_old_server_is_refused(version: int, is_refused: bool) -> None:
    """The oldest server with everything that is used is 14."""
    try:
        check_server("d on h:1", version, "UTF8")
    except JournalError as error:
        assert is_refused
        assert f"d on h:1 is on PostgreSQL {version // 10_000}: webhookd needs 14" in str(error)  # noqa: PT017 - two cases
    else:
        assert not is_refused


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("webhookd@/{database}_missing", "does not exist"),
        ("somebody@/{database}", "does not exist"),
        ("webhookd@/{database}?host=/nowhere", "No such file or directory"),
        ("webhookd@127.0.0.1:{port}/{database}", "Connection refused"),
        ("webhookd@127.0.0.1:{port},localhost:{port}/{database}", "Connection refused"),
        ("webhookd@[::1]:{port}/{database}?sslrootcert=/nowhere&sslmode=verify-full", "refused|requested address"),
    ],
)
def test_no_connection(postgres_server: PostgresServer, empty_database: str, change: str, reason: str) -> None:
    """The error names the database and its host, and the reason in one line."""
    name = parse(empty_database).database
    with held_port("127.0.0.1", "::1") as port:
        url = "postgresql://" + change.format(database=name, port=port)
        if "@/" in url and "host=" not in url:
            url += f"?host={postgres_server.directory}"
        with pytest.raises(ConnectionLostError, match=reason) as refused:
            connect(parse(url), ConnectionRole.WRITER, application_name="a test")
    assert str(refused.value).startswith(f"can't connect to the database {parse(url)}: ")
    assert "\n" not in str(refused.value)


# Passwords


@pytest.fixture
def guarded(own_server: PostgresServer) -> Iterator[str]:
    """The URL of a database whose owner needs a password."""
    with own_server.database() as name:
        with own_server.administer() as administrator:
            administrator.execute(f"ALTER ROLE {OWNER} PASSWORD '{PASSWORD}'")
        own_server.access.write_text(f"local all postgres trust\nlocal all {OWNER} scram-sha-256\n")
        own_server.stop()
        own_server.start()
        yield own_server.url(name)


def with_password(url: str, password: str) -> str:
    return url.replace(f"{OWNER}@", f"{OWNER}:{password}@")


def test_the_password_of_the_url_or_of_a_file(guarded: str, tmp_path: Path) -> None:
    """The password is read from the file at each connect, because it may be replaced there."""
    with connected(with_password(guarded, "s3cr3t%20p%40ss%2Fword")) as database:
        assert value(database, "SELECT current_user") == OWNER
    file = tmp_path / "password"
    file.touch(mode=0o600)
    for text, is_right in ((f"{PASSWORD}\n", True), ("wrong", False), (PASSWORD, True)):
        file.write_text(text)
        try:
            connect(parse(guarded), ConnectionRole.READER, application_name="a test", password_file=file).close()
        except ConnectionLostError as error:
            assert not is_right
            assert "password authentication failed" in str(error)  # noqa: PT017 - two cases
        else:
            assert is_right


def test_no_error_contains_the_password(guarded: str, own_server: PostgresServer) -> None:
    """Neither the error's text nor what it was raised from has the password that was refused, or the right one."""
    refused: list[BaseException] = []
    right = with_password(guarded, "s3cr3t%20p%40ss%2Fword")
    for url in (with_password(guarded, "s3cr3t-wrong"), right.replace("/test_", "/missing_")):
        with pytest.raises(ConnectionLostError) as found:
            connect(parse(url), ConnectionRole.WRITER, application_name="a test")
        refused.append(found.value)
    with connected(right) as connection:
        own_server.kill()
        with pytest.raises(ConnectionLostError) as found:
            rows(connection, "SELECT 1")
        refused.append(found.value)
    own_server.start()
    for error in refused:
        assert "on /" in str(error)
        chain: BaseException | None = error
        while chain is not None:
            assert "s3cr3t" not in f"{chain} {chain!r} {getattr(chain, 'pgconn', None)!r}"
            chain = chain.__cause__ or chain.__context__


@pytest.mark.parametrize(
    ("content", "mode", "part"),
    [
        (b"", 0o600, "must hold the password"),
        (b"\n", 0o600, "must hold the password"),
        (b"two\nlines\n", 0o600, "must hold the password"),
        (b"\xff\xfe", 0o600, "must hold the password"),
        (b"x" * 5000, 0o600, "must hold the password"),
        (b"s3cr3t", 0o644, "chmod 600"),
        (None, 0o600, "No such file"),
    ],
)
def test_an_unusable_password_file(tmp_path: Path, content: bytes | None, mode: int, part: str) -> None:
    """Each reason is named with the file, and nothing of its content."""
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=part) as refused:
        read_password(file)
    assert str(file) in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


def test_a_file_that_the_group_may_read(tmp_path: Path) -> None:
    """Service managers and pods give a user access by its group."""
    file = tmp_path / "password"
    file.write_bytes(b"pass word \r\n")
    file.chmod(0o440)
    assert read_password(file).reveal() == "pass word "


# TLS


@contextmanager
def serving_tls(server: PostgresServer, tmp_path: Path, name: str) -> Iterator[tuple[int, Path]]:
    """Yield the port of a server with a certificate for this name, and the file of its authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert(name)
    files = {"ssl_key_file": certificate.private_key_pem, "ssl_cert_file": certificate.cert_chain_pems[0]}
    for setting, content in files.items():
        file = server.data / setting
        content.write_to_path(file)
        file.chmod(0o600)
        os.chown(file, *owner(server.data))
        server.settings |= {setting: str(file)}
    with held_port("127.0.0.1") as port:
        server.settings |= {"listen_addresses": "127.0.0.1", "port": str(port), "ssl": "on"}
        server.stop()
        server.start()
        yield port, tmp_path / "ca.pem"


def owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


def test_the_server_is_verified(own_server: PostgresServer, tmp_path: Path) -> None:
    """With verify-full only a certificate of the authority for that name is accepted; a local server needs none."""
    with serving_tls(own_server, tmp_path, "localhost") as (port, authority):
        place = f"postgresql://{OWNER}@localhost:{port}/postgres"
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        with connected(f"{place}?sslmode=verify-full&sslrootcert={authority}") as database:
            assert value(database, encrypted) is True
            # The server notices soon that this end is gone, and gives its locks up.
            assert value(database, "SHOW tcp_user_timeout") == "5000"
            assert value(database, "SHOW tcp_keepalives_idle") == "2"
        with connected(place) as database:
            assert value(database, encrypted) is True
        with connected(f"{place}?sslmode=disable") as database:
            assert value(database, encrypted) is False
        with (
            pytest.raises(ConnectionLostError, match="certificate verify failed"),
            connected(f"{place}?sslmode=verify-full&sslrootcert=system"),
        ):
            pass
        by_address = place.replace("localhost", "127.0.0.1")
        with (
            pytest.raises(ConnectionLostError, match="does not match host name"),
            connected(f"{by_address}?sslmode=verify-full&sslrootcert={authority}"),
        ):
            pass


@pytest.mark.parametrize(
    ("url", "has_own", "expected"),
    [
        ("postgresql://db.example/d", False, True),
        ("postgresql://db.example/d", True, False),
        ("postgresql://db.example/d?sslrootcert=system", True, True),
        ("postgresql://db.example/d?sslmode=require", False, False),
        ("postgresql://localhost/d", False, False),
    ],
)
def test_which_authorities_are_trusted(tmp_path: Path, url: str, has_own: bool, expected: bool) -> None:
    """Those of the system, unless the URL names others or the user has some where libpq looks for them."""
    if has_own:
        (tmp_path / ".postgresql").mkdir()
        (tmp_path / ".postgresql" / "root.crt").touch()
    found = connection_parameters(parse(url), home=tmp_path).get("sslrootcert")
    assert (found is not None) == expected
    if found is not None:
        assert Path(str(found)).is_file()


# Errors


@pytest.fixture
def database(empty_database: str) -> Iterator[PostgresDatabase]:
    with connected(empty_database) as opened:
        rows(opened, "CREATE TABLE numbers (number int PRIMARY KEY, text text)")
        rows(opened, "INSERT INTO numbers VALUES (1), (2)")
        yield opened


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("INSERT INTO numbers VALUES (1)", ()),
        ("SELECT 'x'::integer", ()),
        ("SELECT * FROM missing", ()),
        ("SELECT %s, %s", (1,)),
    ],
)
def test_a_faulty_statement_is_a_bug(database: PostgresDatabase, sql: str, parameters: tuple[object, ...]) -> None:
    """Constraints, programming errors and unfit values are passed on, and the connection can still be used."""
    with pytest.raises(PeeweeException) as failed, database.atomic():
        rows(database, sql, *parameters)
    assert is_logic_error(failed.value)
    assert value(database, "SELECT 1") == 1


def test_the_first_error_of_a_transaction_counts(database: PostgresDatabase) -> None:
    """What fails only because the transaction has failed doesn't hide why it has."""
    execute: Callable[[str], object] = database.execute_sql

    def fail_twice() -> None:
        with database.translated(), database.atomic():
            try:
                execute("DO $$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '40001'; END $$")
            finally:
                execute("SELECT 1")

    with pytest.raises(MustRepeatError, match="in the way"):
        fail_twice()


def test_a_deadlock_is_repeated(empty_database: str, database: PostgresDatabase) -> None:
    """One of two transactions that wait for each other must be repeated, the other commits."""
    failures: list[Exception] = []

    def lock(mine: PostgresDatabase, first: int, second: int) -> None:
        try:
            with mine.atomic():
                rows(mine, "UPDATE numbers SET text = 'x' WHERE number = %s", first)
                both_locked.wait()
                rows(mine, "UPDATE numbers SET text = 'x' WHERE number = %s", second)
        except MustRepeatError as error:
            failures.append(error)

    both_locked = threading.Barrier(2)
    with connected(empty_database) as other:
        thread = threading.Thread(target=lock, args=(other, 2, 1))
        thread.start()
        lock(database, 1, 2)
        thread.join()
    assert [str(error).rpartition(": ")[2] for error in failures] == ["deadlock detected"]


def test_other_transactions_in_the_way(empty_database: str, database: PostgresDatabase) -> None:
    """A serialization failure, a lock that takes too long and a canceled statement of a writer are to be repeated."""
    with connected(empty_database) as other:

        def update_what_has_changed() -> None:
            with database.atomic():
                rows(database, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                rows(database, "SELECT * FROM numbers")
                rows(other, "UPDATE numbers SET text = 'y'")
                rows(database, "UPDATE numbers SET text = 'z'")

        with pytest.raises(MustRepeatError):
            update_what_has_changed()
        with other.atomic():
            rows(other, "LOCK TABLE numbers")
            with pytest.raises(MustRepeatError):
                run_within(database, "lock_timeout", "SELECT * FROM numbers")
        with pytest.raises(MustRepeatError):
            run_within(database, "statement_timeout", "SELECT pg_sleep(60)")
        assert value(database, "SELECT 1") == 1


def run_within(database: PostgresDatabase, timeout: str, sql: str) -> None:
    """Run a statement with a short timeout, which is over after it."""
    with database.atomic():
        rows(database, f"SET LOCAL {timeout} = '10ms'")
        rows(database, sql)


def test_a_query_that_takes_too_long(empty_database: str) -> None:
    """A reader's query ends after its time, and the reader can go on."""
    with connected(empty_database, ConnectionRole.READER) as reader:
        with pytest.raises(ReadTimeoutError):
            run_within(reader, "statement_timeout", "SELECT pg_sleep(60)")
        assert value(reader, "SELECT 1") == 1


def test_an_ended_session(postgres_server: PostgresServer, database: PostgresDatabase) -> None:
    """A session that an administrator, or another node, ends is lost; so is each later use of its connection."""
    with postgres_server.administer() as administrator:
        administrator.execute("SELECT pg_terminate_backend(%s)", [database.backend_pid])
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match=f"the connection to the database {database.name} is lost: "):
            rows(database, "SELECT 1")
    assert database.is_lost
    with pytest.raises(ConnectionLostError), database.translated(), database.atomic():
        pass


def test_a_server_that_ends(own_server: PostgresServer) -> None:
    """A server that crashes or is stopped in a transaction loses the connection, and refuses others."""

    def end_in_a_transaction(connection: PostgresDatabase, end: Callable[[], None]) -> None:
        with connection.translated(), connection.atomic():
            rows(connection, "SELECT 1")
            end()
            rows(connection, "SELECT 1")

    with own_server.database() as name:
        for end in (own_server.kill, own_server.stop):
            with connected(own_server.url(name)) as connection:
                with pytest.raises(ConnectionLostError):
                    end_in_a_transaction(connection, end)
                assert connection.is_lost
            with pytest.raises(ConnectionLostError):
                connect(parse(own_server.url(name)), ConnectionRole.WRITER, application_name="a test")
            own_server.start()


def test_a_database_that_became_read_only(postgres_server: PostgresServer, empty_database: str) -> None:
    """A writer needs another connection then, because another server may be the primary; for a reader it's a bug."""
    with postgres_server.administer() as administrator:
        administrator.execute(f"ALTER DATABASE {parse(empty_database).database} SET default_transaction_read_only = on")
    with connected(empty_database) as database, pytest.raises(ConnectionLostError, match="read-only"):
        rows(database, "CREATE TABLE numbers (number int)")


def test_a_standby_is_not_connected_to(own_server: PostgresServer) -> None:
    """A server that only replays another one's log is no place for a journal."""
    own_server.stop()
    (own_server.data / "standby.signal").touch()
    own_server.start()
    (own_server.data / "standby.signal").unlink()
    with pytest.raises(ConnectionLostError, match="hot standby"):
        connect(parse(own_server.url()), ConnectionRole.READER, application_name="a test")


@contextmanager
def small_disk(server: PostgresServer) -> Iterator[Path]:
    """Yield a directory for a tablespace with little room."""
    place = server.directory / "small"
    place.mkdir(exist_ok=True)
    uid, gid = owner(server.directory)
    options = f"size={SMALL_DISK_BYTES},uid={uid},gid={gid},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        # Lazily, because the server still has files open there.
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk(own_server: PostgresServer) -> None:
    """What finds no room is rolled back and named; what needs none is still carried out."""
    with small_disk(own_server) as place, own_server.database() as name, own_server.administer() as administrator:
        administrator.execute(f"CREATE TABLESPACE small OWNER {OWNER} LOCATION '{place}'")
        with connected(own_server.url(name)) as database:
            rows(database, "CREATE TABLE numbers (text text) TABLESPACE small")
            fill = "INSERT INTO numbers SELECT repeat('x', 1000) FROM generate_series(1, 10000)"
            with pytest.raises(JournalFullError, match=rf"no room for the database {name} on /"):
                rows(database, fill)
            assert value(database, "SELECT count(*) FROM numbers") == 0
            rows(database, "DROP TABLE numbers")
        administrator.execute("DROP TABLESPACE small")


def test_a_damaged_table(own_server: PostgresServer) -> None:
    """A page that can't be right is named, as an error of the disk is."""
    with own_server.database() as name:
        with connected(own_server.url(name)) as database:
            rows(database, "CREATE TABLE numbers AS SELECT generate_series(1, 1000) AS number")
            file = own_server.data / value(database, "SELECT pg_relation_filepath('numbers')")
        own_server.stop()
        with file.open("r+b") as page:
            page.write(b"\x55" * 8192)
        own_server.start()
        with connected(own_server.url(name)) as database, pytest.raises(DamagedDatabaseError, match="invalid page"):
            rows(database, "SELECT sum(number) FROM numbers")
