"""The configuration: a tree of frozen Structs, read from a TOML file and the environment."""

from webhookd.config.load import load_config
from webhookd.config.reference import reference
from webhookd.config.tree import Config, DeliveryConfig, EgressConfig, IngestConfig, JournalConfig, JwtConfig, LogConfig
from webhookd.config.words import KEYS, describe, shown

__all__ = [
    "KEYS",
    "Config",
    "DeliveryConfig",
    "EgressConfig",
    "IngestConfig",
    "JournalConfig",
    "JwtConfig",
    "LogConfig",
    "describe",
    "load_config",
    "reference",
    "shown",
]
