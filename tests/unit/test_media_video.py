"""Videos are written whole or not at all, carry what they must, and read back as written."""

import resource
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from joyhallo.media.audio import AudioError, probe_speech, read_speech
from joyhallo.media.video import VideoError, VideoWriter, probe_video, read_frames, read_segment, write_segment

LABEL = '{"Label":"1","ContentProducer":"x"}'


def frame(index=0, height=64, width=96):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 2, columns * 2, np.full_like(rows, 20 + 7 * index)], axis=2).astype(np.uint8)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def speech_file(folder, rate_hz=44100, duration_s=2.0, num_channels=2):
    times = np.arange(round(rate_hz * duration_s)) / rate_hz
    left = 0.3 * np.sin(2 * np.pi * 440 * times)
    path = folder / f"speech_{rate_hz}_{num_channels}.wav"
    soundfile.write(path, np.stack([left, -0.5 * left], axis=1)[:, :num_channels], rate_hz)
    return path


def write(path, num_frames=30, size=(64, 96), **options):
    options = {"speech": None, "metadata": {"AIGC": LABEL}, **options}
    with VideoWriter(path, size=size, **options) as writer:
        for index in range(num_frames):
            writer.write(frame(index, *size))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_read_back_as_written(tmp_path, suffix):
    import av

    path = write(tmp_path / f"视频.{suffix}", speech=speech_file(tmp_path), crf=12, metadata={"AIGC": LABEL, "title": "标题"})
    info = probe_video(path)
    assert (info.num_frames, info.fps, info.height, info.width, info.has_audio) == (30, 25.0, 64, 96, True)
    assert info.duration_s == pytest.approx(1.2)
    back = list(read_frames(path))
    assert len(back) == 30
    worst = max(np.abs(a.astype(int) - frame(i)).mean() for i, a in enumerate(back))
    assert worst < 3, "a wrong matrix or range shifts colours by more"
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range, context.pix_fmt)
        assert tags == (1, 1, 1, 1, "yuv420p")
        assert container.metadata["AIGC"] == LABEL
        assert container.metadata["title"] == "标题"
    assert not any("partial" in name for name in names(tmp_path))
    if suffix != "mkv":
        content = path.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat"), "players on the net start before the end has come"


@pytest.mark.parametrize(
    ("rate_hz", "kept_hz"), [(44100, 44100), (48000, 48000), (16000, 32000), (22050, 44100), (8000, 32000)]
)
@pytest.mark.parametrize(("num_frames", "suffix"), [(30, "mkv"), (30, "mp4"), (80, "mkv"), (80, "mov")])
def test_sound_is_the_recording_and_as_long_as_the_picture(tmp_path, rate_hz, kept_hz, num_frames, suffix):
    speech = speech_file(tmp_path, rate_hz)
    path = write(tmp_path / f"a.{suffix}", num_frames, speech=speech)
    info = probe_speech(path)
    assert (info.sample_rate_hz, info.num_channels) == (kept_hz, 2)
    assert abs(info.duration_s - num_frames / 25) <= 1 / 25
    sound, original = read_speech(path), read_speech(speech)
    num_common = min(len(sound), len(original), 18000)
    assert np.corrcoef(sound[:num_common], original[:num_common])[0, 1] > 0.99, "not the recording, or late"
    if num_frames == 80:
        assert np.abs(sound[2 * 16000 + 2000 :]).max() < 1e-3, "silence after the recording"


def test_stereo_stays_stereo_and_mono_mono(tmp_path):
    from joyhallo.media.audio import decode_sound

    path = write(tmp_path / "a.mp4", speech=speech_file(tmp_path))
    sound = np.concatenate([block.samples for block in decode_sound(path)], axis=1)[:, 4000:40000]
    assert np.abs(sound[1] + 0.5 * sound[0]).max() < 0.03
    mono = write(tmp_path / "b.mp4", speech=speech_file(tmp_path, num_channels=1))
    assert probe_speech(mono).num_channels == 1


def test_sound_advances_with_the_picture(tmp_path):
    """Packets of both streams alternate in the file: neither waits for the end of the other."""
    import av

    path = write(tmp_path / "a.mkv", 50, speech=speech_file(tmp_path))
    with av.open(str(path)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    half = kinds[: len(kinds) // 2]
    assert 0.3 < half.count("audio") / kinds.count("audio") < 0.7


def test_odd_sizes_are_padded_with_the_border(tmp_path):
    path = write(tmp_path / "a.mp4", 2, size=(65, 97), crf=5)
    back = next(read_frames(path))
    assert back.shape == (66, 98, 3)
    assert np.abs(back[65].astype(int) - back[64]).max() < 12


def test_the_same_frames_make_the_same_file(tmp_path):
    speech = speech_file(tmp_path)
    for suffix in ("mp4", "mkv"):
        first, second = (write(tmp_path / f"{name}.{suffix}", speech=speech).read_bytes() for name in "ab")
        assert first == second


def test_an_error_leaves_nothing_and_keeps_what_was_there(tmp_path):
    target = tmp_path / "a.mp4"
    target.write_bytes(b"older")

    def fail():
        with VideoWriter(target, size=(64, 96), speech=speech_file(tmp_path), metadata={}) as writer:
            writer.write(frame())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(VideoError, match="no frame"):
        write(target, 0)
    with pytest.raises(VideoError, match="not uint8"), VideoWriter(target, size=(64, 64), speech=None, metadata={}) as writer:
        writer.write(frame())
    with pytest.raises(AudioError, match="does not exist"):
        write(target, 1, speech=tmp_path / "absent.wav")
    assert target.read_bytes() == b"older"
    assert names(tmp_path) == ["a.mp4", "speech_44100_2.wav"]
    write(target, 1)
    assert probe_video(target).num_frames == 1


def test_a_lost_label_does_not_pass(tmp_path, monkeypatch):
    import av

    original = av.open

    def forgetful(file, mode="r", **options):
        if mode == "w":
            options["options"] = {}
        return original(file, mode, **options)

    monkeypatch.setattr(av, "open", forgetful)
    with pytest.raises(VideoError, match="lost its 'AIGC'"):
        write(tmp_path / "a.mp4")
    assert names(tmp_path) == []


def test_other_frame_rates_and_long_chinese_names(tmp_path):
    path = write(tmp_path / ("数" * 80 + ".mkv"), 60, speech=speech_file(tmp_path, 16000), fps=60)
    assert probe_video(path).fps == 60
    assert probe_video(path).duration_s == pytest.approx(1.0)
    assert path.stat().st_mode & 0o077 == (tmp_path / "speech_16000_2.wav").stat().st_mode & 0o077


def test_impossible_outputs_are_refused_at_once(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    for name, message in {
        "a.avi": "cannot carry",
        "absent/a.mp4": "does not exist",
        "folder.mp4": "folder",
        "a": "cannot carry",
        "a\0.mp4": "not a possible",
        "a" * 300 + ".mp4": "cannot be written",
    }.items():
        with pytest.raises(VideoError, match=message):
            VideoWriter(tmp_path / name, size=(64, 64), speech=None, metadata={})
    with pytest.raises(VideoError, match="cannot be encoded"):
        VideoWriter(tmp_path / "a.mp4", size=(0, 64), speech=None, metadata={})


_FULL_DISK = """
import resource, signal, sys
import numpy as np
from joyhallo.media.video import VideoError, VideoWriter, write_segment
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
noise = [np.random.default_rng(i).integers(0, 256, (128, 128, 3), dtype=np.uint8) for i in range(40)]
def video():
    with VideoWriter(sys.argv[1] + "/a.mp4", size=(128, 128), speech=None, metadata={}) as writer:
        for frame in noise: writer.write(frame)
for work in (video, lambda: write_segment(sys.argv[1] + "/a.seg", noise)):
    try: work()
    except VideoError as problem: sys.stdout.write(str(problem) + "\\n")
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs file size limits")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line, name in zip(lines, ("a.mp4", "a.seg"), strict=True):
        assert "disk is full" in line
        assert name in line
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (17, 200)])
def test_segments_are_exact_to_the_bit_and_reproducible(tmp_path, size):
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(3)] + [frame(9, *size)]
    write_segment(tmp_path / "0001.seg", frames)
    back = list(read_segment(tmp_path / "0001.seg"))
    assert len(back) == 4
    assert all(np.array_equal(a, b) for a, b in zip(back, frames, strict=True))
    first = (tmp_path / "0001.seg").read_bytes()
    write_segment(tmp_path / "0001.seg", frames)
    assert (tmp_path / "0001.seg").read_bytes() == first
    assert names(tmp_path) == ["0001.seg"]


def test_bad_segments_are_refused(tmp_path):
    for frames in ([], [frame(), frame(0, 32, 32)], [np.zeros((8, 8, 3), np.float32)]):
        with pytest.raises(VideoError, match="one size"):
            write_segment(tmp_path / "a.seg", frames)
    assert names(tmp_path) == []
    (tmp_path / "a.seg").write_bytes(b"rubbish" * 50)
    with pytest.raises(VideoError, match="broken"):
        list(read_segment(tmp_path / "a.seg"))
    lossy = write(tmp_path / "a.mkv", 2)
    with pytest.raises(VideoError, match="not a segment"):
        list(read_segment(lossy))


def test_unusable_videos_are_refused(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video\n" * 50)
    wanted = {"text.mp4": "not a video", "absent.mp4": "does not exist", "": "folder", speech_file(tmp_path).name: "only sound"}
    for name, message in wanted.items():
        with pytest.raises(VideoError, match=message):
            list(read_frames(tmp_path / name))
        with pytest.raises(VideoError, match=message):
            probe_video(tmp_path / name)
