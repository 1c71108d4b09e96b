"""Whether lips and sound belong together: what the sound says the lips should do, held against what they do.

A linear map (ridge regression) predicts eight measures of the lips from 13 frames of log-mel bands; the score is the weighted
mean of the correlations between the predicted and the seen measures over a clip. Moving one against the other finds the
offset. It needs no network, knows nothing of pictures, and works on the points of either face mesh (468 or 478).

Its numbers were fitted on one English speaker (see the README beside them): a low score says that lips and sound do not fit;
a comparison of scores between languages or speakers says little.
Axes: F frames at 25 a second, K points, T samples at 16 kHz, M = 8 lip measures.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.similarity import fit_similarity
from joyhallo.errors import UserError
from joyhallo.models.speech_encoder import SAMPLES_PER_FRAME, mel_filters

MEASURES = ("gap", "width", "height", "jaw", "lower lip", "upper lip", "area", "roundness")
MAX_OFFSET = 15  # frames
MIN_FRAMES = 50  # below two seconds the offset is a guess
CONTEXT = 6  # frames of sound on either side that a prediction hears
NUM_BANDS = 26
PENALTY = 1000.0  # of the ridge regression, on standardised bands

_FFT, _WINDOW, _HOP = 512, 400, 160
_LEVEL = 0.05  # that recordings are brought to (root mean square)


@dataclass(frozen=True)
class LipSyncScore:
    """How well lips and sound fit."""

    score: float  # as they are: about 0.8 in sync, 0.1 for a foreign recording, at most 1
    best_score: float  # at the best offset
    offset_frames: int  # by how much the lips lag behind the sound at the best offset
    confidence: float  # best score minus the median over all offsets
    scores: tuple[float, ...]  # at all offsets, from -MAX_OFFSET to MAX_OFFSET

    def best_within(self, num_frames: int) -> float:
        """The best score at offsets of up to `num_frames` either way."""
        return max(self.scores[MAX_OFFSET - num_frames : MAX_OFFSET + num_frames + 1])


@dataclass(frozen=True, eq=False)
class LipSync:
    """The fitted numbers."""

    weights: np.ndarray  # [13·26, M] float32: standardised bands → standardised measures
    band_scale: np.ndarray  # [13·26] float32
    measure_scale: np.ndarray  # [M] float32
    measure_weights: np.ndarray  # [M] float32, sum 1: how much each counts in the score

    @classmethod
    def load(cls, folder: Path | None = None) -> "LipSync":
        """Those in the package, or in a folder that `save` wrote. Raises UserError when there are none."""
        from safetensors.numpy import load_file

        path = (folder or Path(__file__).parents[1] / "weights" / "lip_sync") / "lip_sync.safetensors"
        if not path.is_file():
            raise UserError(f"there is no lip-sync model at '{path}': install the package again, or fit one")
        return cls(**load_file(path))

    def save(self, folder: Path) -> None:
        """Write `lip_sync.safetensors` into a folder, whole or not at all."""
        from safetensors.numpy import save

        names = ("weights", "band_scale", "measure_scale", "measure_weights")
        content = save({name: np.ascontiguousarray(getattr(self, name), np.float32) for name in names})
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".lip_sync.safetensors.partial"
        temporary.write_bytes(content)
        temporary.replace(folder / "lip_sync.safetensors")

    def predict(self, speech: np.ndarray, num_frames: int) -> np.ndarray:
        """What the lips should do, [F, M], standardised, of `speech` [T] (int16, or float of any level)."""
        return with_context(log_mel(speech, num_frames)) / self.band_scale @ self.weights

    def score(self, points: np.ndarray, speech: np.ndarray) -> LipSyncScore:
        """Of a clip: `points` [F, K, 3] in pixels of any size, `speech` [T] at 16 kHz from the same start.

        Raises ValueError below `MIN_FRAMES` frames: the offset would be a guess.
        """
        if len(points) < MIN_FRAMES:
            raise ValueError(f"{len(points)} frames are too few to tell whether lips and sound fit: {MIN_FRAMES} are needed")
        return self.compare(self.predict(speech, len(points)), lip_measures(points))

    def compare(self, predicted: np.ndarray, seen: np.ndarray) -> LipSyncScore:
        """The score of `predict`ed and seen (`lip_measures`) lips, [F, M] both."""
        offsets = range(-MAX_OFFSET, MAX_OFFSET + 1)
        scores = np.array([self.at(predicted, seen, offset) for offset in offsets])
        best = int(scores.argmax())
        return LipSyncScore(
            score=float(scores[MAX_OFFSET]),
            best_score=float(scores[best]),
            offset_frames=best - MAX_OFFSET,
            confidence=float(scores[best] - np.median(scores)),
            scores=tuple(scores.tolist()),
        )

    def at(self, predicted: np.ndarray, seen: np.ndarray, offset: int) -> float:
        """The score when the lips are taken `offset` frames later than the sound."""
        count = len(seen) - abs(offset)
        sound = predicted[max(0, -offset) :][:count]
        lips = seen[max(0, offset) :][:count]
        return float(correlation(sound, lips) @ self.measure_weights)


def fit(clips: Iterable[tuple[np.ndarray, np.ndarray]], penalty: float = PENALTY) -> LipSync:
    """Fit to talking clips that are in sync: pairs of points [F, K, 3] and speech [F·640].

    The weights of the measures are their squared correlations on the same clips.
    """
    heard, seen = [], []
    for points, speech in clips:
        heard.append(with_context(log_mel(speech, len(points))))
        measures = lip_measures(points)
        seen.append(measures - measures.mean(0))
    bands, targets = np.concatenate(heard), np.concatenate(seen)
    band_scale, measure_scale = bands.std(0) + 1e-6, targets.std(0)
    bands, targets = bands / band_scale, targets / measure_scale
    weights = ridge(bands, targets, penalty)
    found = [correlation(part / band_scale @ weights, measures) for part, measures in zip(heard, seen, strict=True)]
    share = np.clip(np.mean(found, 0), 0, 1) ** 2
    return LipSync(*(array.astype(np.float32) for array in (weights, band_scale, measure_scale, share / share.sum())))


def lip_measures(points: np.ndarray) -> np.ndarray:
    """Measures of the lips in every frame, [F, M] float64, free of the head's position, turn and size.

    `points` [F, K, 3]. The unit is the distance between the outer corners of the eyes.
    """
    face = _rigid_free(points.astype(np.float64))
    gap = np.mean([face[:, low, 1] - face[:, high, 1] for high, low in anatomy.LIP_GAP_PAIRS], axis=0)
    width = np.linalg.norm(face[:, anatomy.LEFT_MOUTH_CORNER] - face[:, anatomy.RIGHT_MOUTH_CORNER], axis=-1)
    height = face[:, 17, 1] - face[:, 0, 1]
    nose = face[:, anatomy.NOSE_TIP, 1]
    x, y = face[:, anatomy.INNER_LIP_RING, 0], face[:, anatomy.INNER_LIP_RING, 1]
    area = 0.5 * np.abs((x * np.roll(y, 1, 1) - y * np.roll(x, 1, 1)).sum(1))
    jaw, lower, upper = (face[:, index, 1] - nose for index in (anatomy.CHIN, 14, 13))
    return np.stack([gap, width, height, jaw, lower, upper, area, height / width], axis=1)


def log_mel(speech: np.ndarray, num_frames: int) -> np.ndarray:
    """Log-mel bands of every frame, [F, 26] float64: the mean of its four windows of 25 ms; silence after the end."""
    samples = speech.astype(np.float64)[: num_frames * SAMPLES_PER_FRAME]
    samples = samples * (_LEVEL / max(float(np.sqrt(np.square(samples).mean())), 1e-9)) if len(samples) else samples
    samples = np.pad(samples, (0, num_frames * SAMPLES_PER_FRAME - len(samples)))
    padded = np.pad(samples, ((_WINDOW - _HOP) // 2, _WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: 4 * num_frames] * np.hanning(_WINDOW)
    power = np.square(np.abs(np.fft.rfft(windows, _FFT)))
    bands = np.log(power @ mel_filters(NUM_BANDS).numpy().astype(np.float64).T + 1e-4)
    return bands.reshape(num_frames, 4, NUM_BANDS).mean(1)


def ridge(inputs: np.ndarray, targets: np.ndarray, penalty: float = PENALTY) -> np.ndarray:
    """The map [I, M] from inputs [F, I] to targets [F, M] with the least squared error and penalised squared size."""
    return np.linalg.solve(inputs.T @ inputs + penalty * np.eye(inputs.shape[1]), inputs.T @ targets)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each column of [F, M] and [F, M]; 0 where one of them does not change."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt(np.square(a).sum(0) * np.square(b).sum(0) + 1e-12)


def with_context(bands: np.ndarray) -> np.ndarray:
    """[F, 26] → [F, 13·26]: the frames around each, without the clip's mean; the ends are repeated."""
    bands = np.pad(bands - bands.mean(0), ((CONTEXT, CONTEXT), (0, 0)), "edge")
    count = len(bands) - 2 * CONTEXT
    return np.concatenate([bands[shift : shift + count] for shift in range(2 * CONTEXT + 1)], axis=1)


def _rigid_free(points: np.ndarray) -> np.ndarray:
    """Points [F, K, 3] moved, turned and scaled onto the clip's own mean face by the rigid points.

    There x points from the right eye to the left one, y from the forehead to the chin, and the eyes' outer corners are 1 apart.
    """
    rigid = points[:, anatomy.RIGID]
    template = rigid[0]
    for _ in range(2):  # the mean of faces laid on the first one, then on that mean
        template = fit_similarity(rigid, template).apply(rigid).mean(0)
    right, left, forehead, nose = (template[anatomy.RIGID.index(index)] for index in (33, 263, 10, 1))
    across = left - right
    x = across / np.linalg.norm(across)
    down = nose - forehead
    y = down - (down @ x) * x
    y /= np.linalg.norm(y)
    axes = np.stack([x, y, np.cross(x, y)])
    template = (template - template.mean(0)) @ axes.T / np.linalg.norm(across)
    return fit_similarity(rigid, template).apply(points)
