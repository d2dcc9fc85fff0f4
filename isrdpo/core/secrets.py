"""Keys and tokens, which never stand in parameters, logs, pages or provenance."""

import re
from typing import Any

SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[a-z]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{30,}"
    r"|xox[a-z]-[\w-]{10,}|-----BEGIN|://[^/\s:@]+:[^/\s@]+@|(?i:\bbearer\s+\S{8,})"
)
SECRET_NAME = re.compile(
    r"(?i)(?:^|[._-])(?:api_?key|access_?key|token|auth|secret|password|passwd|credentials?)$"
)


def is_secret(value: Any) -> bool:
    """Whether a value is text that holds something like a key or a token."""
    return isinstance(value, str) and SECRET.search(value) is not None


def printable(value: Any) -> str:
    """A value for a message: cut to 80 characters, and "(hidden)" where it holds a key or a token."""
    try:
        return "(hidden)" if SECRET.search(str(value)) else repr(value)[:80]
    except ValueError:  # Python does not write whole numbers of more than 4300 digits
        return "a number of thousands of digits"
