"""DNS rebinding against a real sender, a real name server and honeypots at every address there is.

Two network namespaces: in one the sender, in the other all the rest of the world, where each address answers. Whatever
the sender dials is seen, whether or not a test has thought of it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.delivery.rebinding import FAR, LITERALS, NAME_SERVER, NEAR, OWN, PORT, PUBLIC, ROUNDS
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


class World:
    """The two namespaces: `here` is the sender's machine, `there` the rest."""

    def __init__(self) -> None:
        self.here = f"webhookd-{os.getpid()}-here"
        self.there = f"webhookd-{os.getpid()}-there"

    def start(self, namespace: str, module: str, *arguments: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-m", f"tests.delivery.{module}", *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, *how: str) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Let a sender make its attempts; return what became of them, and what was dialled here and there."""
        with ExitStack() as stack:
            honeypots = [self.start(self.here, "rebinding", "here"), self.start(self.there, "rebinding", "there")]
            for process in honeypots:
                stack.callback(stop, process)
            for process in honeypots:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            sender = self.start(self.here, "rebound", *how)
            stack.callback(stop, sender)
            became = json.loads(sender.communicate(timeout=60)[0])
            here, there = (json.loads(process.communicate(timeout=PATIENCE_SECONDS)[0]) for process in honeypots)
            return became, here, there


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if shutil.which("ip") is None:
        pytest.skip("needs ip of iproute2, which isn't installed")
    world = World()
    here, there = world.here, world.there
    try:
        ip("netns", "add", here)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    resolver = Path("/etc/netns") / here
    try:
        ip("netns", "add", there)
        ip("link", "add", "here", "netns", here, "type", "veth", "peer", "name", "there", "netns", there)
        for namespace, link, addresses in (
            (here, "here", ["192.0.2.1/30", f"{OWN}/32", "2001:db8:1::1/64"]),
            (there, "there", ["192.0.2.2/30", f"{NAME_SERVER}/32", "2001:db8:1::2/64"]),
        ):
            for address in addresses:
                ip("-n", namespace, "addr", "add", address, "dev", link, *(["nodad"] if ":" in address else []))
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "link", "set", link, "up")
        ip("-n", here, "route", "add", "default", "via", "192.0.2.2")
        ip("-n", here, "-6", "route", "add", "default", "via", "2001:db8:1::2")
        # Every address is one of that machine's own.
        ip("-n", there, "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "main")
        ip("-n", there, "-6", "route", "add", "local", "::/0", "dev", "lo", "table", "main")
        resolver.mkdir(parents=True)
        (resolver / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\noptions timeout:2 attempts:3\n")
        yield world
    finally:
        shutil.rmtree(resolver, ignore_errors=True)
        for namespace in (here, there):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def test_a_rebinding_name_never_gets_a_connection(world: World) -> None:
    """Names that flip between public and internal answers, in hundreds of attempts, reach the public ones alone."""
    became, here, there = world.send()
    attempts = len(NEAR + FAR) * (3 * ROUNDS + 1) + len(LITERALS)
    assert sum(became.values()) == attempts
    assert here == {}
    assert set(there) == set(PUBLIC)  # both were reached, so the honeypots are there and listen
    places = {f"{PUBLIC[0]}:{PORT}", f"[{PUBLIC[1]}]:{PORT}"}
    answered = {outcome: count for outcome, count in became.items() if outcome.startswith("302 ")}
    assert set(answered) == {f"302 {place}" for place in places}
    assert sum(answered.values()) == sum(there.values())
    assert sum(answered.values()) == len(NEAR + FAR) * 3 * ROUNDS / 2
    assert became["blocked"] == attempts - sum(answered.values())


def test_a_policy_that_skips_the_check_is_noticed(world: World) -> None:
    """The planted fault: without the check at the connect every honeypot is hit, so they would have noticed."""
    became, here, there = world.send("carelessly")
    assert {outcome.split(" ")[0] for outcome in became} == {"302"}, became
    assert set(here) == {address if address != "0.0.0.0" else "127.0.0.1" for address in NEAR}
    assert set(there) == {address.removeprefix("::ffff:") for address in FAR}
