"""Colors and markers of all figures: the same color means the same thing in every one of them.

The colors are Okabe and Ito's, which color-blind readers can tell apart. A marker or a line style always
says the same as the color does.
"""

BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PINK = "#CC79A7"
SKY = "#56B4E9"
YELLOW = "#E69F00"
GRAY = "#808080"
BLACK = "#000000"  # becomes the color of the text around an inline figure
SERIES = (BLUE, ORANGE, YELLOW, GREEN, PINK, SKY)  # of curves that COLORS does not name, in their order
MARKERS = "osD^vPX"
COLORS = {
    "accuracy": BLUE,
    "hallucination": ORANGE,
    "false_claims": YELLOW,
    "response_words": GREEN,
    "prefers_longer": PINK,
    "context": SKY,
    "chosen": BLUE,
    "rejected": ORANGE,
    "y1": SKY,
    "y2": YELLOW,
    "right": BLUE,
    "wrong": ORANGE,
    "with its description": BLUE,
    "without": ORANGE,
    "base": GRAY,
    "before": SKY,
    "now": BLUE,
    "the longer is truer": BLUE,
    "the shorter is truer": ORANGE,
    "equally true": GRAY,
    "truth not known": PINK,
    "data": GRAY,
    "respond": SKY,
    "judge": PINK,
    "look": YELLOW,
    "train": ORANGE,
    "evaluate": BLUE,
    "score": GREEN,
    "training": BLUE,
    "held out": ORANGE,
    "reference answers": GREEN,
    "answers": GREEN,
    "repaired": BLUE,
    "broken": ORANGE,
}


def marker_of(number: int) -> str:
    """Return the marker of the series of this number; they begin again after the last."""
    return MARKERS[number % len(MARKERS)]
