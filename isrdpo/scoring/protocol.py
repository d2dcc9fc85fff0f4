"""Protocol `hound`: what a scorer is asked about an answer, and how its reply is read.

It is LLaVA-Hound's evaluation, bug for bug: the wording of the first two prompts, and every rule of
reading, are part of the protocol, since published numbers rest on them. They are quoted from
github.com/RifleZhang/LLaVA-Hound-DPO (Apache-2.0): llava_hound_dpo/test/eval/eval_qa.py (own sets, which
have captions), eval_official_qa.py (official sets, which have none; after Video-ChatGPT's) and
inference/utils.py (get_score). The prompt about claims is ours.
"""

import re
from collections import Counter
from dataclasses import dataclass

from isrdpo.core.replies import without_thoughts

OWN = "hound"
OFFICIAL = "hound.official"
CLAIMS = "claims"
WORDS = 256  # of an answer that the scorer sees
RIGHT = 3.0  # own sets: the score from which an answer counts as right
Messages = list[dict[str, str]]

OWN_PROMPT = """Given the following inputs:

1. **Ground Truth Video Caption**: {caption}
2. **Question Related to the Caption**: {question}
3. **Ground Truth Answer**: {answer}
4. **Model Predicted Answer**: {prediction}

Your task is to evaluate the model's predicted answer against the ground truth answer, based on the \
context provided by the video caption and the question. Consider the following criteria for evaluation:

- **Relevance**: Does the predicted answer directly address the question posed, considering the \
information provided in the video caption?
- **Accuracy**: Compare the predicted answer to the ground truth answer. Does the prediction accurately \
reflect the information given in the ground truth answer without introducing factual inaccuracies?
- **Clarity**: Assess the clarity of the predicted answer. Look for issues such as repetition, unclear \
descriptions, or any grammatical errors that could hinder understanding.
- **Completeness**: Determine if the predicted answer fully covers the scope of the ground truth answer. \
Does it leave out critical information or does it include all necessary details?

**Output Format**:
Explanation: <brief judgement of prediction>
Score: <an integer score of quality from 1-5>"""

OFFICIAL_SYSTEM = """You are an intelligent chatbot designed for evaluating the correctness of generative \
outputs for question-answer pairs.\x20
Your task is to compare the predicted answer with the correct answer and determine if they match \
meaningfully. Here's how you can accomplish the task:
------
##INSTRUCTIONS:\x20
- Focus on the meaningful match between the predicted answer and the correct answer.
- Consider synonyms or paraphrases as valid matches.
- Evaluate the correctness of the prediction compared to the answer."""

OFFICIAL_PROMPT = """Please evaluate the following video-based question-answer pair:

Question: {question}
Correct Answer: {answer}
Predicted Answer: {prediction}

Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, \
with 5 indicating the highest meaningful match.\x20
Please generate the response in the form of a Python dictionary string with keys 'pred' and 'score', where \
value of 'pred' is a string of 'yes' or 'no' and value of 'score' is in INTEGER, not STRING.
DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string.\x20
For example, your response should look like this: {{'pred': 'yes', 'score': 4.8}}."""

CLAIMS_PROMPT = """Here is a description of a video, a question about the video, and an answer.

Description: {caption}

Question: {question}

Answer: {prediction}

Split the answer into its claims about the video, each a short statement of one fact. Check every claim \
against the description alone. Write one line for each claim and nothing else, in one of these two forms:
supported: <claim>
unsupported: <claim>
A claim that the description contradicts or does not mention is unsupported."""


@dataclass(frozen=True)
class Verdict:
    """What a reply says; None where it does not say.

    `score` is 1 to 5 (own sets) or 0 to 5 (official sets). `parsed_by` is the rule that read it, a fallback
    unless it is `pattern`. `claims` and `unsupported` are counts (of CLAIMS only).
    """

    score: float | None = None
    correct: bool | None = None
    parsed_by: str = "pattern"
    claims: int | None = None
    unsupported: int | None = None


def cut_answer(answer: str) -> str:
    """Return the first 256 words of an answer (maybe_truncate).

    A shorter one stays as it is, with its line breaks.
    """
    words = answer.split()
    return " ".join(words[:WORDS]) if len(words) > WORDS else answer


def score_request(kind: str, question: str, answer: str, prediction: str, caption: str) -> Messages:
    """Return the chat that asks for one verdict; own sets have no system prompt, as in the reference."""
    template = {OWN: OWN_PROMPT, OFFICIAL: OFFICIAL_PROMPT, CLAIMS: CLAIMS_PROMPT}[kind]
    request = template.format(
        caption=caption,
        question=question,
        answer=answer,
        prediction=cut_answer(prediction),
    )
    turns = [{"role": "user", "content": request}]
    if kind == OFFICIAL:
        turns.insert(0, {"role": "system", "content": OFFICIAL_SYSTEM})
    return turns


def read_reply(kind: str, reply: str) -> Verdict:
    """Return what a reply says under the protocol `kind`, once its thoughts are taken away.

    The reference knows no thoughts: its rules read what is left. A thought that does not end says nothing
    (`thought`).
    """
    text = without_thoughts(reply)
    if text is None:
        return Verdict(parsed_by="thought")
    return {OWN: read_own, OFFICIAL: read_official, CLAIMS: read_claims}[kind](text)


def read_own(reply: str) -> Verdict:
    """Read `Score: 4` (get_score); of several that differ the first, as the reference does (`first`).

    Without it the score is the most frequent number of the reply (`majority`), the mean of several that are
    equally frequent (`mean`), or 1 where there is no number (`none`).
    """
    scores = [float(number) for number in re.findall(r"Score: (\d+\.?\d*)", reply)]
    if scores:
        return Verdict(scores[0], scores[0] >= RIGHT, "pattern" if len(set(scores)) == 1 else "first")
    counts = Counter(float(number) for number in re.findall(r"\b\d+(?:\.\d*)?\b", reply))
    if not counts:
        return Verdict(1.0, RIGHT <= 1.0, "none")
    highest = max(counts.values())
    numbers = [number for number, count in counts.items() if count == highest]
    score = sum(numbers) / len(numbers)
    return Verdict(score, score >= RIGHT, "majority" if len(numbers) == 1 else "mean")


def read_official(reply: str) -> Verdict:
    """Read the dictionary that an official set's reply should be (extract_score, and the counting in main).

    The score is the digits behind 'score' (4 of 4.8). The answer is right where `yes` is anywhere in the
    reply, else wrong where `no` is: `anywhere`, unless the dictionary says the same.
    """
    lower = reply.lower()
    correct = None
    if "yes" in lower:
        correct = True
    elif "no" in lower:
        correct = False
    number = re.search(r"""'score'\s*:\s*(\d+)|"score"\s*:\s*(\d+)""", reply)
    score = float(number[1] or number[2]) if number else None
    verdicts = set(re.findall(r"""['"]pred['"]\s*:\s*['"](yes|no)['"]""", lower))
    if number and verdicts == {"yes" if correct else "no"}:
        return Verdict(score, correct, "pattern")
    return Verdict(score, correct, "none" if correct is None else "anywhere")


def read_claims(reply: str) -> Verdict:
    """Count the lines `supported: ...` and `unsupported: ...`, with or without a list's marks.

    Without any such line the reply is unread (`none`).
    """
    words = re.findall(r"(?im)^[\s\-*\d.)]*(supported|unsupported)[\s*]*:", reply)
    if not words:
        return Verdict(parsed_by="none")
    return Verdict(claims=len(words), unsupported=sum(word.lower() == "unsupported" for word in words))


# Accuracy in percent on the official subsets of about 5,000 questions (MSVD, MSRVTT, TGIF), by the scorer's
# version and the model (LLaVA-Hound-DPO's README, `Zeroshot Video QA`).
REFERENCE_SETS = ("msvd.official", "msrvtt.official", "tgif.official")
REFERENCE: dict[str, dict[str, tuple[float, float, float]]] = {
    "gpt-3.5-turbo-0301": {
        "Video-LLaVA 7B": (81.44, 73.29, 58.34),
        "LLaVA-Hound-SFT": (85.65, 73.85, 64.98),
        "LLaVA-Hound-DPO": (88.50, 82.10, 75.48),
    },
    "gpt-3.5-turbo-0613": {
        "Video-LLaVA 7B": (71.75, 58.97, 48.39),
        "LLaVA-Hound-SFT": (75.70, 58.73, 53.51),
        "LLaVA-Hound-DPO": (80.73, 70.15, 61.38),
    },
    "gpt-3.5-turbo-1106": {
        "Video-LLaVA 7B": (74.76, 62.70, 51.24),
        "LLaVA-Hound-SFT": (81.09, 64.13, 58.05),
        "LLaVA-Hound-DPO": (86.05, 76.75, 70.02),
    },
}
