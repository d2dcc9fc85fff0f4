"""Failures one after another: when to go on to the next request, and when none can succeed."""

from collections import Counter
from dataclasses import dataclass, field

from isrdpo.formats.connection import Fault, Reply

MAX_FAILURES = 20  # one after another, whatever they are due to
MAX_LASTING = 2  # one after another that no single request is to blame for


@dataclass
class Patience:
    """A count of failures since the last usable reply.

    replied: whether this server ever gave a usable reply under this key and model. Once it has, a refusal of
    access can be due to the request (some filters answer 403), and counts like any other failure.
    limit: failures of any kind that are too many; None where there is no limit.
    """

    replied: bool
    limit: int | None = MAX_FAILURES
    failures: Counter[Fault] = field(default_factory=Counter)

    def is_over(self, reply: Reply) -> bool:
        """Count a reply. Returns whether nothing more should be sent."""
        if not reply.error:
            self.failures.clear()
            self.replied = True
            return False
        self.failures[reply.fault] += 1
        if self.failures[Fault.UNREACHABLE] >= MAX_LASTING:
            return True
        if self.failures[Fault.ACCESS] >= MAX_LASTING and not self.replied:
            return True
        return self.limit is not None and self.failures.total() >= self.limit
