"""From a face embedding and from speech features to tokens.

Axes: B samples, F frames, T tokens, E embedding, K frames of a speech window.
"""

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from joyhallo.models.kernels import Linear


class FaceProjector(ModelMixin, ConfigMixin):
    """A face embedding [B,E] → face tokens [B,T,C]."""

    @register_to_config
    def __init__(self, embedding_size: int = 512, num_tokens: int = 4, token_dim: int = 768) -> None:
        super().__init__()
        self.proj = Linear(embedding_size, num_tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding).unflatten(-1, (self.config["num_tokens"], -1)))


class AudioProjector(ModelMixin, ConfigMixin):
    """A window of speech features around every frame [B,F,K,blocks,channels] → audio tokens [B,F,T,C]."""

    @register_to_config
    def __init__(
        self,
        window_length: int = 5,
        num_blocks: int = 12,
        channels: int = 768,
        hidden_dim: int = 512,
        num_tokens: int = 32,
        token_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj1 = Linear(window_length * num_blocks * channels, hidden_dim)
        self.proj2 = Linear(hidden_dim, hidden_dim)
        self.proj3 = Linear(hidden_dim, num_tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, window: Tensor) -> Tensor:
        hidden = F.relu(self.proj1(window.flatten(2)))
        hidden = F.relu(self.proj2(hidden))
        return self.norm(self.proj3(hidden).unflatten(-1, (self.config["num_tokens"], -1)))
