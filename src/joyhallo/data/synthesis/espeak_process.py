"""One text spoken by the library of espeak-ng, in a process of its own: `python -m joyhallo.data.synthesis.espeak_process`.

The library keeps a state from text to text, so that only a new process says the same twice. It is the library and not the
program that tells when each sound begins. Nothing but Python's own modules is imported, since the process starts for each text.

Standard input: one JSON object with `text`, `voice`, `rate` and `pitch`. Standard output: a line of JSON with `rate_hz` and
`sounds` (place of the word in the text, counted from 1; name; first sample), then the samples, int16. It ends with 3 when there
is no library, 4 when it does not know the voice.
"""

import ctypes
import json
import sys
from ctypes import util
from typing import Any

NO_LIBRARY, NO_VOICE = 3, 4
_SYNCHRONOUS, _PHONEME_EVENTS, _NO_EXIT = 2, 1, 0x8000
_RATE, _PITCH = 1, 3  # numbers of its parameters
_END, _PHONEME = 0, 7  # kinds of events
_UTF8 = 1


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("name", _Name),
    )


def library() -> str | None:
    """The name of the library, if it is installed."""
    return util.find_library("espeak-ng")


def main() -> int:
    """Speak what stands on standard input; see above."""
    asked, name = json.load(sys.stdin), library()
    if name is None:
        return NO_LIBRARY
    espeak: Any = ctypes.CDLL(name)
    rate_hz = int(espeak.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _NO_EXIT))
    if rate_hz <= 0 or espeak.espeak_SetVoiceByName(asked["voice"].encode()):
        return NO_VOICE
    espeak.espeak_SetParameter(_RATE, int(asked["rate"]), 0)
    espeak.espeak_SetParameter(_PITCH, int(asked["pitch"]), 0)
    samples, sounds = bytearray(), []

    def hear(block: int | None, count: int, events: "ctypes._Pointer[_Event]") -> int:
        if block and count > 0:
            samples.extend(ctypes.string_at(block, 2 * count))
        index = 0
        while events[index].type != _END:
            event = events[index]
            if event.type == _PHONEME:
                sounds.append((event.text_position, event.name.string.decode("utf-8", "replace"), event.sample))
            index += 1
        return 0

    heard = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))(hear)
    espeak.espeak_SetSynthCallback(heard)
    text = asked["text"].encode()
    espeak.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _UTF8, None, None)
    espeak.espeak_Synchronize()
    sys.stdout.buffer.write(json.dumps({"rate_hz": rate_hz, "sounds": sounds}).encode() + b"\n" + bytes(samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
