"""Pictures of every kind come out as the same upright sRGB; what cannot be used is refused in one line."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from joyhallo.errors import UserError
from joyhallo.media.image import ImageError, read_image, resize


def gradient(height=80, width=120):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // (height - 1), columns * 255 // (width - 1), 255 - rows], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif", "jpg"])
def test_every_format_gives_the_picture(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 98, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(gradient()).save(path, **options)
    read = read_image(path)
    assert read.shape == (80, 120, 3)
    assert read.dtype == np.uint8
    worst = np.abs(read.astype(int) - gradient()).max()
    assert worst <= {"jpg": 8, "gif": 40}.get(suffix, 0)


def test_arrays_and_pillow_images_are_sources_too():
    picture = gradient()
    for source in (picture, Image.fromarray(picture)):
        assert np.array_equal(read_image(source), picture)
    assert np.array_equal(read_image(picture[:, :, :1]), np.repeat(picture[:, :, :1], 3, axis=2))
    read_image(picture)[:] = 0
    assert picture.any(), "the caller's array must not be shared"
    with pytest.raises(ImageError, match="uint8"):
        read_image(picture.astype(np.float32))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg"])
def test_exif_rotation_is_applied(tmp_path, orientation, suffix):
    upright = np.repeat(np.repeat(np.array([[10, 90, 170], [60, 140, 240]], np.uint8), 64, 0), 64, 1)
    upright = np.repeat(upright[:, :, None], 3, 2)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.shape == upright.shape
    assert np.abs(read[32::64, 32::64].astype(int) - upright[32::64, 32::64]).max() <= 3


def test_transparency_is_composed_over_white(tmp_path):
    rgba = np.dstack([gradient(), np.full((80, 120), 255, np.uint8)])
    rgba[:40, :, 3] = 0
    rgba[40:60, :, 3] = 51
    Image.fromarray(rgba).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert (read[:40] == 255).all()
    assert np.abs(read[40:60] - (0.2 * gradient()[40:60] + 0.8 * 255)).max() <= 1
    assert np.array_equal(read[60:], gradient()[60:])
    grey_alpha = Image.merge("LA", [Image.new("L", (70, 70), 7), Image.new("L", (70, 70), 0)])
    assert (read_image(grey_alpha) == 255).all()


def test_sixteen_bits_grey_palette_and_cmyk(tmp_path):
    deep = np.linspace(0, 65535, 80 * 120).reshape(80, 120).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    wanted = np.rint(deep / 257)
    assert np.array_equal(read_image(tmp_path / "deep.png")[:, :, 1], wanted)
    assert np.array_equal(read_image(tmp_path / "deep.tiff")[:, :, 2], wanted)
    (tmp_path / "deep_rgb.png").write_bytes(png_of_16_bits(np.repeat(deep[:, :, None], 3, 2)))
    assert np.abs(read_image(tmp_path / "deep_rgb.png")[:, :, 0] - wanted).max() <= 1
    palette = Image.fromarray(gradient()).quantize(200)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.array(palette.convert("RGB")))
    transparent = Image.new("P", (70, 70), 3)
    transparent.putpalette([0, 0, 0] * 3 + [9, 99, 199])
    transparent.save(tmp_path / "transparent.png", transparency=3)
    assert (read_image(tmp_path / "transparent.png") == 255).all()
    Image.new("CMYK", (70, 80), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=98)
    assert np.abs(read_image(tmp_path / "ink.jpg").astype(int) - (255, 0, 0)).max() <= 3
    assert (read_image(Image.new("1", (70, 70), 1)) == 255).all()
    assert (read_image(Image.new("F", (70, 70), 0.5)) == 128).all()
    with pytest.raises(ImageError, match=r"0\.0 to 1\.0"):
        read_image(Image.new("F", (70, 70), float("nan")))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height, width, num_bits, rows):
    """A colour PNG with a header of our choice."""
    header = struct.pack(">IIBBBBB", width, height, num_bits, 2, 0, 0, 0)
    pixels = zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def png_of_16_bits(values):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(*values.shape[:2], 16, rows)


def profile_with_red_and_green_swapped():
    """A small ICC profile: the primaries of sRGB at D50, gamma 2.2, red and green exchanged."""
    xyz = {b"gXYZ": (0.4361, 0.2225, 0.0139), b"rXYZ": (0.3851, 0.7169, 0.0971), b"bXYZ": (0.1431, 0.0606, 0.7141)}
    xyz[b"wtpt"] = (0.9642, 1.0, 0.8249)
    tags = {name: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values)) for name, values in xyz.items()}
    tags |= {name: b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(2.2 * 256)) for name in (b"rTRC", b"gTRC", b"bTRC")}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 8) + b"swapped\0" + b"\0" * 80
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    light = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0" * 4, 0x02400000, b"mntr", b"RGB ", b"XYZ ") + b"\0" * 12
    return (head + b"acsp" + b"\0" * 28 + light).ljust(128, b"\0") + table + body


def test_colour_profiles_are_converted_and_broken_ones_ignored(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "swapped.jpg", quality=98, icc_profile=profile_with_red_and_green_swapped())
    bright = gradient()[30:, 30:].astype(int)  # in the dark, gamma 2.2 is not the curve of sRGB
    assert np.abs(read_image(tmp_path / "swapped.jpg")[30:, 30:] - bright[:, :, [1, 0, 2]]).max() <= 12
    muted = gradient() // 2 + 64
    lab = ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), lab, "RGB", "LAB")
    in_lab = ImageCms.applyTransform(Image.fromarray(muted), transform)
    in_lab.save(tmp_path / "lab.tiff", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert np.abs(read_image(tmp_path / "lab.tiff").astype(int) - muted).mean() < 2
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("same", srgb), ("broken", b"no profile at all")):
        Image.fromarray(gradient()).save(tmp_path / f"{name}.png", icc_profile=profile)
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), gradient())


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (70, 70), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == (255, 0, 0)).all()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_huge_pictures_are_reduced(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("joyhallo.media.image.HUGE_PIXELS", 640 * 480)
    monkeypatch.setattr("joyhallo.media.image.MAX_SIDE_PX", 300)
    stored = Image.fromarray(gradient(600, 800))
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / f"a.{suffix}", quality=95, exif=exif)
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.shape == (300, 225, 3)
    wanted = np.rot90(np.array(stored.resize((300, 225), Image.Resampling.BILINEAR)), -1)
    assert np.abs(read.astype(int) - wanted).mean() < 3


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(100_000, 100_000, 8, b"\0" * 1000))
    with pytest.raises(ImageError, match="100000x100000 px, more than 200 megapixels"):
        read_image(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="megapixels"):
        read_image(gradient(), max_pixels=80 * 120 - 1)


def test_unusable_files_are_refused_in_one_line(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(gradient(200, 200)).save(whole, "PNG")
    files = {
        "empty.png": b"",
        "cut.png": whole.getvalue()[:300],
        "text.png": b"this is no picture\n" * 10,
        "film.png": b"\0\0\0\x18ftypisom" + b"\0" * 100,
        "film.avi": b"RIFF\0\0\0\0AVI LIST",
        "apple.heic": b"\0\0\0\x18ftypheic" + b"\0" * 100,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (500, 63)).save(tmp_path / "thin.png")
    wanted = {
        "empty.png": "empty", "cut.png": "cut short", "text.png": "not a picture", "film.png": "is a video",
        "film.avi": "is a video", "apple.heic": "HEIC", "thin.png": "64 px", "absent.png": "does not exist",
        "": "folder", "absent/a.png": "does not exist", "a\0b": "not a possible path", "a" * 300: "cannot be opened",
    }  # fmt: skip
    for name, message in wanted.items():
        with pytest.raises(ImageError, match=message) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, UserError)


def test_a_large_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("joyhallo.media.image.MAX_BYTES", 100)
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="GB"):
        read_image(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="regular file"):
        read_image(tmp_path / "pipe.png")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users")
def test_no_permission(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(gradient()).save(path)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ImageError, match="may not be read"):
            read_image(path)
    finally:
        os.seteuid(user)


def test_resize_is_antialiased_and_keeps_height_and_width_apart():
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (16, 12))
    assert small.shape == (16, 12, 3)
    assert np.abs(small.astype(int) - 127).max() <= 20, "without antialiasing the stripes would survive"
    assert np.array_equal(resize(stripes, (64, 96)), stripes)
