"""Checks texts against what is known to be true of their clips (Toybox only), for the tables of a run."""

from enum import StrEnum

from isrdpo.toybox import claims

Claim = tuple[str, int | None, str]  # the kind, the object it is about, and the value


class DescriptionSays(StrEnum):
    """What a description says of the fact that a question asks about."""

    RIGHT = "right"
    WRONG = "wrong"
    NOTHING = "nothing"
    ABSENT = "no description"


def scene_facts(facts: dict | None) -> dict | None:
    """Return what is known of a clip without the question about it; None where nothing is."""
    return facts and {"scene": facts["scene"]}


def count_pair(responses: list[str], facts: dict | None) -> list[bool] | None:
    """Return for each response whether its main claim is stated and true; None where facts are not known."""
    if facts is None:
        return None
    return [claims.count(response, facts)["correct"] for response in responses]


def false_claims(text: str, facts: dict) -> set[Claim]:
    """Return the distinct false claims of a text."""
    return {
        (claim.kind, claim.about, claim.value)
        for claim in claims.distinct_claims(text, facts)
        if claim.verdict is False
    }


def description_says(context: str | None, facts: dict | None) -> DescriptionSays:
    """Return what a description says of the asked fact.

    One without the asked fact that has a false claim counts as wrong.
    """
    if not isinstance(context, str) or facts is None or "asked" not in facts:
        return DescriptionSays.ABSENT
    if claims.count(context, facts)["correct"]:
        return DescriptionSays.RIGHT
    return DescriptionSays.WRONG if false_claims(context, facts) else DescriptionSays.NOTHING
