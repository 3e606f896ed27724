"""The one place that states the release; everything else reads it from the installed package."""

from importlib.metadata import version

VERSION = version("webhookd")
USER_AGENT = f"webhookd/{VERSION}"
