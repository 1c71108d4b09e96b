"""The Chinese characters of our marks as strokes, drawn by ourselves: no font on the machine is needed.

Each stroke is a line through points of a square of 100x100 (x to the right, y down). A leading "~" makes it a smooth curve
through its points; otherwise it has straight pieces.
"""

from PIL import Image, ImageDraw

_SUPERSAMPLING = 4
_WEIGHT = 0.078  # stroke width as a share of the square's side
_INSET = 0.04  # keeps the round ends inside the square

_STROKES = {
    "生": "~26,8 20,26 7,44|22,27 90,27|16,57 86,57|52,5 52,92|5,92 95,92",
    "成": (
        "14,24 94,24|~15,24 15,50 13,74 4,94|16,46 42,46 41,68 39,78 27,78|~54,5 56,36 62,62 72,82 84,93|84,93 91,91 94,75"
        "|~85,39 76,61 62,79 45,94|70,6 83,16"
    ),
    "数": (
        "10,10 17,21|46,8 39,20|4,29 54,29|29,5 29,50|~26,31 18,41 5,50|31,33 51,47|25,53 13,76 30,83 48,94"
        "|~42,66 34,81 22,89 5,95|3,65 55,65|~69,5 64,27 54,47|65,25 97,25|~86,26 82,51 73,74 54,94|~63,40 70,62 80,80 97,94"
    ),
    "字": "45,4 54,14|9,35 9,18 91,18 91,35|25,38 74,38|~74,38 65,46 52,54|52,54 52,86 48,93 35,93|5,65 95,65",
    "人": "~50,6 48,34 41,58 27,78 5,94|~50,32 56,54 70,76 95,94",
    "本": "5,26 95,26|50,5 50,96|~48,27 38,47 24,65 4,80|~52,27 62,47 76,65 96,80|28,75 72,75",
    "视": (
        "19,5 28,15|5,26 40,26|~40,26 31,43 18,58 3,69|25,53 25,96|31,52 42,63|52,62 52,10 89,10 89,62"
        "|~70,24 70,50 66,70 56,84 40,95|~75,64 75,84 79,92 88,92|~88,92 95,91 97,77"
    ),
    "频": (
        "28,5 28,42|28,22 48,22|11,20 11,42|3,43 50,43|28,53 28,71|15,54 5,71|~47,54 39,73 26,86 7,95|54,9 98,9|76,10 72,25"
        "|59,74 59,25 93,25 93,74|~76,37 76,57 71,76 52,95|80,78 97,94"
    ),
    "由": "12,96 12,27 88,27 88,96|50,5 50,90|12,58 88,58|12,90 88,90",
    "合": "~50,5 35,25 4,46|~50,5 65,25 96,46|30,45 70,45|20,96 20,61 80,61 80,96|20,90 80,90",
    "·": "50,50 50,50",
}
_NARROW = {"·": 0.5}  # advance as a share of the square; all others fill it


def has_strokes(character: str) -> bool:
    """Whether a character is in our table."""
    return character in _STROKES


def advance(character: str) -> float:
    """Width a character takes, as a share of its square's side."""
    return _NARROW.get(character, 1.0)


def draw_character(character: str, side: int) -> Image.Image:
    """Draw one character of the table.

    Parameters
    ----------
    character : see `has_strokes`.
    side : pixels of its square.

    Returns
    -------
    Coverage, mode "L", [side, side * advance].
    """
    big = side * _SUPERSAMPLING
    width = _WEIGHT * big
    image = Image.new("L", (big, big))
    pen = ImageDraw.Draw(image)
    for stroke in _STROKES[character].split("|"):
        points = [_point(text) for text in stroke.removeprefix("~").split()]
        if stroke.startswith("~"):
            points = _smooth(points)
        radius = width / 2 if character != "·" else width * 0.8
        placed = [(big * (_INSET + x * (1 - 2 * _INSET) / 100), big * (_INSET + y * (1 - 2 * _INSET) / 100)) for x, y in points]
        pen.line(placed, fill=255, width=round(width))
        for x, y in placed:  # round ends, and round joints between the pieces
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    side_bearing = (1 - advance(character)) / 2 * big
    image = image.crop((round(side_bearing), 0, round(big - side_bearing), big))
    return image.resize((max(1, round(side * advance(character))), side), Image.Resampling.BOX)


def _point(text: str) -> tuple[float, float]:
    x, y = text.split(",")
    return float(x), float(y)


def _smooth(points: list[tuple[float, float]], num_steps: int = 12) -> list[tuple[float, float]]:
    """A Catmull-Rom curve through the points."""
    padded = [points[0], *points, points[-1]]
    curve = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for step in range(num_steps):
            t = step / num_steps
            curve.append(tuple(_catmull_rom(*values, t) for values in zip(a, b, c, d, strict=True)))
    return [*curve, points[-1]]


def _catmull_rom(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3)
