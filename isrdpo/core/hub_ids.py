"""Names of repositories on the Hugging Face hub."""

import re

_OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form OWNER/NAME. The hub is not asked whether the repository exists."""
    return _OWNER_AND_NAME.fullmatch(name) is not None
