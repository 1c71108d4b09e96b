"""The weights that the rendering process keeps from one job to the next."""

import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from joyhallo.animator import Animator
    from joyhallo.render import RenderRequest


class KeptPipeline:
    """Loads a pipeline as `render` does, once for as long as the same is asked for; other weights take its place."""

    def __init__(self) -> None:
        self._pipe: Animator | None = None
        self._key: tuple[Any, ...] | None = None

    def __call__(self, request: "RenderRequest", device: "torch.device", dtype: "torch.dtype") -> "Animator":
        """The pipeline of a request. Weights that changed on the disk are loaded anew.

        Raises:
            UserError: there are no such weights.
        """
        from joyhallo.render import load_weights
        from joyhallo.weights.hub import file_sha256
        from joyhallo.weights.pipeline_folder import find_folder, weights_stamp

        folder = find_folder(request.model)
        lora = None if request.lora is None else (file_sha256(request.lora), request.lora_strength)
        key = (folder, weights_stamp(folder), lora, device, dtype)
        if self._pipe is None or key != self._key:
            self.drop()  # first: two of them may be more than the device holds
            self._pipe, self._key = load_weights(request, device, dtype), key
        return self._pipe

    def drop(self) -> None:
        """Give the memory back."""
        import torch

        from joyhallo.models.allocation import give_freed_memory_back

        if self._pipe is None:
            return
        self._pipe = self._key = None
        gc.collect()
        give_freed_memory_back()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
