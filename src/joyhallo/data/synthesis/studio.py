"""One synthetic clip: a portrait, somebody's movement, and the sound that goes with it, as an ordinary sample."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from joyhallo.conditioning.anatomy import SILHOUETTE, silhouette_box
from joyhallo.conditioning.face import Face, FaceMesh
from joyhallo.conditioning.identity import MiniIdentity
from joyhallo.conditioning.masks import clip_box, clip_masks
from joyhallo.conditioning.speech import MelSpeech
from joyhallo.conditioning.teeth import Teeth, read_teeth
from joyhallo.data.frames import SAMPLES_PER_FRAME
from joyhallo.data.framing import FaceCrop, face_crop
from joyhallo.data.preparation.equipment import Equipment
from joyhallo.data.preparation.tracking import measure_sharpness
from joyhallo.data.samples import Annotations, Facts, write_sample
from joyhallo.data.synthesis import mandarin, motion
from joyhallo.data.synthesis.acting import act_out, draw_style, faster, loudness_of, rest_in_silence
from joyhallo.data.synthesis.canonical import read_canonical_mesh
from joyhallo.data.synthesis.espeak import espeak_sentence
from joyhallo.data.synthesis.gestures import Gesture, read_gesture
from joyhallo.data.synthesis.lighting import relight
from joyhallo.data.synthesis.speakers import Film, load_tracked
from joyhallo.data.synthesis.stills import Still, load_study
from joyhallo.data.synthesis.styles import stylise
from joyhallo.data.synthesis.voice_change import Voice, draw_voice, in_voice
from joyhallo.data.synthesis.voices import played, recorded
from joyhallo.data.synthesis.warp import TalkingPortrait
from joyhallo.media.image import read_image
from joyhallo.weights.hub import bundled_folder
from joyhallo.weights.pipeline_folder import load_component

FACE_SHARES = (0.35, 0.75)  # of the frame's side that the face fills; most pictures allow no less than half
_FEWEST_FRAMES = 24
_SPEED = 0.16  # natural logarithm of the greatest change of speed
_SHARE_OTHER_VOICES = 0.6  # of the clips; in the others the voice changes with the speed alone
_KEPT_FILMS = 40  # whose movement stays read
_SPOKEN = 0.4  # loudness from which a frame counts as speech: 24 dB under the loudest


class Source(StrEnum):
    """Where movement and sound come from; the value is part of the clip's key."""

    FILM = "film"
    SYLLABLES = "syllables"  # recorded ones alone
    WORDS = "words"  # recorded ones, and syllables if there are any
    ESPEAK = "espeak"


@dataclass(frozen=True)
class ClipPlan:
    """A clip to make."""

    key: str
    still: Still
    source: Source  # of its movement and sound


@dataclass(frozen=True)
class Cast:
    """Everything that clips are made from."""

    work: Path  # the folder with the studies of portraits, the tracked films and the finished clips
    face_models: Path  # the `.task` bundle
    lenders: dict[bool, tuple[Film, ...]]  # of movement and sound: the held-out ones (True), and the others
    smiles: dict[bool, tuple[Still, ...]]  # whose teeth may be given to others
    syllables: Path | None
    words: Path | None
    size_px: int
    num_frames: int
    head_share: float  # of the head's movement
    opening: float  # of the lips, against the films'
    seed: int

    def study_of(self, still: Still) -> Path:
        """Where a portrait's study is kept."""
        return self.work / "portraits" / f"{still.name}.npz"

    def track_of(self, film: Film) -> Path:
        """Where a tracked film is kept."""
        return self.work / "videos" / f"{film.name}.npz"


def generator(seed: int, key: str) -> np.random.Generator:
    """Random numbers of one clip: they depend on nothing but the seed and its key."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], np.uint32).tolist()])


@dataclass(frozen=True, eq=False)
class _Performance:
    """What a portrait is to do and to say."""

    gesture: Gesture
    speech: np.ndarray  # [F·640] float32


class Studio:
    """Makes clips; one of them per process."""

    def __init__(self, cast: Cast) -> None:
        torch.set_num_threads(1)  # there is a process for every core
        cv2.setNumThreads(1)
        self._cast = cast
        self._mesh = read_canonical_mesh(cast.face_models)
        mini = bundled_folder("mini")
        identity = MiniIdentity(load_component(mini / "identity_encoder", "IdentityNetwork", torch.float32))
        encoder = MelSpeech(load_component(mini / "speech_encoder", "MelSpeechNetwork", torch.float32))
        self._equipment = Equipment(FaceMesh.from_path(cast.face_models), identity, "mini", encoder, "mini", None)
        self._recordings = mandarin.read_recordings(cast.syllables, cast.words)
        self._performances: OrderedDict[str, _Performance] = OrderedDict()
        self._lips: mandarin.FilmedLips | None = None

    def make(self, plan: ClipPlan) -> str:
        """Write the sample of a plan into the folder `clips` of the work folder; returns its key."""
        cast, still = self._cast, plan.still
        random = generator(cast.seed, plan.key)
        is_held_out = still.is_held_out
        portrait = self._portrait(still, random)
        performance = self._filmed(is_held_out, random) if plan.source is Source.FILM else self._mandarin(plan, random)
        num_frames = len(performance.gesture.blink)
        loudness = loudness_of(performance.speech, num_frames)
        gesture = rest_in_silence(performance.gesture, loudness)
        gesture = act_out(gesture, loudness, draw_style(random).with_head(cast.head_share).with_opening(cast.opening), random)
        speech = recorded(performance.speech, random)
        finish = partial(stylise, seed=int(random.integers(2**31)))
        placed = [portrait.place(gesture, frame) for frame in range(num_frames)]
        points = np.stack([frame.points for frame in placed]).astype(np.float32)
        picture = finish(portrait.image)
        annotations = self._annotations(picture, portrait.points, points, speech)
        box = silhouette_box(portrait.points)
        facts = Facts(
            key=plan.key,
            source=f"{still.path.parent.name}/{still.path.name}",
            start_s=0.0,
            num_frames=num_frames,
            size_px=cast.size_px,
            speaker=still.person,
            is_held_out=is_held_out,
            is_synthetic=True,
            identity_encoder=self._equipment.identity_name,
            speech_encoder=self._equipment.speech_name,
            face_share=float(np.prod(box[2:] - box[:2]) / cast.size_px**2),
            sharpness=measure_sharpness(picture, box),
            speech_share=float((loudness > _SPOKEN).mean()),
            sync_offset_frames=None,  # in time by the way it is made, and not measured
            sync_confidence=None,
        )
        frames: Iterator[np.ndarray] = (finish(portrait.render(frame)) for frame in placed)
        write_sample(cast.work / "clips", facts, annotations, frames, finish(portrait.with_closed_lips()))
        return plan.key

    def _portrait(self, still: Still, random: np.random.Generator) -> TalkingPortrait:
        """The picture cut out, in other light, ready to move."""
        studied = load_study(self._cast.study_of(still))
        image = read_image(still.path)
        size = (image.shape[0], image.shape[1])
        crop = face_crop(studied.points, size, self._cast.size_px, float(random.uniform(*FACE_SHARES)))
        fine = FaceCrop(crop.crop, 2 * self._cast.size_px)  # where its own teeth are read
        lamp = int(random.integers(2**31))
        picture, large = (relight(cut.cut(image), np.random.default_rng(lamp)) for cut in (crop, fine))
        points = crop.move(studied.points)
        portrait = TalkingPortrait(picture, points, self._mesh)
        seen = fine.move(studied.points)
        own = read_teeth(large, seen, motion.fit_pose(seen, self._mesh.vertices), portrait.rest)
        if own is not None:
            return portrait.with_teeth(own, is_own=True)
        return portrait.with_teeth(self._borrowed_teeth(still, random), is_own=False)

    def _borrowed_teeth(self, still: Still, random: np.random.Generator) -> Teeth | None:
        """Those of somebody on the same side of the split; one's own of another picture, if there is one."""
        smiles = self._cast.smiles[still.is_held_out]
        same = [other for other in smiles if other.person == still.person]
        chosen = same or list(smiles)
        if not chosen:
            return None
        return load_study(self._cast.study_of(chosen[int(random.integers(len(chosen)))])).teeth

    def _lender(self, film: Film) -> _Performance:
        """A film's whole movement and sound; the last ones are kept."""
        if film.name not in self._performances:
            tracked = load_tracked(self._cast.track_of(film))
            speech = tracked.speech.astype(np.float32) / 32767
            self._performances[film.name] = _Performance(read_gesture(tracked.points, self._mesh.vertices), speech)
            while len(self._performances) > _KEPT_FILMS:
                self._performances.popitem(last=False)
        return self._performances[film.name]

    def _drawn_lender(self, is_held_out: bool, random: np.random.Generator) -> _Performance:
        films = self._cast.lenders[is_held_out]
        return self._lender(films[int(random.integers(len(films)))])

    def _filmed(self, is_held_out: bool, random: np.random.Generator) -> _Performance:
        """Part of a film, a little faster or slower."""
        whole = self._drawn_lender(is_held_out, random)
        length = len(whole.gesture.blink)
        factor = float(np.exp(random.uniform(-_SPEED, _SPEED)))
        num_frames = max(min(_FEWEST_FRAMES, length), min(self._cast.num_frames, int((length - 1) / factor)))
        factor = min(factor, (length - 1) / num_frames)
        starts = random.uniform(0, max(0.0, length - 1 - num_frames * factor), 3)
        # Of three parts that with the most movement of the lips: films begin and end in silence.
        spans = [whole.gesture.gap[int(start) : int(start + num_frames * factor) + 1, 5].std() for start in starts]
        return _at_speed(whole, factor, float(starts[int(np.argmax(spans))]), num_frames, _voice(random))

    def _mandarin(self, plan: ClipPlan, random: np.random.Generator) -> _Performance:
        """A sentence of recordings or of espeak-ng in some voice, with the head of a film."""
        is_held_out = plan.still.is_held_out
        if self._lips is None:
            films = [self._lender(film) for film in self._cast.lenders[False][: mandarin.NUM_HEARD]]
            self._lips = mandarin.fit_lips([(film.gesture, film.speech) for film in films])
        factor = float(np.exp(random.uniform(-_SPEED, _SPEED)))
        num_frames, paths = self._cast.num_frames, self._recordings[is_held_out]
        num_spoken = int(np.ceil(num_frames * factor)) + 2
        if plan.source is Source.ESPEAK:
            sentence = espeak_sentence([path.stem for path in paths], num_spoken, random)
        else:
            sentence = mandarin.speak(paths, num_spoken, random)
        donor = self._drawn_lender(is_held_out, random).gesture
        whole = _Performance(mandarin.act(sentence, self._lips, donor), sentence.speech)
        return _at_speed(whole, factor, 0.0, num_frames, _voice(random))

    def _annotations(
        self, picture: np.ndarray, still_points: np.ndarray, points: np.ndarray, speech: np.ndarray
    ) -> Annotations:
        size = (self._cast.size_px, self._cast.size_px)
        face = Face(1.0, silhouette_box(still_points).astype(np.float32), still_points.astype(np.float32))
        return Annotations(
            points=points,
            speech=speech,
            masks=clip_masks(points, size),
            face_box=clip_box(points, SILHOUETTE, size),
            face_embedding=self._equipment.identity.embed(picture, face).numpy(),
            speech_features=self._equipment.encode_speech(speech),
        )


def _voice(random: np.random.Generator) -> Voice | None:
    """Whose voice it is; None for the recorded one, which is higher when it is faster."""
    return draw_voice(random) if random.random() < _SHARE_OTHER_VOICES else None


def _at_speed(whole: _Performance, factor: float, start: float, num_frames: int, voice: Voice | None) -> _Performance:
    """`num_frames` from frame `start` on, `factor` times as fast, in another voice; sound and lips stay together."""
    # The middle of frame i lies at (i + 0.5)·640 samples, before and after.
    first, num_samples = SAMPLES_PER_FRAME * (start + 0.5 - 0.5 * factor), num_frames * SAMPLES_PER_FRAME
    if voice is None:
        speech = played(whole.speech, factor, first, num_samples)
    else:
        speech = in_voice(played(whole.speech, 1.0, round(first), round(num_samples * factor)), voice, num_samples)
    return _Performance(faster(whole.gesture, factor, start, num_frames), speech)
