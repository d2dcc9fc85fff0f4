"""Protocol `hound`: what a scorer is asked about an answer and how its reply is read, as LLaVA-Hound's evaluation does it, bug for bug.

The wording of the two prompts, and every rule of reading, are part of the protocol, since published numbers rest on them: quoted from
github.com/RifleZhang/LLaVA-Hound-DPO (Apache-2.0), llava_hound_dpo/test/eval/eval_qa.py (own sets, which have captions), eval_official_qa.py (official
sets, which have none; after Video-ChatGPT's) and inference/utils.py (get_score). The prompt about claims is ours.
"""

import re
from collections import Counter
from dataclasses import dataclass

OWN, OFFICIAL, CLAIMS = "hound", "hound.official", "claims"
WORDS = 256  # of an answer that the scorer sees
RIGHT = 3.0  # own sets: the score from which an answer counts as right
Messages = list[dict[str, str]]

OWN_PROMPT = """Given the following inputs:

1. **Ground Truth Video Caption**: {caption}
2. **Question Related to the Caption**: {question}
3. **Ground Truth Answer**: {answer}
4. **Model Predicted Answer**: {prediction}

Your task is to evaluate the model's predicted answer against the ground truth answer, based on the context provided by the video caption and the question. \
Consider the following criteria for evaluation:

- **Relevance**: Does the predicted answer directly address the question posed, considering the information provided in the video caption?
- **Accuracy**: Compare the predicted answer to the ground truth answer. Does the prediction accurately reflect the information given in the ground truth \
answer without introducing factual inaccuracies?
- **Clarity**: Assess the clarity of the predicted answer. Look for issues such as repetition, unclear descriptions, or any grammatical errors that could \
hinder understanding.
- **Completeness**: Determine if the predicted answer fully covers the scope of the ground truth answer. Does it leave out critical information or does it \
include all necessary details?

**Output Format**:
Explanation: <brief judgement of prediction>
Score: <an integer score of quality from 1-5>"""

OFFICIAL_SYSTEM = """You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer pairs.\x20
Your task is to compare the predicted answer with the correct answer and determine if they match meaningfully. Here's how you can accomplish the task:
------
##INSTRUCTIONS:\x20
- Focus on the meaningful match between the predicted answer and the correct answer.
- Consider synonyms or paraphrases as valid matches.
- Evaluate the correctness of the prediction compared to the answer."""

OFFICIAL_PROMPT = """Please evaluate the following video-based question-answer pair:

Question: {question}
Correct Answer: {answer}
Predicted Answer: {prediction}

Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 indicating the highest meaningful match.\x20
Please generate the response in the form of a Python dictionary string with keys 'pred' and 'score', where value of 'pred' is a string of 'yes' or 'no' and \
value of 'score' is in INTEGER, not STRING.
DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string.\x20
For example, your response should look like this: {{'pred': 'yes', 'score': 4.8}}."""

CLAIMS_PROMPT = """Here is a description of a video, a question about the video, and an answer.

Description: {caption}

Question: {question}

Answer: {prediction}

Split the answer into its claims about the video, each a short statement of one fact. Check every claim against the description alone. Write one line for each \
claim and nothing else, in one of these two forms:
supported: <claim>
unsupported: <claim>
A claim that the description contradicts or does not mention is unsupported."""


@dataclass(frozen=True)
class Verdict:
    """A reply, read. `score`: 1 to 5 (own sets) or 0 to 5; `correct`; `parsed_by`: the rule that read it, a fallback unless it is `pattern`; `claims` and
    `unsupported`: how many (of CLAIMS only). None: the reply does not say."""

    score: float | None = None
    correct: bool | None = None
    parsed_by: str = "pattern"
    claims: int | None = None
    unsupported: int | None = None


def cut(prediction: str) -> str:
    """The first 256 words of an answer (maybe_truncate); a shorter one as it is, with its line breaks."""
    words = prediction.split()
    return " ".join(words[:WORDS]) if len(words) > WORDS else prediction


def messages(kind: str, question: str, answer: str, prediction: str, caption: str) -> Messages:
    """The chat that asks for one verdict: no system prompt for own sets, as in the reference."""
    template = {OWN: OWN_PROMPT, OFFICIAL: OFFICIAL_PROMPT, CLAIMS: CLAIMS_PROMPT}[kind]
    asked = template.format(caption=caption, question=question, answer=answer, prediction=cut(prediction))
    return [{"role": "system", "content": OFFICIAL_SYSTEM}] * (kind == OFFICIAL) + [{"role": "user", "content": asked}]


def read(kind: str, reply: str) -> Verdict:
    return {OWN: read_own, OFFICIAL: read_official, CLAIMS: read_claims}[kind](reply)


def read_own(reply: str) -> Verdict:
    """get_score: `Score: 4`, else the most frequent number of the reply (`majority`; the `mean` of those most frequent, on a tie), else 1 (`none`)."""
    found = re.search(r"Score: (\d+\.?\d*)", reply)
    if found:
        return Verdict(float(found[1]), float(found[1]) >= RIGHT)
    counts = Counter(float(number) for number in re.findall(r"\b\d+\.?\d*\b", reply))
    most = [number for number, count in counts.items() if count == max(counts.values())]
    score = sum(most) / len(most) if most else 1.0
    return Verdict(score, score >= RIGHT, "none" if not most else "majority" if len(most) == 1 else "mean")


def read_official(reply: str) -> Verdict:
    """extract_score and the counting in main: the digits behind 'score' (4 of 4.8), right where `yes` is anywhere in the reply, else wrong where `no` is."""
    found = re.search(r"""'score'\s*:\s*(\d+)|"score"\s*:\s*(\d+)""", reply)
    low = reply.lower()
    correct = True if "yes" in low else False if "no" in low else None
    score = float(found[1] or found[2]) if found else None
    clean = re.search(r"""['"]pred['"]\s*:\s*['"](yes|no)['"]""", low)
    return Verdict(score, correct, "pattern" if found and clean else "none" if correct is None else "anywhere")


def read_claims(reply: str) -> Verdict:
    """Lines `supported: ...` and `unsupported: ...`, with or without a list's marks; `none` where there is neither."""
    found = re.findall(r"(?im)^[\s\-*\d.)]*(supported|unsupported)[\s*]*:", reply)
    return Verdict(claims=len(found), unsupported=sum(f.lower() == "unsupported" for f in found)) if found else Verdict(parsed_by="none")


# Accuracy in percent on the official subsets of about 5,000 questions (MSVD, MSRVTT, TGIF), by scorer (LLaVA-Hound-DPO's README, `Zeroshot Video QA`).
REFERENCE_SETS = ("msvd.official", "msrvtt.official", "tgif.official")
REFERENCE: dict[str, dict[str, tuple[float, float, float]]] = {
    "gpt-3.5-turbo-0301": {
        "Video-LLaVA 7B": (81.44, 73.29, 58.34), "LLaVA-Hound-SFT": (85.65, 73.85, 64.98), "LLaVA-Hound-DPO": (88.50, 82.10, 75.48),
    },
    "gpt-3.5-turbo-0613": {
        "Video-LLaVA 7B": (71.75, 58.97, 48.39), "LLaVA-Hound-SFT": (75.70, 58.73, 53.51), "LLaVA-Hound-DPO": (80.73, 70.15, 61.38),
    },
    "gpt-3.5-turbo-1106": {
        "Video-LLaVA 7B": (74.76, 62.70, 51.24), "LLaVA-Hound-SFT": (81.09, 64.13, 58.05), "LLaVA-Hound-DPO": (86.05, 76.75, 70.02),
    },
}  # fmt: skip
