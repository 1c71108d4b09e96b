"""Gradient checkpointing: the same losses and gradients, also where nothing that comes in needs one; less memory."""

import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from joyhallo.models.conditions import ClipInputs
from tiny import drawn_masks, normal

SIZE, NUM_SAMPLES, NUM_FRAMES, NUM_PAST = (6, 4), 2, 3, 2


@dataclass(frozen=True)
class Case:
    """A step of training."""

    trained: tuple[str, ...] = ("",)  # parameters whose name holds one of these
    is_deaf: bool = False  # audio tokens are zero
    is_blind: bool = False  # the reference network does not run
    still: bool = False
    row_order: str = "aligned"


STAGE_2 = ("audio_projector.", ".audio.", ".motion.")
CASES = {
    "all": Case(),
    "interleaved": Case(row_order="interleaved"),
    "stage 1": Case(("reference_network.", "denoising_network.", "face_"), still=True),
    "stage 2": Case(STAGE_2),
    "stage 2 without audio": Case(STAGE_2, is_deaf=True),
    "stage 2 without reference": Case(STAGE_2, is_blind=True),
    "stage 2 without both": Case(STAGE_2, is_deaf=True, is_blind=True),
}


def loss_of(networks, case: Case, checkpointing: bool, size: tuple[int, int] = SIZE) -> Tensor:
    face = networks.face_projector(normal(1, NUM_SAMPLES, 8))
    num_past = 0 if case.still else NUM_PAST
    references = normal(2, NUM_SAMPLES, 1 + num_past, 4, *size)
    audio = networks.audio_projector(normal(3, NUM_SAMPLES, NUM_FRAMES, 5, 2, 8))
    inputs = ClipInputs(
        reference=None if case.is_blind else networks.reference_network(references, face, checkpointing=checkpointing),
        face_tokens=face,
        audio_tokens=audio * (0 if case.is_deaf else 1),
        location=networks.face_locator((normal(4, NUM_SAMPLES, 3, 8 * size[0], 8 * size[1]) > 0).float()),
        masks=drawn_masks(5, size),
        still=case.still,
    )
    latents = normal(6, NUM_SAMPLES, 4, NUM_FRAMES, *size).requires_grad_()  # see training/stages.py
    network = networks.denoising_network
    conditioning = network.condition(inputs, checkpointing=checkpointing)
    timesteps = torch.arange(NUM_SAMPLES * (NUM_FRAMES if case.still else 1)) * 90
    return (network(latents, timesteps, conditioning, checkpointing=checkpointing) - normal(7, *latents.shape)).square().mean()


def prepared(make_networks, case: Case):
    """Networks of which the case's parameters train, and those parameters by `component.name`."""
    networks = make_networks(row_order=case.row_order)
    named = {f"{k}.{n}": p for k, m in networks.modules().items() for n, p in m.named_parameters()}
    for name, parameter in named.items():
        parameter.requires_grad_(any(part in name for part in case.trained))
    return networks, {name: parameter for name, parameter in named.items() if parameter.requires_grad}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_losses_and_all_gradients_are_those_without(make_networks, case):
    networks, parameters = prepared(make_networks, case)
    found = []
    for checkpointing in (False, True):
        for parameter in parameters.values():
            parameter.grad = None
        loss = loss_of(networks, case, checkpointing)
        loss.backward()
        found.append((loss.detach(), {name: parameter.grad for name, parameter in parameters.items()}))
    (loss, gradients), (same_loss, same_gradients) = found
    assert torch.equal(loss, same_loss)
    for name, gradient in gradients.items():
        same = same_gradients[name]
        assert (gradient is None) == (same is None), name
        assert gradient is None or torch.equal(gradient, same), name
    have = [name for name, gradient in gradients.items() if gradient is not None and gradient.abs().max() > 0]
    assert any(".motion." in name for name in have) != case.still
    assert any(".audio." in name and ".down." in name for name in have), "what a deaf step must not lose"


class LiveBytes(TorchDispatchMode):
    """The bytes of all tensors that operations made and that are still there, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, _types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage.data_ptr())
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.forget, storage.data_ptr(), storage.nbytes())
        return result

    def forget(self, address: int, num_bytes: int) -> None:
        self.known.discard(address)
        self.live -= num_bytes


def peak_bytes(networks, case: Case, checkpointing: bool) -> int:
    with LiveBytes() as memory:
        loss_of(networks, case, checkpointing, size=(16, 12)).backward()
    return memory.peak


@pytest.mark.parametrize("case", [Case(), Case(STAGE_2)], ids=["all", "stage 2"])
def test_it_takes_less_memory(make_networks, case):
    networks, _ = prepared(make_networks, case)
    assert peak_bytes(networks, case, checkpointing=True) < 0.5 * peak_bytes(networks, case, checkpointing=False)


def test_without_gradients_it_changes_nothing(networks):
    with torch.no_grad():
        plain, asked = (loss_of(networks, Case(), checkpointing) for checkpointing in (False, True))
    assert torch.equal(plain, asked)


def test_it_leaves_nothing_on_the_modules(make_networks):
    networks, _ = prepared(make_networks, Case())
    before = [dict(vars(part)) for module in networks.modules().values() for part in module.modules()]
    loss_of(networks, Case(), checkpointing=True).backward()
    after = [dict(vars(part)) for module in networks.modules().values() for part in module.modules()]
    assert [list(b) for b in before] == [list(a) for a in after]
