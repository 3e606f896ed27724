"""For receivers: checks that a request is from webhookd, unchanged and recent, and explains why if it isn't."""

from webhookd.verify.check import Headers, Mistake, VerificationError, Verified, verify

__all__ = ["Headers", "Mistake", "VerificationError", "Verified", "verify"]
