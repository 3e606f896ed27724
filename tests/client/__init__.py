"""The clients for producers: the state machine, the blocking and asynchronous client, and restarts of the server."""
