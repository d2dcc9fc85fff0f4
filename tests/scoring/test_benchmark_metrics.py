"""The metrics of hallucination benchmarks, worked out by hand."""

from itertools import chain

import pytest

from isrdpo.core.records import Answer
from isrdpo.scoring.benchmark_metrics import COLUMNS, benchmark_rows, named_order


def answer(identity: str, reference: str, response: str, question: str = "Q") -> Answer:
    return Answer(identity, question, "", reference, response, len(response.split()), None)


def values(name: str, answers: list[Answer]) -> dict[tuple[str, str], float]:
    """The values by (subset, measure)."""
    rows = benchmark_rows(name, answers)
    for row in rows:
        assert list(row) == COLUMNS
        assert row["value"] is None or row["value_low"] <= row["value"] <= row["value_high"]
    return {(row["subset"], row["measure"]): row["value"] for row in rows}


def pair(name: str, basic: str, hallucination: str) -> list[Answer]:
    """The answers to a pair of VideoHallucer's questions."""
    return [answer(f"{name}/basic", "yes", basic), answer(f"{name}/hallucination", "no", hallucination)]


def test_videohallucer_by_hand() -> None:
    pairs = [
        pair("temporal/0", "Yes.", "no"),
        pair("temporal/1", "yes", "Yes"),
        pair("temporal/2", "No", "No, it is not"),
        pair("temporal/3", "unclear", "???"),
        pair("object_relation/0", "YES", "NO"),
        [answer("temporal/9/basic", "yes", "yes")],
    ]
    answers = list(chain.from_iterable(pairs))
    figures = values("videohallucer", answers)
    measures = ("basic_accuracy", "halluc_accuracy", "accuracy")
    assert [figures["temporal", measure] for measure in measures] == [0.5, 0.5, 0.25]
    assert figures["all", "accuracy"] == (0.25 + 1) / 2, "the mean over subsets"
    assert figures["all", "yes_difference"] == pytest.approx((3 + 1 - 5) / 10)
    assert figures["all", "false_positive_ratio"] == pytest.approx(1 / 4)
    row = benchmark_rows("videohallucer", answers)[0]
    assert (row["questions"], row["unread"], row["incomplete"]) == (4, 2, 1)


def test_eventhallusion_by_hand() -> None:
    answers = [
        answer("entire/e/0", "Yes.", "Yes, it does"),
        answer("entire/e/1", "No.", "It does not"),
        answer("misleading/m/0", "No.", "no"),
    ]
    assert values("eventhallusion", answers) == {
        ("entire", "accuracy"): 0.5,
        ("misleading", "accuracy"): 1.0,
        ("all", "accuracy"): pytest.approx(2 / 3),
    }
    assert [row["unread"] for row in benchmark_rows("eventhallusion", answers)] == [1, 0, 1]


def test_vidhalluc_by_hand() -> None:
    choices = "Q\nChoices:\nA. run\nB. sit down\n"
    answers = [
        answer("ach_binaryqa/k/0/2/c1", "Yes", "Yes. It runs"),
        answer("ach_binaryqa/k/0/2/c2", "No", "no, never"),
        answer("ach_binaryqa/k/1/2/c1", "Yes", "Yes"),
        answer("ach_mcq/k/c1", "AB", "B, A", choices),
        answer("ach_mcq/k/c2", "B", "They sit down.", choices),
        answer("ach_mcq/k/c3", "A", "A and B", choices),
        answer("tsh/k/c", "AB", "Action A happens before action B."),
        answer("tsh/l/c", "BA", "Action A after action B"),
        answer("tsh/m/c", "A", "nothing"),
        answer("sth/a", "Yes", "Scene change: Yes, Locations: from a to b."),
        answer("sth/b", "No", "Scene change: No, Locations: None"),
        answer("sth/c", "No", "I see no change"),
    ]
    figures = values("vidhalluc", answers)
    whole = figures["ach_binaryqa", "accuracy"]
    assert whole == 0.5, "a question whose other clip is missing is not right"
    assert figures["ach_mcq", "accuracy"] == pytest.approx(2 / 3)
    assert figures["tsh", "accuracy"] == pytest.approx(2 / 3)
    assert figures["sth", "classification_score"] == 1.0
    unread = {row["subset"]: row["unread"] for row in benchmark_rows("vidhalluc", answers)}
    assert unread == {"ach_binaryqa": 0, "ach_mcq": 0, "tsh": 1, "sth": 1}


def test_the_scene_score_is_that_of_scikit_learns_correlation() -> None:
    from sklearn.metrics import matthews_corrcoef

    truth = ["Yes"] * 20 + ["No"] * 20
    reply = ["Yes"] * 15 + ["No"] * 18 + ["Yes"] * 7
    answers = []
    for number, (right, word) in enumerate(zip(truth, reply, strict=True)):
        answers.append(answer(f"sth/{number}", right, f"Scene change: {word}"))
    row = benchmark_rows("vidhalluc", answers)[0]
    assert row["value"] == pytest.approx((matthews_corrcoef(truth, reply) + 1) ** 2 / 4)
    assert 0 < row["value_low"] < row["value"] < row["value_high"] < 1
    alike = [answer(f"sth/{n}", "No", "Scene change: No") for n in range(3)]
    undefined = benchmark_rows("vidhalluc", alike)[0]
    assert undefined["value"] == 0.25, "a correlation that is not defined counts as 0"


@pytest.mark.parametrize(
    ("reply", "order"),
    [
        ("ba", "BA"),
        ("Action B.", "B"),
        ("It is not clear, action A perhaps", "None"),
        ("Action B, then action A", "BA"),
        ("action a. action b. action a.", "ABA"),
    ],
)
def test_the_order_of_actions(reply: str, order: str) -> None:
    assert named_order(reply) == order


@pytest.mark.parametrize("name", ["videohallucer", "eventhallusion", "vidhalluc"])
def test_nothing_answered_is_no_figure(name: str) -> None:
    assert benchmark_rows(name, []) == []


def test_thoughts_are_taken_out_before_the_official_rules_read() -> None:
    """ "yes anywhere counts" is VideoHallucer's rule; what a model thinks is not its reply."""
    pair = [
        answer("temporal/1/basic", "yes", "<think>It is not no.</think>Yes."),
        answer("temporal/1/hallucination", "no", "<think>Is it yes? It may be yes.</think>No."),
    ]
    assert values("videohallucer", pair)["temporal", "accuracy"] == 1.0
    unfinished = [pair[0], answer("temporal/1/hallucination", "no", "<think>No, or")]
    rows = {row["measure"]: row for row in benchmark_rows("videohallucer", unfinished)}
    assert rows["accuracy"]["value"] == 0.0
    assert rows["accuracy"]["unread"] == 1
