"""Pinyin → the shapes that a mouth takes, and words in Chinese characters → pinyin."""

import re
from functools import cache

from joyhallo.errors import UserError

INITIALS = {
    "b": "shut", "p": "shut", "m": "shut", "f": "f",
    "d": "tongue-tip", "t": "tongue-tip", "n": "tongue-tip", "l": "tongue-tip",
    "g": "back", "k": "back", "h": "back", "j": "palatal", "q": "palatal", "x": "palatal",
    "zh": "retroflex", "ch": "retroflex", "sh": "retroflex", "r": "retroflex",
    "z": "sibilant", "c": "sibilant", "s": "sibilant",
}  # fmt: skip
BILABIALS = ("b", "p", "m")
STOPS = ("b", "d", "g", "p", "t", "k", "z", "zh", "j", "c", "ch", "q")  # it is quiet before they are heard
_FINALS = {
    "a": "a", "o": "o", "e": "e", "i": "i", "u": "u", "ü": "ü", "er": "er", "ai": "a i", "ei": "ê i", "ao": "a u", "ou": "o u",
    "an": "a n", "en": "e n", "ang": "a ng", "eng": "e ng", "ong": "u ng",
    "ia": "i a", "io": "i o", "ie": "i ê", "iao": "i a u", "iu": "i o u",
    "ian": "i ê n", "in": "i n", "iang": "i a ng", "ing": "i ng", "iong": "ü ng", "ua": "u a", "uo": "u o", "uai": "u a i",
    "ui": "u ê i", "uan": "u a n", "un": "u e n", "uang": "u a ng", "ueng": "u e ng", "üe": "ü ê", "üan": "ü ê n", "ün": "ü n",
}  # fmt: skip
_SPELLED_WITHOUT_INITIAL = {
    "yi": "i", "yin": "in", "ying": "ing", "yu": "ü", "yue": "üe", "yuan": "üan", "yun": "ün", "you": "iu", "yong": "iong",
    "ye": "ie", "wu": "u", "wei": "ui", "wen": "un", "weng": "ueng", "wo": "uo",
}  # fmt: skip
_LOST_BEFORE_R = ("i", "n", "ng")  # a final gives up its end for the r of erhua: 玩儿 wanr, 块儿 kuair
_OWN_SYLLABLE_AFTER = "女婴幼孤少胎男健宠生"  # 女儿, 婴儿, 幼儿: the 儿 is a child and no mere ending
_CHINESE = re.compile(r"[\u3400-\u9fff]+")


def initial_of(pinyin: str) -> str:
    """The initial of a syllable such as `niu4`; empty for none (`wu3`, `er4`)."""
    plain = pinyin.lower()
    return next((plain[:size] for size in (2, 1) if plain[:size] in INITIALS), "")


def phones(pinyin: str) -> list[str] | None:
    """The mouth shapes of a syllable such as `niu4`, its initial first; None for what is not a syllable of the tables.

    An r at the end is that of erhua (`wanr2`).
    """
    found = re.fullmatch(r"([a-zü]+?)[1-5]?", pinyin.lower().replace("v", "ü").replace("u:", "ü"))
    if not found:
        return None
    spelled = found[1]
    if spelled.endswith("r") and spelled not in ("er", "r"):
        shapes = phones(spelled[:-1])
        if not shapes or shapes[-1] == "er":
            return None
        keeps_all = len(shapes) == 1 or shapes[-1] not in _LOST_BEFORE_R or shapes[-2] in INITIALS.values()
        return [*(shapes if keeps_all else shapes[:-1]), "er"]
    if spelled in _SPELLED_WITHOUT_INITIAL:
        return _FINALS[_SPELLED_WITHOUT_INITIAL[spelled]].split()
    if spelled[0] in "yw":
        spelled = {"y": "i", "w": "u"}[spelled[0]] + spelled[1:]
        return _FINALS[spelled].split() if spelled in _FINALS else None
    initial = initial_of(spelled)
    final = spelled[len(initial) :]
    if initial in {"j", "q", "x"} and final.startswith("u"):
        final = "ü" + final[1:]
    if initial in {"zh", "ch", "sh", "r", "z", "c", "s"} and final == "i":
        return [INITIALS[initial], "apical"]
    if final not in _FINALS:
        return None
    return ([INITIALS[initial]] if initial else []) + _FINALS[final].split()


def read_word(name: str) -> tuple[str, ...] | str:
    """The syllables of a word in Chinese characters, `苹果` → ("ping2", "guo3"), or in few words why there are none.

    The neutral tone is 5; an ending 儿 is part of the syllable before it (`wanr2`). Raises UserError without pypinyin.
    """
    if not _CHINESE.fullmatch(name):
        return "a name of other signs than Chinese characters"
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError as error:
        raise UserError("recorded words need pypinyin: pip install 'joyhallo[train]', or leave --words out") from error
    found = lazy_pinyin(name, style=Style.TONE3, neutral_tone_with_five=True, v_to_u=True, errors="ignore")
    if len(found) != len(name):
        return "a character without a known reading"
    syllables: list[str] = []
    for number, (character, pinyin) in enumerate(zip(name, found, strict=True)):
        if character == "儿" and number and name[number - 1] not in _OWN_SYLLABLE_AFTER and number == len(name) - 1:
            syllables[-1] = f"{syllables[-1][:-1]}r{syllables[-1][-1]}"
        else:
            syllables.append(pinyin)
    unknown = [pinyin for pinyin in syllables if phones(pinyin) is None]
    return f"the syllable {unknown[0]} is not of the tables" if unknown else tuple(syllables)


@cache
def spelled(name: str) -> tuple[str, ...]:
    """The syllables that the name of a recording says, `niu4` or `苹果`; none for any other name."""
    found = (name,) if phones(name) else read_word(name)
    return () if isinstance(found, str) else found
