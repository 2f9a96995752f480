"""The HTTP API on the unix socket: routes, and nothing that decides."""
