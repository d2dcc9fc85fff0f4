"""What a language model's reply says once its thoughts are taken away.

Reasoning models write their thoughts into the reply where the server has no parser for them: Qwen3 and
DeepSeek-R1 in <think> tags (whose opening tag often belongs to the prompt, so that the reply holds only the
closing one), Magistral in [THINK] tags, gpt-oss in the channel "analysis". A thought weighs both sides, so
nothing may read an answer, a score or a verdict in it.
"""

import re

_NAMES = "think|thinking|thought|thoughts|reasoning|reflection"
_OPENING = re.compile(rf"<(?:{_NAMES})>|\[THINK\]|<\|begin_of_thought\|>", re.IGNORECASE)
_CLOSING = re.compile(rf"</(?:{_NAMES})>|\[/THINK\]|<\|end_of_thought\|>", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start)\|>")


UNFINISHED = "\n"  # what rows keep of a reply that is a thought without an end: blank, so nothing is read


def spoken(reply: str) -> str:
    """Return a policy's reply as rows keep it: without its thoughts, UNFINISHED where one does not end."""
    text = without_thoughts(reply)
    return UNFINISHED if text is None else text


def without_thoughts(reply: str) -> str | None:
    """Return a reply without its thoughts, stripped; None where a thought does not end.

    A reply that holds no thought is returned as it is, blanks included.
    """
    if _CHANNEL.search(reply):
        return _final_channel(reply)
    if not _OPENING.search(reply) and not _CLOSING.search(reply):
        return reply
    spoken: list[str] = []
    depth = 0
    position = 0
    for tag in _tags(reply):
        if depth == 0:
            spoken.append(reply[position : tag.start()])
        if _OPENING.fullmatch(tag[0]):
            depth += 1
        elif depth == 0:  # the opening tag stood in the prompt: all that came before was a thought
            spoken.clear()
        else:
            depth -= 1
        position = tag.end()
    if depth:
        return None
    return "".join([*spoken, reply[position:]]).strip()


def _tags(reply: str) -> list[re.Match[str]]:
    """All opening and closing tags in their order."""
    tags = [*_OPENING.finditer(reply), *_CLOSING.finditer(reply)]
    return sorted(tags, key=lambda tag: tag.start())


def _final_channel(reply: str) -> str | None:
    """The message of gpt-oss's channel "final"; None where the reply ends before it."""
    for header in _CHANNEL.finditer(reply):
        if header[1] == "final":
            return _CHANNEL_END.split(reply[header.end() :], maxsplit=1)[0].strip()
    return None
