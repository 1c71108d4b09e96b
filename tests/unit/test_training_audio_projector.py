"""The audio projector is fitted to another speech encoder."""

import numpy as np
import pytest
import torch

from joyhallo.errors import UserError
from joyhallo.models.projectors import AudioProjector
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.training.audio_projector import fit_to_encoder

CHANNELS, BLOCKS = 8, 2


def encoder(seed: int = 0, channels: int = CHANNELS) -> MelSpeechNetwork:
    torch.manual_seed(seed)
    return MelSpeechNetwork(num_bands=12, channels=channels, num_blocks=BLOCKS, num_fine_blocks=1)


def projector() -> AudioProjector:
    torch.manual_seed(1)
    return AudioProjector(5, BLOCKS, CHANNELS, hidden_dim=16, num_tokens=2, token_dim=8)


def recordings(count: int) -> list[np.ndarray]:
    """Noise that grows louder and softer."""
    random = np.random.default_rng(2)
    loudness = np.repeat(random.uniform(0, 8000, (count, 20)), 640, axis=1)
    return list((loudness * random.normal(0, 0.3, loudness.shape)).astype(np.int16))


def in_another_order(former: MelSpeechNetwork) -> MelSpeechNetwork:
    """The same features, their channels the other way round and twice as large."""
    other = encoder()
    other.load_state_dict(former.state_dict())
    for norm in other.norms:
        norm.register_forward_hook(lambda _module, _given, made: 2 * made.flip(-1))
    return other


def test_the_projector_answers_as_before_when_the_features_say_the_same():
    former, fitted, kept = encoder(), projector(), projector()
    changed = in_another_order(former)
    assert fit_to_encoder(fitted, former, changed, recordings(30)) > 0.98
    sound = torch.from_numpy(np.stack(recordings(3)).astype(np.float32))
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    with torch.no_grad():
        before, after = (
            network(features.unfold(1, 5, 1).permute(0, 1, 4, 2, 3))
            for network, features in ((kept, former(sound)), (fitted, changed(sound)))
        )
        untouched = kept(changed(sound).unfold(1, 5, 1).permute(0, 1, 4, 2, 3))
    assert (after - before).std() < 0.2 * (untouched - before).std()
    assert torch.equal(fitted.proj2.weight, kept.proj2.weight)


def test_what_the_features_do_not_tell_is_not_said_to_be_kept():
    deaf = encoder(3)
    for norm in deaf.norms:
        norm.register_forward_hook(lambda _module, _given, made: torch.zeros_like(made))
    assert fit_to_encoder(projector(), encoder(), deaf, recordings(20)) < 0.05


def test_silent_recordings_are_left_out_and_too_few_are_refused():
    silent = [np.zeros(6400, np.int16)]
    fit_to_encoder(projector(), encoder(), encoder(1), silent + recordings(10))
    with pytest.raises(UserError, match="10 recordings and more"):
        fit_to_encoder(projector(), encoder(), encoder(1), silent + recordings(9))


def test_an_encoder_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"\[2, 16\] blocks and channels, the former one \[2, 8\]"):
        fit_to_encoder(projector(), encoder(), encoder(0, 16), recordings(10))
