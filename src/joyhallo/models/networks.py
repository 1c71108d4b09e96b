"""The five networks of a system, together."""

from dataclasses import dataclass

from torch import nn

from joyhallo.models.face_locator import FaceLocator
from joyhallo.models.projectors import AudioProjector, FaceProjector
from joyhallo.models.unet import DenoisingNetwork, ReferenceNetwork
from joyhallo.presets import Preset


@dataclass(frozen=True)
class Networks:
    """Reference and denoising network, the two projectors and the face locator."""

    reference_network: ReferenceNetwork
    denoising_network: DenoisingNetwork
    face_projector: FaceProjector
    audio_projector: AudioProjector
    face_locator: FaceLocator

    def modules(self) -> dict[str, nn.Module]:
        return dict(vars(self))


def build_networks(preset: Preset) -> Networks:
    """Untrained networks of a preset, on the default device of the caller."""
    return Networks(
        ReferenceNetwork(**preset.reference_network),
        DenoisingNetwork(**preset.denoising_network),
        FaceProjector(**preset.face_projector),
        AudioProjector(**preset.audio_projector),
        FaceLocator(**preset.face_locator),
    )
