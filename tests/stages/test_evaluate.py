"""Stage 5: silence is not truth, rows keep their order, and a stage that survives being killed."""

from collections.abc import Callable

import pytest

from isrdpo.core import metrics, prompts, records, runs
from isrdpo.models.local import open_policy
from isrdpo.stages import data, evaluate
from isrdpo.toybox import claims

FILES = ("answers.jsonl", "fixed_contexts.jsonl", "fixed_judgments.jsonl", "eval.json")


@pytest.fixture
def ready(make_run: Callable) -> Callable:
    def make_ready_run(name: str, *overrides: str) -> runs.Run:
        run = make_run(name, *overrides)
        data.run(run, 1)
        return run

    return make_ready_run


@pytest.mark.slow
@pytest.mark.parametrize("file", ["answers.jsonl", "fixed_judgments.jsonl"])
def test_killed_after_a_batch_it_ends_with_the_same_bytes(
    ready: Callable, kill_at: Callable, file: str
) -> None:
    whole = ready("whole", "evaluate.batch_size=1")
    broken = ready("broken", "evaluate.batch_size=1")
    evaluate.run(whole, 0)
    kill_at(broken, "evaluate", 0, file, 1)
    evaluate.run(broken, 0)
    for name in FILES:
        assert whole.file(0, name).read_bytes() == broken.file(0, name).read_bytes()


@pytest.mark.parametrize("text", ["", " \n", "!?", "the the the", "Yes.", "{facts}", "<video>"])
def test_silence_and_nonsense_are_wrong(ready: Callable, text: str) -> None:
    for sample in records.read_jsonl(ready("wrong").file(0, "samples.jsonl"), records.Sample):
        assert claims.count(text, sample.facts)["correct"] is False
        assert claims.count(sample.answer, sample.facts)["correct"] is True


def test_an_answer_that_contradicts_itself_is_wrong(ready: Callable) -> None:
    for sample in records.read_jsonl(ready("both").file(0, "samples.jsonl"), records.Sample):
        thing = sample.facts["scene"]["objects"][0]
        facts = sample.facts | {"asked": {"kind": "color", "object": 0}}
        other_color = "blue" if thing["color"] == "red" else "red"
        right = f"The {thing['shape']} is {thing['color']}."
        wrong = f"The {thing['shape']} is {other_color}."
        responses = (right, wrong, f"{right} {wrong}", f"{wrong} {right}")
        verdicts = [claims.count(response, facts)["correct"] for response in responses]
        assert verdicts == [True, False, False, False]


def test_without_facts_nothing_is_called_true(own_data: Callable, make_run: Callable) -> None:
    folder, _ = own_data(
        [
            {"id": "b", "video": "{1}", "prompt": "What?", "answer": "x"},
            {"id": "a", "video": "{0}", "prompt": "Where?"},
        ]
    )
    run = make_run("run", f"data={folder}", "data.samples=0", "data.questions=0", "data.fixed_pairs=0")
    data.run(run, 1)
    evaluate.run(run, 0)
    answers = records.read_jsonl(run.file(0, "answers.jsonl"), records.Answer)
    columns = [(answer.id, answer.reference, answer.truth) for answer in answers]
    assert columns == [("b", "x", None), ("a", "", None)]
    figures = records.read_json(run.file(0, "eval.json"))
    assert figures["questions"] == 2
    assert figures["accuracy"] is None
    assert figures["fixed_judge_accuracy"] is None


def test_answers_are_greedy_in_order_and_empty_ones_counted(ready: Callable) -> None:
    run = ready("greedy")
    evaluate.run(run, 0)
    samples = records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample)
    answers = records.read_jsonl(run.file(0, "answers.jsonl"), records.Answer)
    questions = [(sample.id, sample.question) for sample in samples]
    assert [(answer.id, answer.question) for answer in answers] == questions
    policy = open_policy(run.params, run.policy(1))
    videos = policy.encode([run.clip(samples[4].video)])
    assert [answers[4].response] == policy.generate(videos, [samples[4].question], max_new_tokens=8)
    assert all(answer.words == metrics.word_count(answer.response) for answer in answers)
    empty = [answer for answer in answers if not answer.response.strip()]
    assert run.done("evaluate", 0)["counts"]["empty"] == len(empty)


def test_the_fixed_pairs_are_judged_with_the_policy_s_own_description(ready: Callable) -> None:
    run = ready("fixed")
    evaluate.run(run, 0)
    pairs = records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), records.FixedPair)
    contexts = records.read_jsonl(run.file(0, "fixed_contexts.jsonl"), dict)
    calls = records.read_jsonl(run.file(0, "fixed_judgments.jsonl"), dict)
    assert [row["id"] for row in contexts] == [pair.id for pair in pairs]

    policy = open_policy(run.params, run.policy(1))
    videos = policy.encode([run.clip(pairs[0].video)])
    description = contexts[0]["context"]
    assert policy.generate(videos, [prompts.CONTEXT], max_new_tokens=8) == [description]
    first_calls = [call for call in calls if call["id"] == pairs[0].id and call["order"] == 0]
    for template, context in ((prompts.JUDGE, description), (prompts.JUDGE_WITHOUT_CONTEXT, None)):
        request = prompts.judge_request(template, pairs[0].question, *pairs[0].responses, context)
        (call,) = [call for call in first_calls if call["with_context"] == (context is not None)]
        scores = policy.choose(videos, [request])[0]
        assert call["scores"] == pytest.approx(scores.tolist(), abs=1e-5)

    figures = records.read_json(run.file(0, "eval.json"))
    truer = {pair.id: pair.truer for pair in pairs}
    right = [call["choice"] == truer[call["id"]] for call in calls if not call["with_context"]]
    assert figures["fixed_judge_accuracy_no_context"] == pytest.approx(sum(right) / 8)
