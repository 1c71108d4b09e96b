"""What the speech encoder of `mini` is trained on: speech, and the shape of the lips that goes with it, without pictures.

What is trained on is heard three times, twice in other voices: the films have one speaker, and so have the recordings.

Axes: N clips, F frames at 25 a second, T = F·640 samples at 16 kHz, C components of the lips' shape.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from joyhallo.conditioning.face import FaceMesh
from joyhallo.data.synthesis import mandarin, motion
from joyhallo.data.synthesis.acting import loudness_of, rest_in_silence
from joyhallo.data.synthesis.espeak import espeak_sentence, share_there
from joyhallo.data.synthesis.gestures import Gesture, read_gesture
from joyhallo.data.synthesis.speakers import Film, Tracked, list_films, load_tracked, save_tracked, track
from joyhallo.data.synthesis.voice_change import draw_voice, in_voice
from joyhallo.errors import UserError
from joyhallo.models.speech_encoder import SAMPLES_PER_FRAME

logger = logging.getLogger(__name__)
NUM_COMPONENTS = 8
SHUT_CM = 0.05  # lips no farther apart than this are shut
_MIDDLE = slice(3, 8)  # of the eleven pairs of the inner lips
_HELD_OUT_OF = 18  # sentences
_NUM_OTHER_VOICES = 2


@dataclass(frozen=True)
class LipSources:
    """Where lips and speech come from; see `training.speech`."""

    videos: tuple[Path, ...]  # folders of talking clips, or datasets
    tracks: Path  # a folder where tracked videos are kept; those that are there are not tracked again
    face_models: Path
    syllables: Path | None = None  # recorded Mandarin syllables
    words: Path | None = None  # and words
    espeak_share: float = 0.25  # of the Mandarin sentences that espeak-ng speaks, where it is installed
    num_videos: int = 1000
    num_sentences: int = 1320  # of Mandarin, where there are recordings
    num_frames: int = 72


@dataclass(frozen=True, eq=False)
class LipClips:
    """Clips of one length; the held-out ones come first, those of films before Mandarin sentences on either side."""

    speech: np.ndarray  # [N,T] float32 of unit deviation
    components: np.ndarray  # [N,F,C] of unit variance
    opening: np.ndarray  # [N,F] centimetres between the inner lips
    component_scales: np.ndarray  # [C] centimetres
    num_held_out: int

    @property
    def shut(self) -> np.ndarray:
        """Whether the lips are shut, [N,F] float32."""
        return (self.opening < SHUT_CM).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Spoken:
    """One clip before the components are known."""

    shape: np.ndarray  # [F, points·3]
    opening: np.ndarray  # [F]
    speech: np.ndarray  # [T]
    is_held_out: bool


def read_lip_clips(sources: LipSources, template: np.ndarray) -> LipClips:
    """Films tracked, and Mandarin sentences made of syllables; `template`: vertices of the average face.

    Raises:
        UserError: no film or none with the face in every frame, or none is held out.
    """
    films = list_films(sources.videos, sources.num_videos)
    donors: list[tuple[Gesture, np.ndarray]] = []
    spoken = []
    for film, tracked in tracked_films(films, sources):
        if tracked.reason is not None or len(tracked.points) < sources.num_frames:
            continue
        speech = tracked.speech.astype(np.float32) / 32767
        gesture = read_gesture(tracked.points, template)
        gesture = rest_in_silence(gesture, loudness_of(speech, len(gesture.blink)))
        if not film.is_held_out and len(donors) < mandarin.NUM_HEARD:
            donors.append((gesture, speech))
        spoken += list(_parts(gesture, speech, sources.num_frames, film.is_held_out))
    num_held_out = sum(clip.is_held_out for clip in spoken)
    if not 0 < num_held_out < len(spoken):
        raise UserError(
            f"of {len(films)} videos {len(spoken)} clips of {sources.num_frames} frames with a face in all of them were found, "
            f"{num_held_out} of them held out: training needs both kinds; give more videos, or fewer --frames"
        )
    if sources.syllables is not None or sources.words is not None:
        spoken += list(_sentences(sources, donors))
    return _assembled([*spoken, *_in_other_voices(spoken)])


def tracked_films(films: Sequence[Film], sources: LipSources) -> Iterator[tuple[Film, Tracked]]:
    """Every film with what was found in it, tracked now or before."""
    finder: FaceMesh | None = None
    sources.tracks.mkdir(parents=True, exist_ok=True)
    for film in films:
        path = sources.tracks / f"{film.name}.npz"
        if not path.exists():
            finder = finder or FaceMesh.from_path(sources.face_models)
            save_tracked(track(film, finder), path)
        yield film, load_tracked(path)


def _parts(gesture: Gesture, speech: np.ndarray, num_frames: int, is_held_out: bool) -> Iterator[_Spoken]:
    """A film as clips of one length that cover it."""
    length = len(gesture.blink)
    for start in np.linspace(0, length - num_frames, -(-length // num_frames)).round().astype(int).tolist():
        sound = speech[start * SAMPLES_PER_FRAME : (start + num_frames) * SAMPLES_PER_FRAME]
        if sound.std() > 0:
            yield _spoken(gesture.part(start, num_frames), sound, is_held_out)


def _sentences(sources: LipSources, donors: list[tuple[Gesture, np.ndarray]]) -> Iterator[_Spoken]:
    """Mandarin: one in eighteen of held-out recordings."""
    recordings = mandarin.read_recordings(sources.syllables, sources.words)
    gestures = [gesture for gesture, _ in donors[: mandarin.NUM_DONORS]]
    lips = mandarin.fit_lips(donors)
    random = np.random.default_rng(5)
    espeak_share = share_there(sources.espeak_share)
    for number in range(sources.num_sentences):
        is_held_out = number % _HELD_OUT_OF == 0
        paths = recordings[is_held_out]
        if random.random() < espeak_share:
            sentence = espeak_sentence([path.stem for path in paths], sources.num_frames, random)
        else:
            sentence = mandarin.speak(paths, sources.num_frames, random)
        donor = gestures[int(random.integers(len(gestures)))]
        yield _spoken(mandarin.act(sentence, lips, donor), sentence.speech, is_held_out)


def _in_other_voices(spoken: Sequence[_Spoken]) -> Iterator[_Spoken]:
    """Those to train on again, each time in a voice of its own."""
    random = np.random.default_rng(6)
    for clip in _NUM_OTHER_VOICES * [clip for clip in spoken if not clip.is_held_out]:
        changed = in_voice(clip.speech, draw_voice(random), len(clip.speech))
        yield replace(clip, speech=changed / (changed.std() + 1e-6))


def _spoken(gesture: Gesture, speech: np.ndarray, is_held_out: bool) -> _Spoken:
    shape = gesture.shape[:, list(motion.LIPS_AND_CHIN)].reshape(len(gesture.blink), -1)
    opening = gesture.gap[:, _MIDDLE].mean(1).astype(np.float32)
    return _Spoken(shape.astype(np.float32), opening, speech / (speech.std() + 1e-6), is_held_out)


def _assembled(spoken: list[_Spoken]) -> LipClips:
    """In order, with the shapes as their principal components."""
    spoken = sorted(spoken, key=lambda clip: not clip.is_held_out)
    shape = np.stack([clip.shape for clip in spoken])
    centred = (shape - shape.mean((0, 1))).reshape(-1, shape.shape[-1])
    _, values, vectors = np.linalg.svd(centred[:: max(1, len(centred) // 8000)], full_matrices=False)
    projected = centred @ vectors[:NUM_COMPONENTS].T
    scales = projected.std(0)
    logger.info("%d clips, shares of the variance %s", len(shape), (values[:8] ** 2 / (values**2).sum()).round(3))
    return LipClips(
        speech=np.stack([clip.speech for clip in spoken]).astype(np.float32),
        components=(projected / scales).reshape(*shape.shape[:2], -1).astype(np.float32),
        opening=np.stack([clip.opening for clip in spoken]),
        component_scales=scales,
        num_held_out=sum(clip.is_held_out for clip in spoken),
    )
