"""Speech features: against the public wav2vec2, against one pass, and by hand."""

import math

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from joyhallo.conditioning import speech as speech_module
from joyhallo.conditioning.speech import MelSpeech, Wav2Vec2Speech, prepare_speech
from joyhallo.errors import UserError
from joyhallo.models.speech_encoder import MelSpeechNetwork


def tiny_wav2vec2(**changes):
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, **changes,
    )  # fmt: skip
    return Wav2Vec2Model(config).eval()


def noise(num_samples, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32))


class Marks:
    """Not a network: the feature of a frame is the mean of its samples and the number of samples it was given."""

    num_blocks, channels, chunk_s, context_s = 1, 2, 1e9, 0.0

    def encode(self, waveform, num_frames):
        self.length = len(waveform)
        padded = torch.nn.functional.pad(waveform, (0, num_frames * 640 - len(waveform)))
        means = padded.reshape(num_frames, 640).mean(1)
        return torch.stack([means, torch.arange(num_frames).float()], 1)[:, None]


@pytest.mark.parametrize("changes", [{}, {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}])
def test_stages_equal_the_public_forward(changes):
    model = tiny_wav2vec2(**changes)
    waveform = noise(8000)
    collected = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: collected.append(out[0] if isinstance(out, tuple) else out))
        for layer in model.encoder.layers
    ]
    with torch.no_grad():
        public = model(waveform[None])
    for hook in hooks:
        hook.remove()
    steps = public.last_hidden_state.shape[1]
    collected[-1] = public.last_hidden_state  # normalised once more in the stable variant
    expected = torch.stack([h[0] for h in collected], 1)
    found = Wav2Vec2Speech(model).encode(waveform, steps)
    assert found.shape == (steps, 3, 32)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(Wav2Vec2Speech(model, "last").encode(waveform, steps)[:, 0], public.last_hidden_state[0], atol=1e-5)


def test_convolutional_features_are_stretched_corner_to_corner():
    model = tiny_wav2vec2()
    waveform = noise(640 * 10)  # 19 steps of 20 ms → 10 frames: exactly every second step
    steps = model.feature_extractor(waveform[None])
    assert steps.shape[-1] == 19
    with torch.no_grad():
        hidden, _ = model.feature_projection(steps[..., ::2].transpose(1, 2))
        expected = model.encoder(hidden).last_hidden_state[0]
    assert torch.allclose(Wav2Vec2Speech(model, "last").encode(waveform, 10)[:, 0], expected, atol=1e-5)


def test_normalised_as_the_public_extractor_then_padded_with_zeros():
    waveform = noise(640 * 20 + 100) * 3 + 0.5  # 21 frames → 32
    encoder = Marks()
    features = prepare_speech(waveform, encoder)
    assert (features.num_frames, features.num_padded_frames) == (21, 32)
    window = features.window(0, 32)
    assert encoder.length == 640 * 20 + 100 + 11 * 640
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = np.zeros(32 * 640, np.float32)
    expected[: len(waveform)] = extractor(waveform.numpy(), sampling_rate=16000).input_values[0]
    assert np.allclose(window[:, 2, 0, 0], expected.reshape(32, 640).mean(1), atol=1e-5)
    assert window[22:, 2, 0, 0].abs().max() == 0


@pytest.mark.parametrize(("num_samples", "frames", "padded"), [(640, 1, 16), (641, 2, 16), (4480, 7, 16), (10240, 16, 16)])
def test_number_of_frames(num_samples, frames, padded):
    features = prepare_speech(noise(num_samples), Marks())
    assert (features.num_frames, features.num_padded_frames) == (frames, padded)
    assert prepare_speech(noise(num_samples), Marks(), clip_length=5).num_padded_frames == -(-frames // 5) * 5


def test_windows_clamp_at_the_ends_of_the_padded_track():
    features = prepare_speech(noise(640 * 30), Marks())
    assert features.window(0, 3)[..., 0, 1].tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert features.window(30, 2)[..., 0, 1].tolist() == [[28, 29, 30, 31, 31], [29, 30, 31, 31, 31]]
    assert features.window(14, 1)[0, :, 0, 1].tolist() == [12, 13, 14, 15, 16]  # across the border of two clips
    assert features.window(16, 16).shape == (16, 5, 1, 2)


def test_chunks_equal_one_pass_where_the_view_is_bounded():
    torch.manual_seed(0)
    network = MelSpeechNetwork(num_bands=20, channels=16)
    waveform = noise(16000 * 5 + 321)
    whole = prepare_speech(waveform, MelSpeech(network, chunk_s=1e9))
    chunked = prepare_speech(waveform, MelSpeech(network, chunk_s=0.72))
    expected = whole.window(0, whole.num_padded_frames)
    assert expected.shape == (128, 5, whole.num_blocks, 16)
    assert torch.allclose(chunked.window(0, 128), expected, atol=1e-5)
    for start in (112, 0, 32, 16):  # any order, through the small cache
        assert torch.allclose(chunked.window(start, 16), expected[start : start + 16], atol=1e-5)


def test_shut_lips_are_told_of_every_frame_in_chunks_as_at_once():
    torch.manual_seed(0)
    network = MelSpeechNetwork(num_bands=20, channels=16, hears_shut_lips=True)
    waveform = noise(16000 * 5 + 321)
    whole = prepare_speech(waveform, MelSpeech(network, chunk_s=1e9))
    told = whole.shut_logits()
    assert told.shape == (whole.num_frames,)
    with torch.no_grad():
        assert told[70] == pytest.approx(float(network.shut_logits(whole.window(70, 1))), abs=1e-5)
    chunked = prepare_speech(waveform, MelSpeech(network, chunk_s=0.72))
    assert chunked.shut_logits() == pytest.approx(told, abs=1e-5)


@pytest.mark.parametrize("encoder", [MelSpeech(MelSpeechNetwork(num_bands=20, channels=16)), Wav2Vec2Speech(tiny_wav2vec2())])
def test_encoders_without_that_part_tell_nothing_of_shut_lips(encoder):
    assert prepare_speech(noise(16000), encoder).shut_logits() is None


def test_long_speech_is_encoded_in_bounded_pieces_with_context():
    class Spy(Marks):
        chunk_s, context_s = 2.0, 0.4
        longest = 0

        def encode(self, waveform, num_frames):
            self.longest = max(self.longest, num_frames)
            return super().encode(waveform, num_frames)

    encoder = Spy()
    waveform = noise(640 * 320)
    features = prepare_speech(waveform, encoder)
    means = torch.cat([features.window(start, 16)[:, 2, 0, 0] for start in range(0, 320, 16)])
    assert encoder.longest == 50 + 2 * 10
    assert len(features._chunks) <= 2
    normalised = (waveform - waveform.mean()) / waveform.std(correction=0)
    assert torch.allclose(means, normalised.reshape(320, 640).mean(1), atol=1e-4)


def test_wav2vec2_in_chunks_stays_close_to_one_pass():
    model = tiny_wav2vec2(feat_extract_norm="layer", do_stable_layer_norm=True)
    waveform = noise(640 * 64)
    whole = prepare_speech(waveform, Wav2Vec2Speech(model)).window(0, 64)
    chunked = prepare_speech(waveform, Wav2Vec2Speech(model, chunk_s=1.0, context_s=0.8)).window(0, 64)
    error = (whole - chunked).abs().mean() / whole.std()
    assert error < 0.1


def test_long_recordings_wait_on_disk(monkeypatch):
    waveform = noise(640 * 50)
    expected = prepare_speech(waveform, Marks()).window(0, 64)
    monkeypatch.setattr(speech_module, "SPOOL_BYTES", 1000)
    assert torch.equal(prepare_speech(waveform, Marks()).window(0, 64), expected)


def test_level_and_silence():
    sine = torch.sin(torch.arange(16000) * 2 * math.pi * 440 / 16000)
    features = prepare_speech(sine, Marks())
    assert abs(features.level_dbfs + 3.01) < 0.01
    assert not features.is_silent
    assert prepare_speech(sine * 1e-4, Marks()).is_silent
    for quiet in (torch.zeros(16000), torch.full((16000,), 0.1)):
        with pytest.raises(UserError, match="silent from end to end"):
            prepare_speech(quiet, Marks())


def test_wrong_waveforms_and_choices_are_named():
    for wrong in (torch.zeros(2, 100), torch.zeros(0), torch.tensor([1.0, float("nan")])):
        with pytest.raises(UserError, match="finite samples"):
            prepare_speech(wrong, Marks())
    with pytest.raises(UserError, match="'all' or 'last'"):
        Wav2Vec2Speech(tiny_wav2vec2(), "some")
    with pytest.raises(ValueError, match="30 fps"):
        prepare_speech(noise(1000), Marks(), fps=30)


def test_a_file_gives_what_its_samples_give(tmp_path):
    import wave

    samples = (noise(16000).clamp(-1, 1) * 32767).round().short()
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.numpy().tobytes())
    from_file = prepare_speech(path, Marks()).window(0, 32)
    from_samples = prepare_speech(samples.float() / 32768, Marks()).window(0, 32)
    assert torch.allclose(from_file, from_samples, atol=1e-4)


@pytest.mark.parametrize("channels", [8, 16, 128])
def test_the_small_encoder_hears_the_same_in_half_precision(channels):
    torch.manual_seed(0)
    network = MelSpeechNetwork(num_bands=20, channels=channels)
    waveform = torch.randn(1, 12 * 640)
    with torch.no_grad():
        exact = network(waveform)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = network(waveform)
        half = network.to(torch.bfloat16)(waveform)
    assert half.dtype == torch.bfloat16
    for found in (mixed, half):
        assert (found.float() - exact).norm() < 0.03 * exact.norm()
