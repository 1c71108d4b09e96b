"""Recordings of every kind become the same mono blocks; streamed equals whole."""

import numpy as np
import pytest
import soundfile
import soxr

from joyhallo.errors import UserError
from joyhallo.media import audio
from joyhallo.media.audio import AudioError, probe_speech, read_speech, stream_speech


def tone(rate_hz, duration_s=1.0, num_channels=1):
    times = np.arange(round(rate_hz * duration_s)) / rate_hz
    sound = 0.4 * np.sin(2 * np.pi * 330 * times) + 0.1 * np.sin(2 * np.pi * 1234 * times)
    return np.stack([sound * (channel + 1) for channel in range(num_channels)], axis=1) / num_channels


def encode(path, rate_hz, codec, options=None):
    """Files that soundfile cannot write, through the decoder's own library."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono", options=options or {})
        frame = av.AudioFrame.from_ndarray(tone(rate_hz).T.astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.mark.parametrize(
    ("suffix", "rate_hz"), [("wav", 8000), ("wav", 44100), ("flac", 48000), ("ogg", 22050), ("mp3", 44100)]
)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_formats_rates_and_channels(tmp_path, suffix, rate_hz, num_channels):
    path = tmp_path / f"声音.{suffix}"
    sound = tone(rate_hz, 1.0, num_channels)
    soundfile.write(path, sound, rate_hz)
    info = probe_speech(path)
    assert (info.sample_rate_hz, info.num_channels) == (rate_hz, num_channels)
    assert info.duration_s == pytest.approx(1.0, abs=0.06)
    read = read_speech(path)
    assert read.dtype == np.float32
    assert read.ndim == 1
    assert abs(len(read) / 16000 - info.duration_s) < 1e-3
    wanted = soxr.resample(sound.mean(axis=1), rate_hz, 16000)
    num_common = min(len(read), len(wanted)) - 400
    correlation = np.corrcoef(read[400:num_common], wanted[400:num_common])[0, 1]
    assert correlation > 0.99


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"), [("a.m4a", "aac", 44100), ("a.opus", "libopus", 48000), ("a.mkv", "flac", 32000)]
)
def test_m4a_opus_and_matroska(tmp_path, name, codec, rate_hz):
    try:
        encode(tmp_path / name, rate_hz, codec)
    except ValueError:  # flac takes integers only
        soundfile.write(tmp_path / "a.flac", tone(rate_hz), rate_hz)
        (tmp_path / "a.flac").rename(tmp_path / name)
    read = read_speech(tmp_path / name)
    wanted = tone(16000)[:, 0]
    num_common = min(len(read), len(wanted))
    assert num_common >= 15500
    assert np.corrcoef(read[400 : num_common - 400], wanted[400 : num_common - 400])[0, 1] > 0.99


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sample_types_have_the_same_scale(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000, subtype=subtype)
    error = np.abs(read_speech(tmp_path / "a.wav") - tone(16000)[:, 0]).max()
    assert error <= (0.01 if subtype == "PCM_U8" else 2**-14)


def test_streamed_equals_whole(tmp_path):
    sound = np.random.default_rng(0).normal(0, 0.2, (44100 * 3 + 17, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, 44100, subtype="FLOAT")
    whole = read_speech(tmp_path / "a.wav")
    for block_s in (0.1, 0.33, 1.0, 100.0):
        blocks = list(stream_speech(tmp_path / "a.wav", block_s=block_s))
        assert all(len(block) == round(block_s * 16000) for block in blocks[:-1])
        assert np.array_equal(np.concatenate(blocks), whole)
    offline = soxr.resample(sound.mean(axis=1, dtype=np.float32), 44100, 16000, quality="HQ")
    assert len(whole) == len(offline)
    assert np.abs(whole - offline).max() < 1e-5


def test_blocks_come_before_the_end_is_read(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(16000, 20.0), 16000)
    decoded = []
    original = audio.decode_sound
    monkeypatch.setattr(audio, "decode_sound", lambda path: (decoded.append(1) or block for block in original(path)))
    next(stream_speech(tmp_path / "a.wav", block_s=1.0))
    some = len(decoded)
    list(stream_speech(tmp_path / "a.wav", block_s=1.0))
    assert some < (len(decoded) - some) / 5


def test_silence_is_legal_and_wild_values_become_silence(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    assert not read_speech(tmp_path / "silence.wav").any()
    wild = np.zeros(16000, np.float32)
    wild[100:103] = np.nan, np.inf, -1e30
    soundfile.write(tmp_path / "wild.wav", wild, 16000, subtype="FLOAT")
    read = read_speech(tmp_path / "wild.wav")
    assert np.isfinite(read).all()
    assert np.abs(read).max() <= 8


def test_a_cut_file_gives_what_is_there(tmp_path):
    soundfile.write(tmp_path / "a.mp3", tone(44100, 4.0), 44100)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    info = probe_speech(tmp_path / "a.mp3")
    assert 1.5 < info.duration_s < 2.5
    assert abs(len(read_speech(tmp_path / "a.mp3")) / 16000 - info.duration_s) < 1e-3


def test_unusable_files_are_refused_in_one_line(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "short.wav", tone(16000, 0.19), 16000)
    soundfile.write(tmp_path / "long.wav", tone(16000, 2.0), 16000)
    soundfile.write(tmp_path / "header.wav", tone(16000, 2.0), 16000)
    (tmp_path / "header.wav").write_bytes((tmp_path / "header.wav").read_bytes()[:44])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_bytes(b"not a sound\n" * 100)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nlong.wav\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile long.wav\n")
    monkeypatch.setattr(audio, "MAX_SPEECH_S", 1.5)
    wanted = {
        "short.wav": "0.19 s", "long.wav": "hours", "header.wav": "decoded|can be read", "empty.wav": "empty",
        "text.wav": "not a recording", "list.m3u8": "not a recording", "list.ffconcat": "not a recording",
        "absent.wav": "does not exist", "": "folder",
    }  # fmt: skip
    for name, message in wanted.items():
        for function in (probe_speech, read_speech):
            with pytest.raises(AudioError, match=message) as caught:
                function(tmp_path / name)
            assert "\n" not in str(caught.value)
            assert isinstance(caught.value, UserError)


def test_a_video_without_sound_says_so(tmp_path):
    from joyhallo.media.video import VideoWriter

    with VideoWriter(tmp_path / "a.mp4", size=(64, 64), speech=None, metadata={}) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(AudioError, match="no sound in it"):
        read_speech(tmp_path / "a.mp4")
