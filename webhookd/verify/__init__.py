"""For receivers: is this request webhookd's, unchanged and fresh — and if not, which of the usual mistakes was made?"""

from webhookd.verify.check import Headers, Mistake, VerificationError, Verified, verify

__all__ = ["Headers", "Mistake", "VerificationError", "Verified", "verify"]
