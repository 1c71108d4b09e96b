"""Tiny runs of `joyhallo train` for tests: a dataset of 32 px, networks of a few channels, processes that really die."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from joyhallo.data.samples import Facts, write_sample
from joyhallo.data.shards import pack
from joyhallo.training.overrides import with_changes
from joyhallo.training.recipes import Recipe, find_recipe
from joyhallo.training.request import Outcome, TrainRequest
from joyhallo.training.run import train
from made_data import made_annotations, made_facts
from tiny import drawn_pipeline

SIZE_PX, NUM_FRAMES = 32, 14


def pictures(seed: int, size_px: int = SIZE_PX) -> np.ndarray:
    """Frames [F,S,S,3] in which a soft spot moves over a slope."""
    rows, columns = np.mgrid[:size_px, :size_px] / size_px
    frames = []
    for number in range(NUM_FRAMES):
        x, y = 0.3 + 0.03 * number, 0.2 + 0.1 * seed
        spot = np.exp(-(((columns - x) ** 2 + (rows - y) ** 2) / 0.02))
        frames.append(np.stack([80 + 120 * spot, 60 + 100 * rows, 40 + 100 * columns], axis=-1))
    return np.array(frames).astype(np.uint8)


def make_dataset(folder: Path, num_samples: int = 4, size_px: int = SIZE_PX, embedding_size: int = 8) -> Path:
    """Every second sample is synthetic, the last one is held out."""
    work = folder / "work"
    work.mkdir(parents=True)
    for number in range(num_samples):
        facts: Facts = made_facts(
            f"clip_{number}",
            num_frames=NUM_FRAMES,
            size_px=size_px,
            is_synthetic=number % 2 == 1,
            is_held_out=number == num_samples - 1,
        )
        annotations = made_annotations(NUM_FRAMES, size_px, number)
        annotations = replace(annotations, face_embedding=annotations.face_embedding[:embedding_size])
        frames = pictures(number, size_px)
        write_sample(work, facts, annotations, frames, frames[0] if facts.is_synthetic else None)
    pack(work, folder / "dataset")
    return folder / "dataset"


def make_start(folder: Path) -> Path:
    """The folder of a tiny pipeline."""
    drawn_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


# Six steps of four samples, two at once, a checkpoint half-way; few trained parameters, which torch writes slowly.
USUAL = (
    "schedule.num_steps=6",
    "saving.every_steps=3",
    "objective.portrait_dropout=0.3",
    "trained=denoising_network.body.up,audio_projector.",
)


def tiny_recipe(stage: str = "stage2", *changes: str) -> Recipe:
    return with_changes(find_recipe("smoke", stage), (*USUAL, *changes))


def request(folder: Path, data: Path, start: Path, recipe: Recipe, **changes: object) -> TrainRequest:
    return TrainRequest(**{"recipe": recipe, "data": (data,), "output": folder, "init": str(start), "device": "cpu"} | changes)


def run_here(*given: object, **changes: object) -> Outcome:
    return train(request(*given, **changes), lambda _report: None)


def losses(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "training" / "losses.jsonl").read_text().splitlines()]


def run_elsewhere(asked: TrainRequest, count: int = 1, kill: int | str | None = None) -> list[int]:
    """The run in `count` processes of its own; their exit codes.

    `kill`: the first of them kills itself after this step, or while it writes ("saving").
    """
    context = multiprocessing.get_context("forkserver")
    preloaded = [
        "joyhallo.training.run",
        "joyhallo.data.shards",
        "diffusers.schedulers.scheduling_ddim",
        "torch.distributed.fsdp",
    ]
    context.set_forkserver_preload(preloaded)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_work, args=(asked, rank, count, port, kill)) for rank in range(count)]
    for process in processes:
        process.start()
    return _codes(processes)


def _codes(processes: list[BaseProcess]) -> list[int]:
    for process in processes:
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode or 0 for process in processes]


def _work(asked: TrainRequest, rank: int, count: int, port: int, kill: int | str | None) -> None:
    torch.set_num_threads(1)
    if count > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
    if kill == "saving" and rank == 0:
        threading.Thread(target=_die_while_saving, args=(asked.output,), daemon=True).start()

    def show(report) -> None:
        if report.step == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    train(asked, show)


def _die_while_saving(folder: Path) -> None:
    """Once there is a whole checkpoint, die as soon as the next one is begun."""
    below = folder / "training" / "checkpoints"
    while True:
        if list(below.glob("step_*")) and list(below.glob(".step_*.partial")):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.0001)
