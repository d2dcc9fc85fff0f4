"""Stage 5: silence is not truth, rows keep their order, and a stage that survives being killed."""

from collections.abc import Callable

import pytest

from isrdpo.core import metrics, prompts, records, runs
from isrdpo.models import local as vlmm
from isrdpo.stages import data, evaluate
from isrdpo.toybox import claims

FILES = ("answers.jsonl", "fixed_contexts.jsonl", "fixed_judgments.jsonl", "eval.json")


@pytest.fixture
def ready(make_run: Callable) -> Callable:
    def made(name: str, *overrides: str) -> runs.Run:
        run = make_run(name, *overrides)
        data.run(run, 1)
        return run

    return made


@pytest.mark.slow
@pytest.mark.parametrize("file", ["answers.jsonl", "fixed_judgments.jsonl"])
def test_killed_after_a_batch_it_ends_with_the_same_bytes(
    ready: Callable, kill_at: Callable, file: str
) -> None:
    whole, broken = (ready(name, "evaluate.batch_size=1") for name in ("whole", "broken"))
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
        right = f"The {thing['shape']} is {thing['color']}."
        wrong = f"The {thing['shape']} is {'red' if thing['color'] != 'red' else 'blue'}."
        assert [
            claims.count(text, facts)["correct"]
            for text in (right, wrong, f"{right} {wrong}", f"{wrong} {right}")
        ] == [True, False, False, False]


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
    assert [(a.id, a.reference, a.truth) for a in answers] == [("b", "x", None), ("a", "", None)]
    figures = records.read_json(run.file(0, "eval.json"))
    assert (
        figures["questions"] == 2 and figures["accuracy"] is None and figures["fixed_judge_accuracy"] is None
    )


def test_answers_are_greedy_in_order_and_empty_ones_counted(ready: Callable) -> None:
    run = ready("greedy")
    evaluate.run(run, 0)
    samples, answers = (
        records.read_jsonl(run.file(0, "samples.jsonl"), records.Sample),
        records.read_jsonl(run.file(0, "answers.jsonl"), records.Answer),
    )
    assert [(a.id, a.question) for a in answers] == [(s.id, s.question) for s in samples]
    model = vlmm.open_policy(run.params, run.policy(1))
    alone = model.generate(
        model.encode([run.clip(samples[4].video)]), [samples[4].question], max_new_tokens=8
    )
    assert answers[4].response == alone[0] and all(a.words == metrics.word_count(a.response) for a in answers)
    assert run.done("evaluate", 0)["counts"]["empty"] == sum(not a.response.strip() for a in answers)


def test_the_fixed_pairs_are_judged_with_the_policy_s_own_description(ready: Callable) -> None:
    run = ready("fixed")
    evaluate.run(run, 0)
    pairs = records.read_jsonl(run.file(0, "fixed_pairs.jsonl"), records.FixedPair)
    contexts, calls = (
        records.read_jsonl(run.file(0, name), dict)
        for name in ("fixed_contexts.jsonl", "fixed_judgments.jsonl")
    )
    assert [row["id"] for row in contexts] == [p.id for p in pairs]
    model = vlmm.open_policy(run.params, run.policy(1))
    videos = model.encode([run.clip(pairs[0].video)])
    assert model.generate(videos, [prompts.CONTEXT], max_new_tokens=8) == [contexts[0]["context"]]
    for template, given in ((prompts.JUDGE, contexts[0]["context"]), (prompts.JUDGE_WITHOUT_CONTEXT, None)):
        asked = prompts.judge_request(template, pairs[0].question, *pairs[0].responses, given)
        (call,) = [
            c
            for c in calls
            if c["id"] == pairs[0].id and c["with_context"] == (given is not None) and c["order"] == 0
        ]
        assert call["scores"] == pytest.approx(model.choose(videos, [asked])[0].tolist(), abs=1e-5)
    figures = records.read_json(run.file(0, "eval.json"))
    truer = {p.id: p.truer for p in pairs}
    right = [c["choice"] == truer[c["id"]] for c in calls if not c["with_context"]]
    assert figures["fixed_judge_accuracy_no_context"] == pytest.approx(sum(right) / 8)
