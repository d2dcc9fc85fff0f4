"""The verdict in a judge's reply: what it decides, not what it mentions.

A reply decides by one whole sentence of a small grammar ("My choice is A.", "B is better than A.", "[[A]]"),
in its first line or its last. Whatever else it says of A and B is a mention: "Response A is inaccurate."
decides nothing. A reply that decides both ways, or takes back what it said, is not read. No reply is read as
its opposite; many are not read, and those are counted.
"""

import re
from dataclasses import dataclass

from isrdpo.core.replies import without_thoughts

_NOUN = r"(?i:response|answer|option|candidate|assistant|model|reply|choice)"
_LETTER = r"(?:\\boxed\{)?[\[(]*(?P<%s>[AB])[\])]*\}?"
_FIRST = rf"(?:(?i:the\s+)?{_NOUN}\s+)?{_LETTER % 'first'}"
_SECOND = rf"(?:(?i:the\s+)?{_NOUN}\s+)?{_LETTER % 'second'}"
_OTHER = rf"(?:{_SECOND}|(?i:the\s+other(?:\s+(?:one|response|answer|option))?))"
_GOOD = r"(?i:better|best|superior|preferable|preferred|stronger|more\s+accurate|the\s+winner)"
_DEGREE = r"(?i:clearly|definitely|much|far|slightly|significantly|overall|generally|the|my)"
_THING = r"(?i:one|response|answer|option|choice|pick)"
_REASON = (  # that weighs nothing against the decision
    r"(?:\s*[,:\u2013\u2014-]?\s*(?i:because|since)\s"
    r"(?:(?!\b(?i:but|however|although|though|yet|if|unless|except|better|best|prefer\w*|cho\w+|winner|"
    r"worse|worst|inferior|actually|wait|i\s+mean)\b).)*)?"
)
_OPENING = (
    r"(?:(?i:so|therefore|thus|hence|overall|finally|clearly|in\s+conclusion|in\s+summary|to\s+conclude|"
    r"i\s+(?:think|believe|conclude)(?:\s+that)?)\s*,?\s+)*"
)
_LABEL = (
    r"(?:(?i:my|the|final|overall|best|better|preferred|chosen|correct)\s+)*"
    r"(?i:choice|verdict|answer|decision|pick|selection|preference|judge?ment|winner|conclusion|response|"
    r"option|one)(?:\s+of\s+the\s+two)?"
)
_SENTENCES = {  # each decides for what it names first
    "label": rf"{_LABEL}\s*(?i:is|would\s+be|[:=\u2013\u2014-])?\s*:?\s*{_FIRST}(?:\s+over\s+{_SECOND})?",
    "better": rf"{_FIRST}\s+is\s+(?:{_DEGREE}\s+)*{_GOOD}(?:\s+{_THING})?"
    rf"(?:\s+(?:than|over|to|compared\s+(?:to|with))\s+{_OTHER}|\s+of\s+the\s+two)?",
    "choose": r"(?i:i|we)(?:\s+(?i:would|will)|['\u2019](?i:d|ll))?\s+"
    rf"(?i:choose|pick|prefer|select|favou?r|go\s+with|vote\s+for)\s+{_FIRST}"
    rf"(?:\s+(?i:over|to|rather\s+than|instead\s+of)\s+{_OTHER})?",
    "wins": rf"{_FIRST}\s+(?i:wins|beats)(?:\s+(?i:over\s+|against\s+)?{_OTHER})?",
    "above": rf"{_FIRST}\s*>+\s*{_SECOND}",
}
_DECISIONS = [re.compile(_OPENING + form + _REASON) for form in _SENTENCES.values()]
_BARE = re.compile(_FIRST + _REASON)
_BARE_LETTER = re.compile(_LETTER % "first")
_MARKS = re.compile(r"[*_`\"\u201c\u201d\u201e\u00ab\u00bb#~]|</?(?i:answer|verdict|choice|output|final)>")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
_TAKEN_BACK = re.compile(
    r"(?i)(?:no|nope|not|wait|hmm|oops|sorry|actually|correction|or|rather|but|however|yet|still|though|"
    r"although|on\s+second\s+thoughts?|scratch|instead|unless|if|never\s+mind)\b|.*\b(?:the\s+other\s+"
    r"(?:one|response|answer)|changed?\s+my\s+mind|opposite|reconsider\w*|mistak\w+|revis\w+|i\s+meant?)\b"
)
_TIE = re.compile(r"(?i)\b(?:tie|ties|tied|draw|equally|equal|undecided|neither)\b|^\W*C\W*$")
_FAULT = re.compile(
    r"(?i)\b(?:not|no|never|neither|nor|cannot|worse|worst|wrong|wrongly|false|incorrect\w*|inaccura\w+|less|"
    r"fail\w*|miss\w*|lack\w*|ignor\w+|error\w*|vague|invent\w*|hallucinat\w+|bad|poor\w*|loses|weaker|"
    r"inferior|irrelevant|mislead\w*)\b|n['\u2019]t\b"
)
_MENTION = re.compile(
    rf"{_NOUN}\s+[\[(]*([AB])\b|(?<=\s)[\[(]*([AB])\b(?!\s+[a-z]+\s+(?:is|was|are)\b)|"
    r"^([AB])\s+(?=(?:is|was|has|does|did|fails|misses|lacks|would|cannot|can|gets|says)\b)"
)


@dataclass(frozen=True)
class _Sentence:
    """A sentence of a reply.

    `choice` is what it decides, else None. `line` is the number of its line among `lines`. `name` is the
    response that it only names, whether that decides or is a heading.
    """

    text: str
    line: int
    choice: int | None
    name: int | None


def parse_choice(reply: str) -> int | None:
    """Return the verdict in a generated reply: 0 for A, 1 for B, None where it decides neither or both.

    Thoughts do not count, and a reply that is only an unfinished thought is not read.
    """
    spoken = without_thoughts(reply)
    lines = _lines(spoken or "")
    sentences = _sentences(lines)
    decisive = [n for n, sentence in enumerate(sentences) if sentence.choice is not None]
    choices = {sentences[n].choice for n in decisive}
    if len(choices) != 1 or not {sentences[n].line for n in decisive} & {0, len(lines) - 1}:
        return None
    names = {sentence.name for sentence in sentences} - {None}
    if len(names) > 1 and all(sentences[n].name is not None for n in decisive):
        return None  # a list of both, and no word of which is better
    if any(sentence.choice is None and _TIE.search(sentence.text) for sentence in sentences):
        return None
    choice = choices.pop()
    behind = sentences[decisive[-1] + 1 :]
    return None if any(_takes_back(sentence.text, "AB"[choice or 0]) for sentence in behind) else choice


def _lines(text: str) -> list[str]:
    """The lines without marks of emphasis; one that goes on in the next is joined with it."""
    lines: list[str] = []
    for line in _MARKS.sub("", text).splitlines():
        line = " ".join(line.split()).lstrip("->\u2022").strip(" {}'")
        if not line:
            continue
        goes_on = bool(lines) and (
            line[0].islower()
            or lines[-1].endswith((":", ","))
            or (_BARE.fullmatch(line.rstrip(".!")) and _is_open(lines[-1]))
        )
        if goes_on:
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return lines


def _is_open(line: str) -> bool:
    """Whether a line may go on in the next: it has no end, and decides nothing by itself."""
    return line[-1] not in ".!?;)" and _decision(line) is None and not _BARE.fullmatch(line)


def _sentences(lines: list[str]) -> list[_Sentence]:
    texts = [(text, n) for n, line in enumerate(lines) for text in _SENTENCE_END.split(line)]
    sentences = []
    for position, (text, line) in enumerate(texts):
        choice = _decision(text)
        name = None if choice is not None else _choice(_BARE.fullmatch(text.rstrip(".!; ")))
        is_last = position == len(texts) - 1
        before = texts[position - 1][0] if position else ""
        # Only a name: a verdict where nothing follows it, or where a letter alone is the first line.
        is_heading = not is_last and not (lines[line] == text and _BARE_LETTER.fullmatch(text.rstrip(".!")))
        asks_for_worse = before.endswith("?") and _FAULT.search(before)
        if not is_heading and not asks_for_worse:
            choice = name if choice is None else choice
        sentences.append(_Sentence(text, line, choice, name))
    return sentences


def _decision(sentence: str) -> int | None:
    """What a whole sentence decides; None where it is no sentence of the grammar."""
    text = sentence.rstrip(".!; ")
    matches = [match for form in _DECISIONS if (match := form.fullmatch(text))]
    return _choice(matches[0]) if matches else None


def _choice(match: re.Match[str] | None) -> int | None:
    """The response that a match names first; None where it names the same one twice."""
    if match is None or match["first"] == match.groupdict().get("second"):
        return None
    return "AB".index(match["first"])


def _takes_back(sentence: str, letter: str) -> bool:
    """Whether a sentence behind a verdict for `letter` may contradict it: it turns round, or finds a fault
    that is not the other response's.
    """
    if _TAKEN_BACK.match(sentence):
        return True
    for fault in _FAULT.finditer(sentence):
        mentions = [next(filter(None, found)) for found in _MENTION.findall(sentence[: fault.start()])]
        if not mentions or mentions[-1] == letter:
            return True
    return False
