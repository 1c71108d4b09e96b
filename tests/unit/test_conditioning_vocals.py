"""Vocal separation: what goes in comes out of a network that changes nothing, however it is cut into blocks."""

import wave

import numpy as np
import pytest
import torch

from joyhallo.conditioning.vocals import COMPENSATION, NUM_BINS, NUM_STEPS, STEP, VocalSeparator
from joyhallo.errors import UserError
from joyhallo.media.audio import AudioError


def swelling_tones(num_samples, rate=44100):
    """[2, T] within the band the network hears, starting and ending in silence."""
    t = np.arange(num_samples) / rate
    swell = np.sin(np.pi * np.arange(num_samples) / num_samples) ** 2
    left = np.sin(2 * np.pi * 220 * t) + 0.5 * np.sin(2 * np.pi * 3000 * t)
    right = np.sin(2 * np.pi * 330 * t) - 0.3 * np.sin(2 * np.pi * 9000 * t)
    return (0.3 * swell * np.stack([left, right])).astype(np.float32)


def cut(sound, length):
    return [sound[:, i : i + length] for i in range(0, sound.shape[1], length)]


@pytest.mark.parametrize("num_samples", [100_000, 261_120 - 3840, 2 * STEP + 12_345])
def test_a_network_that_changes_nothing_returns_the_sound(num_samples):
    shapes = set()

    def same(spectrum):
        shapes.add((spectrum.shape, spectrum.dtype))
        return spectrum

    sound = swelling_tones(num_samples)
    found = np.concatenate(list(VocalSeparator(same).separate(cut(sound, 50_000))), axis=1)
    assert shapes == {((1, 4, 3072, 256), np.dtype(np.float32))}
    assert found.shape == sound.shape
    assert np.abs(found - sound * COMPENSATION).max() < 1e-4


def test_blocks_do_not_change_the_result():
    separator = VocalSeparator(lambda spectrum: np.tanh(spectrum))
    sound = swelling_tones(STEP + 70_000)
    whole = np.concatenate(list(separator.separate([sound])), axis=1)
    pieces = np.concatenate(list(separator.separate(iter(cut(sound, 9_999)))), axis=1)
    assert np.array_equal(whole, pieces)
    assert list(separator.separate([])) == []


def test_the_spectrum_is_left_real_left_imaginary_right_real_right_imaginary():
    seen = []
    separator = VocalSeparator(lambda spectrum: seen.append(spectrum) or spectrum)
    sound = np.zeros((2, 200_000), np.float32)
    bin_hz = 44100 / 7680
    sound[0] = np.cos(2 * np.pi * 100 * bin_hz * np.arange(200_000) / 44100)
    list(separator.separate([sound]))
    first = seen[0][0]
    assert first.shape == (4, NUM_BINS, NUM_STEPS)
    assert np.abs(first[2:]).max() == 0  # nothing on the right
    assert np.hypot(first[0], first[1])[:, 100].argmax() == 100
    padded = torch.from_numpy(np.pad(sound[0], (3840, 57_280)))
    reference = torch.stft(padded, 7680, 1024, window=torch.hann_window(7680), center=True, return_complex=True)
    assert np.allclose(first[0, 3:], reference.real[3:3072], atol=1e-3)
    assert np.allclose(first[1, 3:], reference.imag[3:3072], atol=1e-3)
    assert np.abs(first[:, :3]).max() == 0


def test_a_file_of_any_rate_becomes_mono_speech(tmp_path):
    rate, num_samples = 22050, 44100
    mono = swelling_tones(num_samples, rate)[0]
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((mono * 32767).round().astype("<i2").tobytes())
    blocks = list(VocalSeparator(lambda spectrum: spectrum).stream_vocals(path))
    found = np.concatenate(blocks)
    assert abs(len(found) - 32000) <= 2
    expected = swelling_tones(32000, 16000)[0] * COMPENSATION
    assert np.abs(found[:31990] - expected[:31990]).max() < 2e-3


def field(number, payload):
    """One protobuf field: bytes, text or an integer."""

    def varint(value):
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    payload = payload.encode() if isinstance(payload, str) else payload
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def identity_onnx(shape):
    """An onnx model of one Identity node, float32."""
    dims = b"".join(field(1, field(1, size)) for size in shape)
    kind = field(2, field(1, field(1, 1) + field(2, dims)))
    node = field(1, field(1, "input") + field(2, "output") + field(4, "Identity"))
    graph = node + field(2, "g") + field(11, field(1, "input") + kind) + field(12, field(1, "output") + kind)
    return field(1, 8) + field(8, field(1, "") + field(2, 13)) + field(7, graph)


def test_an_onnx_file_is_run(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "same.onnx"
    path.write_bytes(identity_onnx((1, 4, 3072, 256)))
    sound = swelling_tones(60_000)
    found = np.concatenate(list(VocalSeparator(path).separate([sound])), axis=1)
    assert np.abs(found - sound * COMPENSATION).max() < 1e-4


def test_missing_broken_and_foreign_models_are_named(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="no vocal separation model"):
        VocalSeparator(tmp_path / "none.onnx")
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a readable onnx model"):
        VocalSeparator(path)
    path.write_bytes(identity_onnx((1, 4, 2048, 256)))
    with pytest.raises(UserError, match=r"takes \[1, 4, 2048, 256\]"):
        VocalSeparator(path)


def test_a_recording_that_is_too_short_is_refused_like_one_without_music(tmp_path):
    path = tmp_path / "blip.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * 400))
    with pytest.raises(AudioError, match=r"lasts 0\.05 s"):
        list(VocalSeparator(lambda spectrum: spectrum).stream_vocals(path))
