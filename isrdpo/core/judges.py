"""Who may judge the pairs (`judge.method`), and what each judge needs; `stages/judge.py` says how each one
decides.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Judge:
    """What a judge needs, and what follows from that for the other stages.

    `asks_policy`: the verdicts are the policy's own, so the policy is loaded and a description helps.
    `has_margin`: a verdict comes with log-odds. `needs_facts`: only samples whose facts are known can be
    judged (Toybox). `needs_responses`: pairs are the policy's responses; else they are the data set's own
    chosen and rejected. `arm`: the name of an experiment that this judge makes by itself; empty where the
    description decides the name. `parameters`: the only parameters of the judge stage that matter to its
    rows; None: all of them do.
    """

    asks_policy: bool = False
    has_margin: bool = False
    needs_facts: bool = False
    needs_responses: bool = True
    arm: str = ""
    parameters: tuple[str, ...] | None = None


JUDGES = {
    "generate": Judge(asks_policy=True),
    "score": Judge(asks_policy=True, has_margin=True),
    "truth": Judge(needs_facts=True, arm="oracle"),
    "random": Judge(arm="random"),
    "given": Judge(
        needs_responses=False,
        arm="given",
        parameters=("judge.method", "judge.keep_surest", "judge.balance_lengths"),
    ),
}
OWN_METHOD = "score"  # how a policy is asked for verdicts of its own where another judge decides in the loop
