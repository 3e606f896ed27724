"""The meaning of each section and key, from which docs/configuration.md is generated."""

from collections.abc import Mapping
from types import MappingProxyType

INTRODUCTION = (
    "`webhookd serve --config FILE` reads a TOML file; without one it uses the defaults, with everything below "
    "`./var`. Relative paths start from the directory of the file. Every key may also come from the environment, as "
    "`WEBHOOKD_<SECTION>__<KEY>` (`WEBHOOKD_SERVER__PORT=9000`; lists as in TOML: `WEBHOOKD_EGRESS__PORTS='[443]'`), "
    "which overrides the file. [`webhookd check-config`](cli.md#webhookd-check-config) checks both. An unknown key is "
    "an error; other variables named `WEBHOOKD_…` are ignored. A change needs a restart.\n\n"
    "Each key has its default and what it takes in parentheses. Seconds, days, rates and shares may have fractions."
)

SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "delivery": "The policy of every webhook that doesn't set its own.",
        "egress": (
            "[Where webhookd may connect to](operations.md#where-it-may-connect-to). For receivers on a developer's "
            'machine: `allow_http = true`, `ports = []`, `allow_networks = ["127.0.0.0/8", "::1/128"]`.'
        ),
        "organizations": ("Limits for each organization; [the contract](contract.md#4-admin-api) says what they do."),
        "jwt": (
            "Tokens (JWT) of your application's own sign-in ([example](operations.md#tokens-of-your-own-application)), "
            "accepted in addition to API keys once one of the three files is set. The key fixes the algorithm, so that "
            "`none` and a public key used as a secret are refused."
        ),
    }
)
"""The text above a section's keys, for sections that have one."""

MEANINGS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "server": {
            "host": (
                'The address of the admin API, or a list: `["127.0.0.1", "::1"]`. `"::"` is every address, also IPv4.'
            ),
            "port": "Its port; 0 takes a free one, which the ready line names.",
            "control_socket": "The same API without a key, for the server's own user and root: mode 0600.",
            "max_connections": "Concurrent connections to the API over TCP.",
            "max_connections_per_address": (
                "From one address, for IPv6 from one /64. Behind a proxy all have the proxy's address."
            ),
            "request_timeout_seconds": (
                "How long a client may take to send a body, or one line of a stream of events."
            ),
            "rate_limit_per_second": (
                "Requests a second for one API key. Events, the control socket and the dashboard's pages are never "
                "limited. Example: `20`."
            ),
            "rate_limit_burst": "How many of them may arrive in a burst.",
            "dashboard": "Serve the [dashboard](dashboard.md) at `/` of the same listeners.",
        },
        "ingest": {
            "socket": ("The socket for producers on this machine, mode 0660."),
            "allowed_uids": (
                "The users who may use it, among those whom its mode admits. Both lists empty: all of these."
            ),
            "allowed_gids": "The groups whose members may use it, supplementary groups included.",
            "max_event_bytes": "The size of one event, on the socket and over HTTP.",
            "max_connections": "Concurrent connections to the socket.",
        },
        "journal": {
            "path": "The SQLite file that holds everything; it needs a local disk. Not with `url`.",
            "url": (
                "Keep the journal in [a PostgreSQL database](postgresql.md) instead of a file; it needs the extra "
                '`webhookd[postgresql]`. Example: `"postgresql://webhookd@db.example.com/webhookd"`.'
            ),
            "password_file": (
                "A file with the password of that database on one line, mode 0600 or 0640. It is read again for each "
                'new connection. Example: `"/etc/webhookd/database.password"`.'
            ),
            "node_name": "The name of this server in the database, for people. Not set: the host name.",
            "retention_days": "How long events, deliveries and attempts are kept once nothing of them is pending.",
            "max_bytes": (
                "Above this size of the data, events are refused until there is room: "
                "[a soft limit](operations.md#when-the-disk-is-full). Not set: the disk is the limit. Not with `url`. "
                "Example: `10737418240`."
            ),
        },
        "delivery": {
            "timeout_seconds": "The deadline of a whole attempt.",
            "connect_timeout_seconds": ("The part of it for DNS, connecting and TLS, over all addresses of a name."),
            "connection_max_age_seconds": (
                "The maximum age of a connection: after 80 to 100 % of it the next request opens a new one, with name, "
                "addresses and certificate checked again."
            ),
            "retry_delays": "The waits after failed attempts; the last one repeats.",
            "retry_jitter": "Each wait varies by plus or minus this share.",
            "max_refusals": "This many refusals of the message fail a delivery.",
            "max_age_seconds": "A delivery that is older fails.",
            "park_after": "This many refusals park a delivery, so that it no longer holds up those behind it.",
            "breaker_threshold": "This many faults of the endpoint in a row open its circuit breaker.",
            "max_in_flight": (
                "Requests in flight over all webhooks, [shared by organizations](contract.md#2-order-pace-and-failure)."
            ),
            "drain_seconds": ("How long requests, producers and API clients may continue after SIGTERM."),
            "ordering": ("One request at a time, in order; the same for each ordering key; or any order."),
            "concurrency": "Requests in flight for one webhook, if its ordering allows more than one.",
            "rate_limit_per_second": "The most deliveries a second for one webhook. Example: `50`.",
            "rate_limit_burst": "How many of them may be sent in a burst.",
            "when_inactive": "What to do with events for a disabled webhook; held ones wait until it is enabled.",
            "disable_after_seconds": (
                "A webhook that fails this long without a success, in at least ten attempts, is disabled "
                "([how it counts](contract.md#2-order-pace-and-failure))."
            ),
            "warn_after_seconds": "After this time `webhook.failing` warns of it; at most `disable_after_seconds`.",
        },
        "egress": {
            "allow_http": "Also allow `http://` URLs.",
            "ports": "The ports a URL may name; empty: any that is not known to belong to another protocol.",
            "allow_networks": ('Private, local or reserved networks that may be dialed. Example: `["10.1.0.0/16"]`.'),
            "proxy": (
                "An HTTP proxy for all requests; it resolves the names, and webhookd can't check the addresses. "
                'Example: `"http://proxy.example.com:3128"`.'
            ),
        },
        "events": {
            "unknown_event_types": "What to do with an event whose type is not in the catalogue.",
        },
        "organizations": {
            "max_webhooks": "Webhooks.",
            "max_keys": "API keys, expired keys included until they are revoked.",
            "max_live_pages": "Live pages of the dashboard that its keys and tokens may keep open.",
            "max_events_per_request": "Lines of one NDJSON request.",
        },
        "secrets": {
            "master_key_file": (
                "The file of [the master key](operations.md#the-master-key). Not set: the credential below if it "
                "exists, else `master.key` next to the journal. With `journal.url` one of the two is needed. Example: "
                '`"/etc/webhookd/master.key"`.'
            ),
            "master_key_credential": (
                "The name of the service manager's credential with the master key, a file in `$CREDENTIALS_DIRECTORY`."
            ),
        },
        "jwt": {
            "secret_file": (
                "HS256: a file with the shared secret, at least 32 bytes, mode 0600; a final newline is not part of "
                'it. Example: `"/etc/webhookd/jwt.secret"`.'
            ),
            "public_key_file": (
                "RS256 (RSA of at least 2048 bits), ES256 (P-256) or EdDSA (Ed25519): the PEM of one public key. "
                'Example: `"/etc/webhookd/jwt.pem"`.'
            ),
            "jwks_file": (
                "A file with a JWKS (RFC 7517) of such keys; a token's `kid` chooses among them. It is never fetched. "
                'Example: `"/etc/webhookd/jwks.json"`.'
            ),
            "issuer": "The required `iss`. Needed with a key file.",
            "audience": "The required `aud`, or one of its values. Needed with a key file.",
            "leeway_seconds": "The allowed clock difference for `exp`, `nbf` and `iat`.",
            "role_claim": "The claim with the role: a string, or a list, of which the highest role counts.",
            "roles": "The role for each value of that claim. A token with none of these values is a 403.",
            "organization_claim": (
                'The claim with the organization that a token is bound to; `"*"` means all. If set, a token without '
                "the claim is a 403."
            ),
        },
        "log": {
            "level": "The least severe lines to write.",
            "format": '"auto" is console on a terminal, else JSON.',
        },
    }
)
