"""The HTTP client that delivers: connections, TLS, one request and its answer."""
