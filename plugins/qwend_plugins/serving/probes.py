"""How a server of OpenAI's API shows that it works."""

from __future__ import annotations

from qwend.plugin import HttpProbe, Probe

API_KEY = "api_key"
"""The name of the secret that a service takes as its key."""


def chat_probe(name: str, *, deadline_s: float) -> Probe:
    """Ready when it answers /health and has given one real token."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 1,
        "temperature": 0,
    }
    return Probe(
        ready=HttpProbe("/health"),
        work=HttpProbe("/v1/chat/completions", body=body, field="usage.completion_tokens", timeout_s=120.0),
        deadline_s=deadline_s,
    )
