"""Deterministic simulation: the real sockets, router, actors and journal under faults that one seed chooses.

`python -m tests.simulation` runs it. `driver` plays a seed as a series of lives (`life`) of one server, with what
`producers`, `operators` and the `environment` do to it and `receivers` answer. `watch` checks each request as it is
made, `monitor` checks the journal periodically, `audit` checks it after all faults have ended. `model` is what the
checkers know independently of the server, and `planted` names the bugs that they must find.

Real: the connections of the ingest socket, router, registry, actors, lanes and supervisors, retry decisions, signing,
replays, retention, and the journal on a SQLite file with its writer, readers and group commit. Calls to SQLite run in
the event loop, each after the time that a disk might take. The seed also decides which ready task trio runs next.

Simulated, from one `random.Random`:
- receivers, in place of the transport: answers of every status and delay, hanging requests, failures of DNS, connect
  and TLS, replies cut off after the event was accepted, `webhook-delivery` headers, outages;
- producers, over streams in memory: bursts, lines in pieces, connections closed before the answer, duplicates, clients
  that never read;
- operators: webhooks of every ordering are created, changed, disabled, enabled and deleted, and their secrets rotated;
  deliveries are retried, recovered and replayed;
- clocks that are set by up to a year, suspends of up to an hour, a disk that is full for up to 15 s;
- up to four crashes in a seed, each of which copies the files as kill -9 leaves them; other lives end by SIGTERM.
At the end every webhook is enabled, receivers answer 2xx, and failed deliveries are recovered.

`watch` checks each request, with rules that share no code with the server: the bytes of the body, signatures of every
current secret, nothing to a disabled or deleted webhook or before its Retry-After, one probe at a time, the ramp after
a pause, the rate limit, order within a queue, no delivery in flight twice, and that a changed or enabled webhook is
tried at once. `producers` checks each answer. `monitor` checks every 20 s that no enabled webhook with pending
deliveries stays silent, and that nothing expires early. `audit` checks with its own SQL that every acknowledged event
is stored once and delivered to each webhook that matched, that attempts and requests agree except after crashes, that a
receiver accepted a delivery twice only after a lost reply, a crash or a retry by hand, that operational events are
right and sent once, and that no actor crashed and no wake-up was lost.

Not simulated: what is below the journal and the transport (power cuts, framing of answers), threads and therefore
backups and rotation of the master key, and the admin API.
"""
