"""For receivers: is this request webhookd's, unchanged and fresh — and if not, which of the usual mistakes was made?"""

from webhookd.verify.check import Mistake, VerificationError, Verified, verify

__all__ = ["Mistake", "VerificationError", "Verified", "verify"]
