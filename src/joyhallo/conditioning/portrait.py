"""From a picture to everything the networks know about the person."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from joyhallo.conditioning.anatomy import head_yaw_deg, silhouette_box
from joyhallo.conditioning.closed_lips import NUM_UNSURE, are_parted, close_lips
from joyhallo.conditioning.face import Face, FaceMesh
from joyhallo.conditioning.identity import IdentityEncoder
from joyhallo.conditioning.lip_reading import lips_apart
from joyhallo.conditioning.lips import closed_mouth
from joyhallo.conditioning.masks import FACE_EXPAND, LIP_EXPAND, face_region, region_masks
from joyhallo.conditioning.similarity import upright
from joyhallo.conditioning.softened_look import find_faces, look_again, softened_pixels, strokes
from joyhallo.conditioning.stand_in import StandIn, why_needed
from joyhallo.conditioning.teeth import Teeth, read_teeth
from joyhallo.errors import UserError
from joyhallo.media.image import resize
from joyhallo.media.paste import Crop
from joyhallo.models.conditions import RegionMasks
from joyhallo.models.lip_reader import LipReader

MIN_FACE_PX = 64
MAX_YAW_DEG = 45.0
CLEARLY_LARGER = 1.5  # times the area of the second face: then nobody needs to be asked
MOST_STROKES = 7.0  # grey levels, see `strokes`
MOST_APART = {True: 0.052, False: 0.08}  # two readings of the lips, of their width: with the finer mesh, and the older one
MOST_APART_DRAWN = 0.08  # with either, of a softened drawing
SHIFT_UP = 0.04  # of the frame's height: heads have more above the silhouette than below


class PortraitError(UserError):
    """The picture cannot be used as a portrait."""


@dataclass(frozen=True)
class Framing:
    """How the portrait is put into the frame."""

    size: tuple[int, int]  # (height, width) of the frames in pixels
    latent_factor: int  # pixels per latent cell
    face_share: float | None = 0.6  # of the frame's side that the face fills at most; None: the whole picture, squashed
    num_depths: int = 4
    lip_expand: float = LIP_EXPAND
    face_expand: float = FACE_EXPAND

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) in latent cells."""
        return self.size[0] // self.latent_factor, self.size[1] // self.latent_factor


@dataclass(frozen=True, eq=False)
class Portrait:
    """A person as the networks see them, and where the frames belong in the picture."""

    pixels: Tensor  # [3, H, W] float32 in [-1, 1]
    face_embedding: Tensor  # [E] float32
    face_region: Tensor  # [3, H, W] float32 in [0, 1]
    masks: RegionMasks  # each [1, 1, H_i, W_i] float32 in [0, 1]
    picture: np.ndarray  # [full height, full width, 3] uint8
    crop: Crop | None  # what `pixels` shows of `picture`; None: all of it
    landmarks: np.ndarray  # [K, 3] float32 in pixels of the frame (height H, width W)
    has_closed_lips: bool = False  # they were parted in the picture that was given
    teeth: Teeth | None = None  # those that were seen between them
    why_stand_in: str | None = None  # why `pixels` and embedding are somebody else's; None: they are the person's own
    is_softened: bool = False  # the landmarks were read in a softened copy, where alone face or lips were made out


def prepare_portrait(
    image: np.ndarray,
    face_mesh: FaceMesh,
    identity: IdentityEncoder,
    framing: Framing,
    *,
    face_index: int | None = None,
    lip_reader: LipReader | None = None,
) -> Portrait:
    """Finds the face in `image` [H, W, 3] uint8 RGB and prepares all that stays fixed over a video.

    `face_index` chooses among several faces, counted from 0, the largest first. `lip_reader`: of weights that want portraits
    with their lips together; where it reads that they are parted, they are closed in the picture. Where such weights would
    speak badly somebody stands in (`stand_in`), and landmarks of a drawing of strokes, and a face that is not found, are sought
    in a softened copy. Raises PortraitError when there is no usable face or the choice is open. With `face_share=None` and a
    square frame the result is the published preprocessing.
    """
    _check_size(framing)
    faces, is_softened = find_faces(face_mesh, image)
    face = choose_face(faces, image.shape[:2], face_index)
    _check_usable(face)
    is_drawn = lip_reader is not None and strokes(image, face.landmarks) > MOST_STROKES
    if is_drawn and not is_softened and (again := look_again(face_mesh, image, face)):
        face, is_softened = again, True
        _check_usable(face)
    portrait = replace(_of_face(image, face, identity, framing, lip_reader), is_softened=is_softened)
    if lip_reader is None:
        return portrait
    if is_drawn:
        _check_lips(portrait, softened_pixels(portrait.pixels, portrait.landmarks), lip_reader, MOST_APART_DRAWN)
    else:
        _check_lips(portrait, portrait.pixels, lip_reader, MOST_APART[len(portrait.landmarks) > NUM_UNSURE])
    reason = why_needed(image, face.landmarks, is_drawn=is_drawn)
    if reason is None:
        return portrait
    someone = StandIn.load()
    embedding = identity.embed(someone.picture, someone.face)
    pixels = someone.laid_on(portrait.landmarks, framing.size)
    return replace(portrait, pixels=pixels, face_embedding=embedding, why_stand_in=reason)


def _check_size(framing: Framing) -> None:
    height, width = framing.size
    if height < framing.latent_factor or height % framing.latent_factor or width % framing.latent_factor or width < 1:
        raise UserError(
            f"frames of {height}x{width} px (height x width) do not divide into latent cells: "
            f"use multiples of {framing.latent_factor} px, such as {_nearest(framing.size, framing.latent_factor)}"
        )


def _of_face(
    image: np.ndarray, face: Face, identity: IdentityEncoder, framing: Framing, lip_reader: LipReader | None
) -> Portrait:
    """The person with a face of `image` [H, W, 3] uint8, its lips closed where a reader sees them parted."""
    portrait = _framed(image, face.landmarks, identity.embed(image, face), framing)
    if lip_reader is None or not are_parted(portrait.pixels, portrait.landmarks, lip_reader):
        return portrait
    closed, landmarks = close_lips(image, face.landmarks)
    shut = _framed(closed, landmarks, portrait.face_embedding, framing)
    return replace(shut, has_closed_lips=True, teeth=own_teeth(image, face.landmarks))


def own_teeth(image: np.ndarray, landmarks: np.ndarray) -> Teeth | None:
    """The upper teeth of a smile, where enough is seen of them."""
    pose = upright(landmarks)
    return read_teeth(image, landmarks, pose, closed_mouth(pose.undo(landmarks)))


def _framed(image: np.ndarray, landmarks: np.ndarray, face_embedding: Tensor, framing: Framing) -> Portrait:
    """The person with `landmarks` [K, 3] in pixels of `image` [H, W, 3] uint8."""
    height, width = framing.size
    crop, shown = None, image
    if framing.face_share is not None:
        crop = frame_crop(landmarks, image.shape[:2], framing.size, framing.face_share)
        shown = crop.of(image)
        landmarks = landmarks - np.array([crop.left, crop.top, 0], np.float32)
    shown_size = (shown.shape[0], shown.shape[1])
    pixels = torch.from_numpy(resize(np.ascontiguousarray(shown), framing.size)).permute(2, 0, 1).float()
    scale = np.array([width / shown_size[1], height / shown_size[0], width / shown_size[1]], np.float32)
    return Portrait(
        pixels=(pixels / 255.0 - 0.5) / 0.5,
        face_embedding=face_embedding,
        face_region=face_region(landmarks, shown_size, framing.face_expand, size=framing.size),
        masks=region_masks(
            landmarks,
            shown_size,
            framing.latent_size,
            framing.num_depths,
            lip_expand=framing.lip_expand,
            face_expand=framing.face_expand,
        ),
        picture=image,
        crop=crop,
        landmarks=landmarks * scale,
    )


def choose_face(faces: list[Face], picture_size: tuple[int, int], face_index: int | None = None) -> Face:
    """The face to animate among `faces`, sorted by size: the one asked for, or the clearly largest.

    Raises PortraitError when there is none, when the index has no face, or when two are of similar size.
    """
    height, width = picture_size
    if not faces:
        raise PortraitError(
            f"no face was found in the picture ({width}x{height} px): give one where the whole face is seen from the front"
        )
    if face_index is not None:
        if not 0 <= face_index < len(faces):
            raise PortraitError(f"there is no face {face_index}: choose with --face 0 to {len(faces) - 1}: {_places(faces)}")
        return faces[face_index]
    if len(faces) > 1 and faces[0].area <= CLEARLY_LARGER * faces[1].area:
        raise PortraitError(f"{len(faces)} faces are in the picture: choose one with --face N: {_places(faces)}")
    return faces[0]


def frame_crop(landmarks: np.ndarray, picture_size: tuple[int, int], size: tuple[int, int], face_share: float) -> Crop:
    """The part of a picture of `picture_size` to show in frames of `size` (both (height, width)).

    It has the frame's shape, as nearly as whole pixels allow; the silhouette fills `face_share` of the side where it fills
    most (more where the picture ends); it is moved up a little and kept inside the picture.
    """
    if not 0.0 < face_share <= 1.0:
        raise UserError(f"face share {face_share} is not above 0 and up to 1: 0.6 shows head and shoulders")
    full_height, full_width = picture_size
    box = silhouette_box(landmarks).astype(np.float64)
    per_pixel = max((box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1]) / face_share
    per_pixel = min(per_pixel, full_height / size[0], full_width / size[1])
    height = min(full_height, max(1, round(per_pixel * size[0])))
    width = min(full_width, max(1, round(per_pixel * size[1])))
    top = round((box[1] + box[3]) / 2 - height / 2 - SHIFT_UP * height)
    left = round((box[0] + box[2]) / 2 - width / 2)
    return Crop(min(max(top, 0), full_height - height), min(max(left, 0), full_width - width), height, width)


def _nearest(size: tuple[int, int], factor: int) -> str:
    height, width = (max(1, round(side / factor)) * factor for side in size)
    return f"{height}x{width}"


def _check_usable(face: Face) -> None:
    box = silhouette_box(face.landmarks)
    longest = float((box[2:] - box[:2]).max())
    if longest < MIN_FACE_PX:
        raise PortraitError(f"the face is {longest:.0f} px high, {MIN_FACE_PX} px are needed: give a larger picture of it")
    yaw = head_yaw_deg(face.landmarks)
    if abs(yaw) > MAX_YAW_DEG:
        raise PortraitError(
            f"the head is turned {abs(yaw):.0f}° to the side, up to {MAX_YAW_DEG:.0f}° work: give a more frontal portrait"
        )


def _check_lips(portrait: Portrait, pixels: Tensor, reader: LipReader, most: float) -> None:
    """Where a mesh and a reader do not see the same lips in a frame [3, H, W], what is drawn would be beside them."""
    apart = lips_apart(pixels, portrait.landmarks, reader)
    if apart > most:
        raise PortraitError(
            f"the lips cannot be made out in the picture: two readings of them are {apart:.0%} of their width apart, "
            f"up to {most:.0%} will do: give a photo, or a drawing with clear lips"
        )


def _places(faces: list[Face]) -> str:
    """Where the faces are, in one line."""
    shown = []
    for i, face in enumerate(faces[:6]):
        x, y = (face.box[:2] + face.box[2:]) / 2
        shown.append(f"{i} is {face.box[2] - face.box[0]:.0f} px wide around x={x:.0f}, y={y:.0f}")
    return "; ".join(shown) + ("; …" if len(faces) > 6 else "")
