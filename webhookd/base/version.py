"""The release, from the installed package, and the User-Agent of requests."""

from importlib.metadata import version

VERSION = version("webhookd")
USER_AGENT = f"webhookd/{VERSION}"
