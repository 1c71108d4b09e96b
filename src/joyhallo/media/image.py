"""Pictures from files, Pillow images and arrays: upright sRGB, uint8.

Axes: H, W pixels of the picture; channels are always R, G, B.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from joyhallo.errors import UserError
from joyhallo.media.files import require_file

MIN_SIDE_PX = 64
HUGE_PIXELS = 64_000_000
MAX_SIDE_PX = 8192  # what a huge picture is reduced to

MAX_BYTES = 2_000_000_000

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_READABLE = "a JPEG, PNG, WebP, BMP, TIFF or GIF picture"
_VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg", ".ts")
# What Pillow's readers raise on bytes that are not what they promise.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError,
    ZeroDivisionError, AssertionError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


class ImageError(UserError):
    """A picture that cannot be used; the message says why and what to give instead."""


def read_image(source: str | Path | Image.Image | np.ndarray, max_pixels: int = 200_000_000) -> np.ndarray:
    """Read a picture as upright sRGB.

    EXIF rotation is applied, an embedded colour profile is converted to sRGB, transparency is composed over white (what
    viewers show), 16-bit, grey, palette and CMYK pictures become 8-bit RGB, of an animation the first frame counts.
    Pictures over 64 megapixels are reduced to a long side of 8192 px at most.

    Parameters
    ----------
    source : a file, a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], uint8.
    max_pixels : files with more are refused from their header, before they are decoded.

    Returns
    -------
    [H, W, 3], uint8, owned by the caller.

    Raises
    ------
    ImageError : missing, a folder, not readable, empty, broken, not a picture, a video, too big,
        or too small (a side below 64 px).
    """
    if isinstance(source, np.ndarray):
        name, opened = "the picture array", _from_array(source)
    elif isinstance(source, Image.Image):
        name, opened = "the picture", source
    else:
        path = require_file(source, "picture", ImageError)
        name, opened = f"the picture '{path}'", _open(path)
    _check_size(opened.size, name, max_pixels)
    try:
        picture = _upright(_decode(opened, owned=not isinstance(source, Image.Image)))
        rgb = _to_srgb(picture)
    except ImageError:
        raise
    except _BROKEN as problem:
        raise ImageError(f"{name} is broken or cut short ({_one_line(problem)}): save it again as PNG or JPEG") from problem
    _check_size(rgb.size, name, max_pixels)  # a very long and thin picture may have become too thin
    return np.array(rgb, dtype=np.uint8)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize with Pillow's antialiased bilinear filter, as the published preprocessing does (aspect ratio not kept).

    Parameters
    ----------
    image : [H, W, 3], uint8.
    size : (height, width) in pixels.

    Returns
    -------
    [height, width, 3], uint8.
    """
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _open(path: Path) -> Image.Image:
    """Read the header. Pillow's own `open` has a process-wide pixel limit below ours, so its readers are asked directly."""
    Image.init()
    with path.open("rb") as file:
        head = file.read(16)
    for name in _FORMATS:
        reader, accepts = Image.OPEN[name]
        if accepts is not None and accepts(head) is not True:
            continue
        num_bytes = path.stat().st_size
        if num_bytes > MAX_BYTES:
            raise ImageError(f"the picture '{path}' has {num_bytes / 1e9:.1f} GB: give one of at most {MAX_BYTES / 1e9:.0f} GB")
        try:
            # In memory: a file that changes or vanishes while it is decoded cannot hurt.
            return reader(io.BytesIO(path.read_bytes()), "")
        except _BROKEN as problem:
            raise ImageError(
                f"the picture '{path}' is broken or cut short ({_one_line(problem)}): save it again as PNG or JPEG"
            ) from problem
    raise ImageError(_explain_unknown(path, head))


def _explain_unknown(path: Path, head: bytes) -> str:
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"mif1", b"msf1", b"avif"):
        return f"the picture '{path}' is HEIC or AVIF: save it as PNG or JPEG"
    is_video = bool(brand) or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
    if is_video or path.suffix.lower() in _VIDEO_SUFFIXES:
        return f"'{path}' is a video, but a still picture is needed: save one frame as PNG and give that"
    return f"'{path}' is not a picture that can be read: give {_READABLE}"


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"{name} has {width}x{height} px, more than {max_pixels / 1e6:.0f} megapixels: reduce it first")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(f"{name} has {width}x{height} px, but each side needs {MIN_SIDE_PX} px at least: give a larger one")


def _decode(image: Image.Image, owned: bool) -> Image.Image:
    """Decode the pixels; a huge picture in reduced form where its format can, and reduced in any case."""
    width, height = image.size
    if width * height <= HUGE_PIXELS:
        image.load()
        return image
    scale = MAX_SIDE_PX / max(width, height)
    target = (max(1, int(width * scale)), max(1, int(height * scale)))
    if owned and isinstance(image, ImageFile.ImageFile):
        image.draft(None, target)  # JPEG only: decodes at 1/2, 1/4 or 1/8, never below the target
    image.load()
    if image.mode in ("P", "PA", "1"):  # indices cannot be averaged
        image = _without_palette(image)
    notes = dict(image.info)
    orientation = _orientation(image)
    small = image.resize(target, Image.Resampling.BILINEAR, reducing_gap=2.0)
    small.info = notes
    if orientation != 1:
        small.getexif()[_ORIENTATION] = orientation
    return small


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:  # a broken EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and value in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF rotation. After `load`: the TIFF reader turns the pixels itself and drops the tag then."""
    method = _UPRIGHT.get(_orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = dict(image.info)
    return turned


def _without_palette(image: Image.Image) -> Image.Image:
    """Palette and one-bit pictures as plain channels, with alpha when a colour is transparent."""
    if image.mode == "1":
        return image.convert("L")
    has_alpha = image.mode == "PA" or "transparency" in image.info
    plain = image.convert("RGBA" if has_alpha else "RGB")
    if "icc_profile" in image.info:
        plain.info["icc_profile"] = image.info["icc_profile"]
    return plain


def _to_srgb(image: Image.Image) -> Image.Image:
    profile: Any = image.info.get("icc_profile")
    if image.mode in ("P", "PA", "1"):
        image = _without_palette(image)
    elif image.mode in ("RGB", "L") and image.info.get("transparency") is not None:
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    elif image.mode == "F" or image.mode.startswith("I"):
        image = _to_eight_bits(image)
    elif image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colour = image.convert({"RGBA": "RGB", "LA": "L"}.get(image.mode, image.mode))
    if isinstance(profile, bytes) and profile:
        colour = _apply_profile(colour, profile)
    rgb = colour if colour.mode == "RGB" else colour.convert("RGB")
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, (255, 255, 255)), alpha)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey pictures of 16 bits (also held in 32), and floats in [0, 1], as 8 bits; other ranges have no known white."""
    values = np.asarray(image)
    if image.mode == "F":
        low, high, scale = 0.0, 1.0, 255.0
    else:
        low, high, scale = 0, 65535, 1 / 257
    if not (values.min() >= low and values.max() <= high):  # written so that NaN is refused too
        raise ImageError(f"a picture of mode {image.mode} must lie in {low} to {high}: save it with 8 or 16 bits per channel")
    return Image.fromarray(np.rint(values.astype(np.float32) * scale).astype(np.uint8))


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image  # exactly as stored: a conversion to itself would round
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a broken or foreign profile: viewers ignore it too
        return image
    return image if converted is None else converted


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_picture:
        raise ImageError(f"the picture array is {array.dtype} {list(array.shape)}: give uint8 [H, W, 3] with values 0 to 255")
    return Image.fromarray(np.ascontiguousarray(array))


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:120] or type(problem).__name__
