"""Who speaks in which clip: clips of all films grouped by their face embeddings, in a fixed order.

A clip joins the person whose mean embedding is nearest, when it is near enough; otherwise it founds a new one, named after
its film. People found earlier are kept beside the dataset, so that films added later find them again.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from joyhallo.errors import UserError
from joyhallo.media.files import written_whole

# Cosine between a clip and the mean of a person, from which on they are the same; measured for each encoder.
SAME_PERSON = {"mini": 0.75, "glintr100": 0.4}


@dataclass(eq=False)
class People:
    """The persons known so far."""

    names: list[str]
    sums: np.ndarray  # [N, E] sum of the unit embeddings of their clips

    def assign(self, embedding: np.ndarray, new_name: str, threshold: float) -> str:
        """The name of the person with this embedding [E], who is remembered; `new_name` if nobody is near."""
        unit = (embedding / max(float(np.linalg.norm(embedding)), 1e-9)).astype(np.float32)
        if self.names:
            means = self.sums / np.linalg.norm(self.sums, axis=1, keepdims=True)
            nearness = means @ unit
            best = int(nearness.argmax())
            if nearness[best] >= threshold:
                self.sums[best] += unit
                return self.names[best]
        name, number = new_name, 2
        while name in self.names:
            name, number = f"{new_name}-{number}", number + 1
        self.names.append(name)
        self.sums = np.concatenate([self.sums, unit[None]]) if len(self.sums) else unit[None].copy()
        return name


def read_people(path: Path) -> People:
    """Those of an earlier run; none when the file is not there."""
    if not path.is_file():
        return People([], np.zeros((0, 0), np.float32))
    arrays = load(path.read_bytes())
    return People(bytes(arrays["names"]).decode().splitlines(), arrays["sums"].copy())


def write_people(path: Path, people: People) -> None:
    """Whole or not at all."""
    names = np.frombuffer("\n".join(people.names).encode(), np.uint8)
    with written_whole(path, "list of speakers", UserError) as temporary:
        temporary.write_bytes(save({"names": names.copy(), "sums": people.sums.astype(np.float32)}))
