"""Pinyin to what the lips must do: which sounds of a syllable have a shape that can be seen, and when in it they come."""

import re
from dataclasses import dataclass

from joyhallo.errors import UserError

_INITIALS = ("zh", "ch", "sh", "b", "p", "m", "f", "d", "t", "n", "l", "g", "k", "h", "j", "q", "x", "r", "z", "c", "s")
_BUZZING = ("zh", "ch", "sh", "r", "z", "c", "s")
BILABIALS = ("b", "p", "m")
# How long the consonant takes before the vowel is heard, in seconds at an easy pace.
_CONSONANT_S = {"b": 0.02, "d": 0.02, "g": 0.03, "p": 0.09, "t": 0.09, "k": 0.1, "m": 0.08, "n": 0.07, "l": 0.06, "r": 0.08,
                "z": 0.07, "zh": 0.06, "j": 0.07}  # fmt: skip
_FRICATIVE_S = 0.13

# Finals in parts: A open, I spread, U rounded, "-" a shape that is not scored (e, ê, consonants, glides out of a vowel).
_FINALS = {
    "a": "A", "o": "U", "e": "-", "i": "I", "u": "U", "ü": "U", "er": "-", "ai": "A-", "ei": "--", "ao": "A-", "ou": "-U",
    "an": "A-", "en": "--", "ang": "A-", "eng": "--", "ong": "U-", "ia": "IA", "ie": "I-", "iao": "-A-", "iu": "I-U",
    "ian": "I--", "in": "I-", "iang": "-A-", "ing": "I-", "iong": "U-", "ua": "UA", "uo": "UU", "uai": "UA-", "ui": "U--",
    "uan": "UA-", "un": "U--", "uang": "UA-", "ueng": "U--", "üe": "U-", "üan": "U--", "ün": "U-",
}  # fmt: skip
_ZERO_INITIAL = {
    "yi": "i", "yin": "in", "ying": "ing", "yu": "ü", "yue": "üe", "yuan": "üan", "yun": "ün", "you": "iu", "yong": "iong",
    "wu": "u", "wei": "ui", "wen": "un", "weng": "ueng", "yo": "o",
}  # fmt: skip
_CLASSES = {"A": "open", "I": "spread", "U": "rounded"}
_TONES = {"āáǎà": "a", "ēéěè": "e", "īíǐì": "i", "ōóǒò": "o", "ūúǔù": "u", "ǖǘǚǜ": "ü", "ń": "n", "ň": "n", "ǹ": "n"}
_TONELESS = str.maketrans({marked: plain for row, plain in _TONES.items() for marked in row})


@dataclass(frozen=True)
class Part:
    """One part of a final that asks for a shape, as shares of the final's duration."""

    asked: str  # "open", "spread" or "rounded"
    start: float
    end: float


@dataclass(frozen=True)
class Syllable:
    """One syllable, read."""

    text: str  # as given
    initial: str  # "" for none
    final: str
    parts: tuple[Part, ...]

    @property
    def consonant_s(self) -> float:
        """How long the initial takes at an easy pace."""
        return 0.0 if not self.initial else _CONSONANT_S.get(self.initial, _FRICATIVE_S)


def read_syllable(text: str) -> Syllable | None:
    """A syllable such as `niu4`, `lv3`, `lü3` or `nǚ`; None for what is none."""
    plain = re.sub(r"[0-5]$", "", text.strip().lower().translate(_TONELESS)).replace("u:", "ü").replace("v", "ü")
    initial, final = _split(plain)
    is_palatal, is_fronted = initial in ("j", "q", "x"), final.startswith(("i", "ü"))
    if final not in _FINALS or (is_palatal and not is_fronted):
        return None
    if final == "i" and initial in _BUZZING:
        return Syllable(text, initial, final, ())  # a buzzing vowel: the lips may be as they like
    if (is_fronted and initial in (*_BUZZING, "g", "k", "h")) or (
        final == "o" and initial not in ("", "b", "p", "m", "f", "l")
    ):
        return None
    shapes = _FINALS[final]
    parts: list[Part] = []
    for index, shape in enumerate(shapes):
        if shape == "-":
            continue
        start, end = index / len(shapes), (index + 1) / len(shapes)
        if parts and parts[-1].asked == _CLASSES[shape] and parts[-1].end == start:
            parts[-1] = Part(_CLASSES[shape], parts[-1].start, end)
        else:
            parts.append(Part(_CLASSES[shape], start, end))
    return Syllable(text, initial, final, tuple(parts))


def _split(plain: str) -> tuple[str, str]:
    if plain in _ZERO_INITIAL:
        return "", _ZERO_INITIAL[plain]
    if plain[:1] in ("y", "w"):
        return "", {"y": "i", "w": "u"}[plain[0]] + plain[1:]
    initial = next((known for known in _INITIALS if plain.startswith(known)), "")
    final = plain[len(initial) :]
    if initial in ("j", "q", "x") and final.startswith("u"):
        final = "ü" + final[1:]
    return initial, final


def read_sentence(text: str) -> list[Syllable]:
    """Syllables separated by blanks or marks, such as `ni3 hao3, shi4 jie4`.

    Raises
    ------
    UserError : a word that is no syllable, or none at all.
    """
    words = [word for word in re.split(r"[\s,.;:!?，。；：！？、'\"-]+", text.replace("u:", "ü")) if word]
    if not words:
        raise UserError("the pinyin is empty: give syllables with blanks between them, such as --pinyin 'ni3 hao3'")
    syllables = []
    for word in words:
        syllable = read_syllable(word)
        if syllable is None:
            raise UserError(f"'{word}' is not a pinyin syllable: give syllables with blanks between them, such as 'ni3 hao3'")
        syllables.append(syllable)
    return syllables


def syllables_of_name(name: str) -> list[Syllable]:
    """The syllables that a file name spells with tones (`ba1`, `ni3hao3`, `ni3_hao3`); none when it is another name."""
    words = re.findall(r"[a-zü:]+[0-5]", name.lower())
    if not words or re.sub(r"[\s_-]", "", name.lower()) != "".join(words):
        return []
    found = [read_syllable(word) for word in words]
    return [syllable for syllable in found if syllable is not None] if all(found) else []
