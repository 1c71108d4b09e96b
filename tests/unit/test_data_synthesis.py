"""The parts that make talking clips: geometry, Mandarin shapes, the split; whole clips where the face models are at hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from joyhallo.conditioning.face import FaceMesh
from joyhallo.data import heldout, mandarin, motion
from joyhallo.data.cache import read_talking_clip
from joyhallo.data.canonical import read_canonical_mesh
from joyhallo.data.faces import write_npz
from joyhallo.data.framing import FaceCrop, face_crop
from joyhallo.data.gestures import Gesture, part_of_rotation, smooth
from joyhallo.data.synthesis import Synthesis
from joyhallo.data.warp import TalkingPortrait
from joyhallo.media.image import read_image
from joyhallo.media.paste import Crop

FACE_MODELS = Path(__file__).parents[3] / "shared/data/models/face_landmarker_v2_with_blendshapes.task"
PORTRAIT = Path(__file__).parents[3] / "shared/data/portraits/london_neutral/001_03.jpg"


def resting(num_frames: int) -> Gesture:
    return Gesture(
        shape=np.zeros((num_frames, 478, 3)),
        gap=np.zeros((num_frames, 11)),
        blink=np.zeros(num_frames),
        rotation=np.repeat(np.eye(3)[None], num_frames, 0),
        scale=np.ones(num_frames),
        shift=np.zeros((num_frames, 3)),
    )


def opened(num_frames: int) -> Gesture:
    gesture = resting(num_frames)
    gesture.gap[:] = 0.9 * np.sin(np.linspace(0, np.pi, 11))
    lower = [17, 314, 405, 84, 181, 152, 148, 377, 176, 400, 199, 200, 18, 83, 313]
    gesture.shape[:, lower, 1] = 0.8
    return gesture


def points_of(finder: FaceMesh, image: np.ndarray) -> np.ndarray:
    face = finder.track(image, None)
    assert face is not None
    return face.landmarks


class TestGeometry:
    def test_similarity_is_found_again(self):
        random = np.random.default_rng(0)
        source = random.normal(size=(19, 3))
        rotation = cv2.Rodrigues(np.array([0.2, -0.5, 0.1]))[0]
        pose = motion.fit_similarity(source, 3.5 * source @ rotation.T + [10, -4, 2])
        assert np.allclose(pose.rotation, rotation)
        assert np.isclose(pose.scale, 3.5)
        assert np.allclose(pose.to_canonical(pose.to_picture(source)), source)

    def test_mirror_image_does_not_become_a_mirroring_rotation(self):
        source = np.random.default_rng(1).normal(size=(12, 3))
        pose = motion.fit_similarity(source, source * [-1, 1, 1])
        assert np.isclose(np.linalg.det(pose.rotation), 1)

    def test_part_of_a_rotation(self):
        rotation = cv2.Rodrigues(np.array([0.0, 0.4, 0.0]))[0]
        assert np.allclose(cv2.Rodrigues(part_of_rotation(rotation, 0.5))[0].ravel(), [0, 0.2, 0])

    def test_smoothing_keeps_parabolas(self):
        times = np.arange(12.0)
        points = (times**2)[:, None, None] * np.ones((1, 2, 3))
        assert np.allclose(smooth(points)[2:-2], points[2:-2])

    def test_crop_shows_what_its_points_say(self):
        image = np.zeros((120, 200, 3), np.uint8)
        image[60:64, 90:94] = 255
        crop = FaceCrop(Crop(top=20, left=50, height=80, width=80), size_px=160)
        shown = crop.cut(image)
        rows, columns = np.nonzero(shown[..., 0] > 128)
        # The white square covers [90, 94) x [60, 64): its middle is at 92, 62 in continuous coordinates.
        expected = crop.move(np.array([[92.0, 62.0, 0.0]]))[0]
        assert np.allclose([columns.mean() + 0.5, rows.mean() + 0.5], expected[:2], atol=0.6)

    def test_face_crop_stays_inside(self):
        points = np.zeros((478, 3), np.float32)
        points[:, :2] = np.random.default_rng(0).uniform([120, 5], [190, 90], (478, 2))
        crop = face_crop(points, (150, 200)).crop
        assert crop.height == crop.width
        assert crop.left >= 0
        assert crop.top >= 0
        assert crop.left + crop.width <= 200
        assert crop.top + crop.height <= 150

    def test_face_crop_of_a_video_goes_by_the_median_frame(self):
        points = np.random.default_rng(0).uniform(100, 200, (478, 3))
        shaken = np.stack([points - 3, points, points + 50])
        assert face_crop(shaken, (400, 500)) == face_crop(points, (400, 500))


class TestMandarin:
    @pytest.mark.parametrize(
        ("pinyin", "expected"),
        [
            ("niu4", ["tongue-tip", "i", "o", "u"]),
            ("ba1", ["shut", "a"]),
            ("zhi1", ["retroflex", "apical"]),
            ("yu3", ["ü"]),
            ("ju2", ["palatal", "ü"]),
            ("lv4", ["tongue-tip", "ü"]),
            ("wang2", ["u", "a", "ng"]),
            ("er4", ["er"]),
            ("shuang1", ["retroflex", "u", "a", "ng"]),
        ],
    )
    def test_shapes_of_syllables(self, pinyin, expected):
        assert mandarin.phones(pinyin) == expected

    @pytest.mark.parametrize("name", ["_hm1", "ng2", "xyz", "你"])
    def test_no_syllable(self, name):
        assert mandarin.phones(name) is None

    def test_bilabials_shut_the_lips_and_a_opens_them(self):
        controls = mandarin._trajectory([(0.5, "a"), (0.8, "shut"), (1.1, "a")], 50)
        assert controls[20, 0] == 0  # the frame in which 0.8 s + half a frame falls
        assert controls[12, 0] > 0.8
        assert abs(controls[-1, 0]) < 0.05

    def test_faster_is_shorter_at_the_same_pitch(self):
        tone = np.sin(2 * np.pi * 200 * np.arange(16000) / 16000).astype(np.float32)
        shorter = mandarin._faster(tone, 1.5)
        assert 9000 < len(shorter) < 11200
        spectrum = np.abs(np.fft.rfft(shorter[:8000]))
        assert abs(spectrum.argmax() * 2 - 200) <= 4


class TestSplit:
    def test_the_two_pictures_of_a_person_stay_together(self):
        assert heldout.person_of(Path("london_neutral/001_03.jpg")) == heldout.person_of(Path("london_smiling/001_08.jpg"))
        assert heldout.person_of(Path("congress/A000055.jpg")) != heldout.person_of(Path("canada/A000055.jpg"))

    def test_about_the_share(self):
        share = np.mean([heldout.is_held_out_person(f"group/{number}") for number in range(3000)])
        assert 0.05 < share < 0.09

    def test_the_first_videos_by_name_are_held_out(self):
        paths = [Path(f"{number:03d}.npz") for number in range(30)]
        split = heldout.split_videos(reversed(paths))
        assert [*split.held_out, *split.known] == paths
        assert len(split.held_out) == heldout.NUM_HELD_OUT_VIDEOS


@pytest.fixture(scope="module")
def parts():
    pytest.importorskip("ai_edge_litert")
    finder = FaceMesh.from_path(FACE_MODELS)
    image = read_image(PORTRAIT)
    small = face_crop(finder.detect(image)[0].landmarks, image.shape[:2]).cut(image)
    mesh = read_canonical_mesh(FACE_MODELS)
    return TalkingPortrait(small, points_of(finder, small), mesh), finder, mesh


@pytest.mark.skipif(not (FACE_MODELS.exists() and PORTRAIT.exists()), reason="no face models beside the checkout")
class TestTalkingPortrait:
    def test_at_rest_the_picture_is_kept(self, parts):
        portrait, _, _ = parts
        frame = portrait.render(resting(1), 0)
        assert np.abs(frame.astype(int) - portrait.image).mean() < 1.5

    def test_an_opened_mouth_is_found_open(self, parts):
        portrait, finder, mesh = parts
        found = points_of(finder, portrait.render(opened(1), 0))
        opening = motion.lip_gap(motion.fit_pose(found, mesh.vertices).to_canonical(found))
        assert 0.5 < opening < 1.2

    def test_a_clip_is_written_and_read_again(self, parts, tmp_path):
        """From prepared portraits and videos to the clip that the cache encodes, all of it on generated motion."""
        portrait, _, mesh = parts
        image, points = portrait.image, portrait.points.astype(np.float32)
        write_npz(
            tmp_path / "faces/portraits.npz",
            crops256=image[None],
            points=points[None],
            persons=np.array([next(name for name in ("a", "b", "c") if not heldout.is_held_out_person(name))]),
        )
        random = np.random.default_rng(0)
        for number in range(heldout.NUM_HELD_OUT_VIDEOS + 1):
            moving = np.repeat(points[None], 12, 0) + random.normal(0, 0.2, (12, 1, 1)).astype(np.float32)
            moving[4:8, [14, 87, 317, 178, 402, 17, 152]] += [0, 8, 0]
            sound = random.normal(size=12 * 640).astype(np.float32)
            write_npz(tmp_path / f"faces/videos/{number:02d}.npz", points=moving, speech=sound)
        synthesis = Synthesis(tmp_path / "faces", mesh, num_frames=12)
        path = tmp_path / "take0/0000.npz"
        assert synthesis.write_clip(0, 0, path)
        clip = read_talking_clip(path)
        assert clip.frames.shape == (12, 256, 256, 3)
        assert clip.speech.shape == (12 * 640,)
        assert not clip.is_held_out
        assert clip.opening[4:8].min() > clip.opening[:3].max()
        mouth = clip.frames[:, 150:220, 80:176].astype(int)
        assert np.abs(mouth[6] - mouth[0]).mean() > 2 * np.abs(mouth[1] - mouth[0]).mean()
        synthesis.write_clip(0, 0, tmp_path / "again.npz")
        assert np.array_equal(read_talking_clip(tmp_path / "again.npz").frames, clip.frames)
