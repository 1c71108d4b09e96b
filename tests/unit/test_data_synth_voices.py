"""Other voices: pitch, formants and speed apart, the voice of espeak-ng, and music to speak over."""

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from joyhallo.data.synthesis import espeak, espeak_process, mandarin, voices
from joyhallo.data.synthesis.gestures import Gesture
from joyhallo.data.synthesis.music import music_like
from joyhallo.data.synthesis.plans import SynthesisRequest, plan_clips
from joyhallo.data.synthesis.stills import Still
from joyhallo.data.synthesis.studio import Source, _at_speed, _Performance
from joyhallo.data.synthesis.synthesize import with_voices_there
from joyhallo.data.synthesis.voice_change import Voice, draw_voice, faster, in_voice, stretched
from joyhallo.errors import UserError

RATE_HZ = 16000
FORMANTS_HZ = (700, 1300, 2600)
needs_espeak = pytest.mark.skipif(not espeak.is_installed(), reason="no espeak-ng on this machine")


def vowel(pitch_hz: float, num_samples: int = 16000) -> np.ndarray:
    """Pulses through three resonances."""
    from scipy.signal import lfilter

    sound = np.diff(np.floor(np.arange(num_samples + 1) * pitch_hz / RATE_HZ))
    sound = lfilter([1], [1, -0.95], sound)
    for hz in FORMANTS_HZ:
        radius = np.exp(-np.pi * 90 / RATE_HZ)
        sound = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * hz / RATE_HZ), radius**2], sound)
    return (sound / np.std(sound)).astype(np.float32)


def pitch_of(sound: np.ndarray) -> float:
    """By autocorrelation, between 60 and 400 Hz."""
    middle = sound[len(sound) // 4 : -len(sound) // 4]
    echo = np.fft.irfft(np.abs(np.fft.rfft(middle - middle.mean(), 2 * len(middle))) ** 2)
    lags = np.arange(RATE_HZ // 400, RATE_HZ // 60)
    return RATE_HZ / float(lags[echo[lags].argmax()])


def second_formant_of(sound: np.ndarray) -> float:
    """By linear prediction: the resonance nearest to where it is looked for lies between 900 and 1900 Hz."""
    from scipy.linalg import solve_toeplitz
    from scipy.signal import lfilter

    middle = np.asarray(lfilter([1, -0.95], [1], sound.astype(float)))[4000:12000] * np.hanning(8000)
    echo = np.correlate(middle, middle, "full")[7999:8010]
    roots = np.roots(np.r_[1, -solve_toeplitz(echo[:10], echo[1:11])])
    hz = np.angle(roots) * RATE_HZ / (2 * np.pi)
    near = (hz > 900) & (hz < 1900)
    return float(hz[near][np.abs(roots[near]).argmax()])


class TestVoiceChange:
    @pytest.mark.parametrize("pitch_hz", [110, 200])
    @pytest.mark.parametrize("pitch", [0.7, 1.0, 1.4])
    @pytest.mark.parametrize("pace", [0.85, 1.0, 1.15])
    def test_the_pitch_moves_by_the_factor_and_the_length_is_what_was_asked_for(self, pitch_hz, pitch, pace):
        sound = vowel(pitch_hz)
        changed = in_voice(sound, Voice(pitch, 1.0), round(len(sound) / pace))
        assert len(changed) == round(len(sound) / pace)
        assert pitch_of(changed) / pitch_of(sound) == pytest.approx(pitch, rel=0.02)
        assert changed.std() == pytest.approx(float(sound.std()), rel=0.01)

    @pytest.mark.parametrize(("pitch", "formants"), [(1.0, 1.15), (1.0, 0.87), (1.4, 1.0), (1.4, 1.15)])
    def test_formants_move_by_their_own_factor(self, pitch, formants):
        sound = vowel(110)
        changed = in_voice(sound, Voice(pitch, formants), len(sound))
        assert second_formant_of(changed) / second_formant_of(sound) == pytest.approx(formants, rel=0.07)
        assert pitch_of(changed) / pitch_of(sound) == pytest.approx(pitch, rel=0.02)

    def test_sounds_stay_where_they_are(self):
        for pace in (0.8, 1.0, 1.3):
            for voice in (Voice(1.0, 1.0), Voice(1.5, 1.1), Voice(0.7, 0.9)):
                speech = 0.001 * np.random.default_rng(0).normal(size=32000)
                speech[[8000, 20000]] = 1.0
                speech[8000:8400] += vowel(150, 400)
                changed = in_voice(speech.astype(np.float32), voice, round(32000 / pace))
                loud = np.convolve(np.square(changed), np.ones(400), "same")
                assert abs(int(loud.argmax()) * pace - 8200) < 320  # half a video frame

    def test_stretched_speech_is_as_loud_throughout_and_as_long_as_asked_for(self):
        tone = np.sin(2 * np.pi * 200 * np.arange(16000) / RATE_HZ).astype(np.float32)
        for num_samples in (9000, 16000, 23000):
            longer = stretched(tone, num_samples)
            assert len(longer) == num_samples
            levels = longer[: num_samples // 320 * 320].reshape(-1, 320).std(1)
            assert levels[1:-1] == pytest.approx(tone.std(), rel=0.05)

    def test_faster_is_shorter_at_the_same_pitch(self):
        tone = np.sin(2 * np.pi * 200 * np.arange(16000) / RATE_HZ).astype(np.float32)
        shorter = faster(tone, 1.5)
        assert 9000 < len(shorter) < 11200
        assert abs(np.abs(np.fft.rfft(shorter[:8000])).argmax() * 2 - 200) <= 4

    def test_drawn_voices_differ_within_reason(self):
        random = np.random.default_rng(0)
        drawn = [draw_voice(random) for _ in range(300)]
        pitches, formants = (np.array([getattr(voice, name) for voice in drawn]) for name in ("pitch", "formants"))
        assert 0.6 < pitches.min() < 0.75
        assert 1.35 < pitches.max() < 1.65
        assert 0.81 < formants.min() < 0.95
        assert 1.05 < formants.max() < 1.23
        assert 0.3 < np.corrcoef(np.log(pitches), np.log(formants))[0, 1] < 0.95

    @pytest.mark.parametrize("voice", [None, Voice(1.4, 1.1), Voice(0.7, 0.95)])
    @pytest.mark.parametrize("factor", [0.87, 1.15])
    def test_lips_keep_in_time(self, voice, factor):
        count = 80
        zeros = np.zeros((count, 478, 3))
        gesture = Gesture(
            zeros, np.zeros((count, 11)), np.zeros(count), np.repeat(np.eye(3)[None], count, 0), np.ones(count), zeros[:, 0]
        )
        gesture.gap[40] = 1.0
        speech = 1e-4 * np.random.default_rng(0).normal(size=count * 640)
        speech[40 * 640 : 41 * 640] += vowel(180, 640)
        moved = _at_speed(_Performance(gesture, speech.astype(np.float32)), factor, 2.0, 60, voice)
        loud = np.square(moved.speech.reshape(60, 640)).mean(1)
        assert abs(int(loud.argmax()) - int(moved.gesture.gap[:, 5].argmax())) <= 1
        assert abs(int(loud.argmax()) - 38 / factor) <= 1.5


class TestMusic:
    def test_it_has_tones_and_is_the_same_for_the_same_seed(self):
        first, second, other = (music_like(32000, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, second)
        assert not np.allclose(first, other)
        assert first.std() == pytest.approx(1)
        for music in (first, other):  # most of the power lies in few frequencies, which noise of any colour lacks
            power = np.sort(np.abs(np.fft.rfft(music)) ** 2)[::-1]
            assert power[: len(power) // 50].sum() > 0.6 * power.sum()

    def test_it_is_under_some_recordings_at_varied_levels(self, monkeypatch):
        asked = []
        monkeypatch.setattr(voices, "music_like", lambda count, _random: asked.append(count) or np.ones(count))
        speech = np.random.default_rng(0).normal(size=6400)
        for seed in range(200):
            voices.recorded(speech, np.random.default_rng(seed))
        assert 0.08 < len(asked) / 200 < 0.25


class TestEspeak:
    stills = (Still(Path("a.png"), "a", "a"),)
    request = SynthesisRequest((), (), Path("out"), Path("x.task"), words=Path("w"), espeak_share=0.5, num_takes=8)

    def test_where_it_is_missing_the_log_says_so_once_and_recordings_speak(self, monkeypatch, caplog):
        monkeypatch.setattr(espeak_process, "library", lambda: None)
        with caplog.at_level(logging.WARNING):
            there = with_voices_there(self.request)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "espeak-ng is not installed" in caplog.text
        assert {plan.source for plan in plan_clips(there, self.stills)} == {Source.FILM, Source.WORDS}

    def test_where_it_is_there_or_not_asked_for_nothing_is_said(self, monkeypatch, caplog):
        monkeypatch.setattr(espeak_process, "library", lambda: "libespeak-ng.so.1")
        assert with_voices_there(self.request) == self.request
        assert Source.ESPEAK in {plan.source for plan in plan_clips(self.request, self.stills)}
        monkeypatch.setattr(espeak_process, "library", lambda: None)
        silent = SynthesisRequest((), (), Path("out"), Path("x.task"))
        assert with_voices_there(silent) == silent
        assert not caplog.records

    @pytest.mark.skipif(espeak.is_installed(), reason="espeak-ng is on this machine")
    def test_speaking_without_it_is_an_error_that_says_what_to_do(self):
        with pytest.raises(UserError, match="apt-get install espeak-ng"):
            espeak.say([["ni3"]], espeak.Manner())

    @needs_espeak
    def test_it_tells_when_each_syllable_is_heard(self):
        speech, said = espeak.say([["ba1", "ma5"], ["shui3", "lü4"]], espeak.Manner("+f2", 150))
        assert [timed.pinyin for timed in said] == ["ba1", "ma5", "shui3", "lü4"]
        assert all(timed.start < timed.vowel < timed.end for timed in said)
        assert all(before.end <= after.start for before, after in pairwise(said))
        assert said[2].start - said[1].end > 0.05  # a comma
        level = np.sqrt(np.convolve(np.square(speech), np.ones(320) / 320, "same"))
        for timed in said:
            assert level[int((timed.vowel + timed.end) / 2 * RATE_HZ)] > 0.1 * level.max()

    @needs_espeak
    def test_a_sentence_is_the_same_for_the_same_seed_and_ends_in_time(self):
        names = ["妈妈", "苹果", "玩儿", "ba1"]
        first, again = (espeak.espeak_sentence(names, 60, np.random.default_rng(4)) for _ in range(2))
        assert np.array_equal(first.speech, again.speech)
        assert first.speech.shape == (60 * 640,)
        assert first.controls.shape == (60, 4)
        assert (first.controls[5:-5, 0] == 0).sum() >= 3
        assert mandarin.SAMPLES_PER_FRAME == 640
