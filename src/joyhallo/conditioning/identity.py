"""Who the person is: face embeddings for the face tokens."""

from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.face import Face, sample_square
from joyhallo.errors import UserError

ALIGNED_SIZE = 112
# Where the eye centres and the mouth corners go in the aligned picture, x and y as a share of its side.
ALIGNED_POINTS = np.array([(0.34, 0.46), (0.66, 0.46), (0.37, 0.82), (0.63, 0.82)])


class IdentityEncoder(Protocol):
    """What turns a face of a picture into an embedding."""

    embedding_size: int

    def embed(self, image: np.ndarray, face: Face) -> Tensor:
        """The embedding [E] float32 of `face` in `image` [H, W, 3] uint8 RGB."""
        ...


def align_face(image: np.ndarray, landmarks: np.ndarray, size: int = ALIGNED_SIZE) -> np.ndarray:
    """The face moved, turned and scaled (not sheared) so that eyes and mouth corners come closest to fixed places.

    `image` [H, W, 3] uint8, `landmarks` [K, 2 or 3] in its pixels; returns [size, size, 3] uint8. Beyond the border the
    picture's edge is repeated.
    """
    points = landmarks[:, :2].astype(np.float64)
    eyes = [(anatomy.RIGHT_EYE_OUTER, anatomy.RIGHT_EYE_INNER), (anatomy.LEFT_EYE_INNER, anatomy.LEFT_EYE_OUTER)]
    mouth = [anatomy.RIGHT_MOUTH_CORNER, anatomy.LEFT_MOUTH_CORNER]
    source = np.stack([*(points[list(eye)].mean(0) for eye in eyes), *points[mouth]])
    to_aligned = _similarity(source, ALIGNED_POINTS * size)
    return sample_square(image, to_aligned, size, 1 / float(np.hypot(*to_aligned[:, 0])))


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares similarity from points [N, 2] to points [N, 2] as a matrix [2, 3] (no reflection)."""
    a, b = (p[:, 0] + 1j * p[:, 1] for p in (source, target))
    centred = a - a.mean()
    turn = np.vdot(centred, b - b.mean()) / np.vdot(centred, centred).real
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


class MiniIdentity:
    """The bundled mini's own identity network on the aligned face."""

    def __init__(self, network: nn.Module) -> None:
        """`network`: `IdentityNetwork`, [B, 3, 112, 112] in [-1, 1] → [B, E]."""
        self._network = network.eval()
        with torch.inference_mode():
            parameter = next(network.parameters())
            blank = torch.zeros(1, 3, ALIGNED_SIZE, ALIGNED_SIZE, device=parameter.device, dtype=parameter.dtype)
            self.embedding_size = int(network(blank).shape[-1])

    def embed(self, image: np.ndarray, face: Face) -> Tensor:
        """The embedding [E] float32 on the CPU."""
        parameter = next(self._network.parameters())
        pixels = torch.from_numpy(align_face(image, face.landmarks)).permute(2, 0, 1)[None]
        pixels = (pixels.to(parameter.device, torch.float32) / 127.5 - 1.0).to(parameter.dtype)
        with torch.no_grad():
            return self._network(pixels)[0].float().cpu()


class InsightFaceIdentity:
    """The embedding the published weights were trained with: InsightFace's glintr100, 512 numbers, not normalised.

    Its models are for non-commercial research only. Source: the published image preprocessing (detection at 640×640).
    """

    embedding_size = 512

    def __init__(self, root: Path | str) -> None:
        """`root`: the published `face_analysis` folder, with the onnx files in its folder `models`.

        Raises UserError when the package or the models are missing.
        """
        root = Path(root)
        try:
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise UserError(
                "the published weights need InsightFace for the face embedding: pip install 'joyhallo[official]' "
                "(its models are for non-commercial use only), or use the bundled mini"
            ) from error
        if not any((root / "models").glob("*.onnx")):
            raise UserError(f"no InsightFace models (*.onnx) in {root / 'models'}: fetch the published face_analysis folder")
        self._analysis: Any = FaceAnalysis(name="", root=str(root), providers=["CPUExecutionProvider"])
        self._analysis.prepare(ctx_id=-1, det_size=(640, 640))

    def embed(self, image: np.ndarray, face: Face) -> Tensor:
        """The embedding [512] float32 of the InsightFace detection that covers `face`.

        The published code takes the largest detection and, when there is none, goes on with zeros; here another face can be
        chosen, and a missing one raises UserError.
        """
        found = self._analysis.get(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        boxes = np.array([detection["bbox"] for detection in found], dtype=np.float64).reshape(-1, 4)
        index = covering(boxes, face.box)
        if index is None:
            raise UserError("InsightFace sees no face where the landmarks are: give a sharper, more frontal portrait")
        return torch.from_numpy(np.asarray(found[index]["embedding"], dtype=np.float32).copy())


def covering(boxes: np.ndarray, box: np.ndarray) -> int | None:
    """Which of `boxes` [N, 4] shares most with `box` [4] (x0, y0, x1, y1), by intersection over union; None below 0.2."""
    if not len(boxes):
        return None
    sides = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None)
    shared = sides.prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    share = shared / (areas + (box[2:] - box[:2]).prod() - shared)
    return int(share.argmax()) if share.max() >= 0.2 else None
