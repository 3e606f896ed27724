"""What each section and key of the configuration is for, in words: the one source of docs/configuration.md."""

from collections.abc import Mapping
from types import MappingProxyType

INTRODUCTION = (
    "`webhookd serve --config FILE` reads a TOML file; without one the defaults are in force and everything is below "
    "`./var`. Relative paths start from the directory of the file. Every key may also come from the environment, as "
    "`WEBHOOKD_<SECTION>__<KEY>` (`WEBHOOKD_SERVER__PORT=9000`; lists as in TOML: `WEBHOOKD_EGRESS__PORTS='[443]'`), "
    "which wins over the file. `webhookd check-config --config FILE` names what is wrong by file, line and key, or "
    "prints what is in force. A key that doesn't exist is an error."
)

SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "delivery": "The policy of every webhook that doesn't set its own.",
        "egress": (
            "Where webhookd may connect to. Private, local and reserved addresses are refused unless a network here "
            "allows them. For receivers on a developer's machine: `allow_http = true`, `ports = []`, `allow_networks "
            '= ["127.0.0.0/8", "::1/128"]`.'
        ),
        "organizations": (
            "The most that one organization may have or send, so that none takes what all share. These are for "
            "organizations: what belongs to none has no such limit. Lowering one removes nothing: what is there goes "
            "on, and nothing is added until there is less."
        ),
        "jwt": (
            "Tokens (JWT) of your application's own sign-in, taken as `Authorization: Bearer <token>` beside API "
            "keys once one of the three files is set. What a token is checked with is fixed by the key: one "
            "algorithm for each kind, so that `none` and a public key used as a secret are no way in. "
            "[operations.md](operations.md#tokens-of-your-own-application) shows an example."
        ),
    }
)
"""What is said above a section's keys, where there is something."""

MEANINGS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "server": {
            "host": (
                'The address the admin API listens on, or a list of them: `["127.0.0.1", "::1"]`. `"::"` is every '
                "address, of IPv4 as well."
            ),
            "port": 'Its port; 0 takes a free one, which the line that says "ready" names.',
            "control_socket": (
                "The same API for this machine's operator: mode 0600, no key needed by the server's own user and root."
            ),
            "max_connections": "Connections to the API over TCP at a time.",
            "max_connections_per_address": (
                "How many of them from one address, for IPv6 from one /64. Behind a proxy all have the proxy's."
            ),
            "request_timeout_seconds": (
                "How long a client may take to send a request's body, or one line of a stream of events."
            ),
            "rate_limit_per_second": (
                "How many requests a second one API key may make; events, the control socket and the pages of the "
                "dashboard are never limited. Such as `20`."
            ),
            "rate_limit_burst": "How many of them may come in a burst.",
            "dashboard": "Serve the [dashboard](dashboard.md) at `/` of the same listeners.",
        },
        "ingest": {
            "socket": (
                "The socket for producers on this machine, mode 0660: one JSON event a line in, one result a line out."
            ),
            "allowed_uids": (
                "The users who may use it, by the kernel's word, of those whom its file mode admits. Both lists "
                "empty: all of these."
            ),
            "allowed_gids": "The groups whose members may, supplementary ones included.",
            "max_event_bytes": "The size of one event, on the socket and over HTTP; at most 1048576.",
            "max_connections": "Connections to the socket at a time.",
        },
        "journal": {
            "path": "The SQLite file that holds everything; it wants a local disk.",
            "retention_days": (
                "How long events, deliveries and attempts stay once nothing of them is to be sent any more."
            ),
            "max_bytes": (
                "The size of what the file holds at which events are refused until there is room again; without it the "
                "disk is the limit. A soft bound: attempts and changes still go in, and one commit may go above it. "
                "Such as `10737418240`."
            ),
        },
        "delivery": {
            "timeout_seconds": "One deadline over a whole attempt, 1 to 30.",
            "connect_timeout_seconds": (
                "How much of it may go into DNS, connecting and TLS, over all addresses of the receiver's name."
            ),
            "connection_max_age_seconds": (
                "The greatest age of a connection: after 80 to 100 % of it the next request opens another one, for "
                "which the name is resolved and its addresses and the certificate are checked again."
            ),
            "retry_delays": "How long to wait after each failed attempt; the last one repeats.",
            "retry_jitter": "Each wait is varied by plus or minus this share.",
            "max_refusals": "So many refusals of the message by its receiver fail a delivery.",
            "max_age_seconds": "So does this age.",
            "park_after": "Refusals after which a delivery stops holding up the ones behind it.",
            "breaker_threshold": (
                "Faults in a row, of the endpoint and not of one message, that open its circuit breaker."
            ),
            "max_in_flight": "Requests in flight at a time, over all webhooks. An organization, or a webhook that belongs to none, begins another one while it has fewer than twice as many as are free, so that nobody takes all.",
            "drain_seconds": (
                "How long requests in flight, producers and clients of the API may go on after SIGTERM, all together."
            ),
            "ordering": (
                '"strict": one at a time, in order. "key": the same for each ordering key. "none": any order.'
            ),
            "concurrency": "Requests in flight for one webhook, where its ordering allows more than one.",
            "rate_limit_per_second": "How many deliveries a second a webhook gets at most. Such as `50`.",
            "rate_limit_burst": "How many of them may come in a burst.",
            "when_inactive": (
                'What becomes of an event for a webhook that is switched off: `"hold"` until it is on again, or '
                '`"drop"`.'
            ),
            "disable_after_seconds": (
                "How long a webhook may fail without one success, in at least ten attempts, before it is switched off."
            ),
            "warn_after_seconds": ("How long before `webhook.failing` warns of it; it must not be above the other."),
        },
        "egress": {
            "allow_http": "Whether `http://` is dialed as well as `https://`.",
            "ports": "The ports a webhook's URL may name; empty: any that isn't known as another protocol's.",
            "allow_networks": (
                'Networks that may be dialed although they are private, local or reserved, such as `["10.1.0.0/16"]`.'
            ),
            "proxy": (
                "An HTTP proxy to go through; it then resolves the names and webhookd can't check the addresses. "
                'Such as `"http://proxy.example.com:3128"`.'
            ),
        },
        "events": {
            "unknown_event_types": (
                'What becomes of an event whose type the catalogue doesn\'t know: "reject" or "accept".'
            ),
        },
        "organizations": {
            "max_webhooks": "Webhooks of one organization; one more is refused with `QUOTA_EXCEEDED`.",
            "max_keys": "API keys bound to it, expired ones that have not been revoked included; the same.",
            "max_live_pages": "Pages of the dashboard that its keys and tokens may keep open at a time.",
            "max_events_per_request": (
                "Lines of one NDJSON request with a key or token that is bound to it. The line after them gets an "
                "error, and the rest isn't read."
            ),
        },
        "secrets": {
            "master_key_file": (
                "The key that encrypts the webhooks' secrets; without this key, the credential below where there is "
                'one, else master.key beside the journal. Such as `"/etc/webhookd/master.key"`.'
            ),
            "master_key_credential": (
                "The name of the credential in which a service manager hands the key over: a file in the directory "
                "that `CREDENTIALS_DIRECTORY` names (systemd's "
                "`LoadCredential=webhookd-master-key:/etc/webhookd/master.key`)."
            ),
        },
        "jwt": {
            "secret_file": (
                "HS256: a file with the shared secret, at least 32 bytes, mode 0600; a newline at its end is not "
                'part of it. Such as `"/etc/webhookd/jwt.secret"`.'
            ),
            "public_key_file": (
                "RS256 (RSA of at least 2048 bits), ES256 (P-256) or EdDSA (Ed25519): the PEM of one public key. "
                'Such as `"/etc/webhookd/jwt.pem"`.'
            ),
            "jwks_file": (
                "A JWKS (RFC 7517) of such keys; `kid` chooses where a token has one. It is never fetched: whoever "
                'rotates keys writes the file. Such as `"/etc/webhookd/jwks.json"`.'
            ),
            "issuer": "Who makes the tokens: `iss` must be exactly this. Needed with a key file.",
            "audience": "For whom they are: `aud` must be or hold this. Needed with a key file.",
            "leeway_seconds": (
                "How far the clocks may be apart, at most 300, when `exp`, `nbf` and `iat` are looked at."
            ),
            "role_claim": "The claim that gives the role: a string, or a list of which the mightiest counts.",
            "roles": "Which value of that claim is which role. A token with no value of these is a 403.",
            "organization_claim": (
                'The claim that names the organization a token is bound to, as a key may be; `"*"` in it stands for '
                "all. With this key set, a token without the claim is a 403."
            ),
        },
        "log": {
            "level": '"debug", "info", "warning" or "error", to standard error.',
            "format": '"json", "console", or "auto": for a person on a terminal, else one JSON object a line.',
        },
    }
)
