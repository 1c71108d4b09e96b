"""The pickles of published datasets: numbers are read, nothing is ever run."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from joyhallo.data.published import UnusableClip, read_embedding, read_features

EMBEDDING = np.linspace(-3, 3, 512, dtype=np.float32)


class Evil:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["pickled", "torch", "object array"])
def test_nothing_in_a_pickle_is_ever_run(tmp_path, kind):
    allowed_before = set(torch.serialization.get_safe_globals())
    trap, path = tmp_path / "trap", tmp_path / "embedding.pt"
    value = np.array([Evil(trap)], dtype=object) if kind == "object array" else Evil(trap)
    path.write_bytes(pickle.dumps(value)) if kind == "pickled" else torch.save(value, path)
    for read in (read_embedding, read_features):
        with pytest.raises(UnusableClip, match="only numbers"):
            read(path)
    assert not trap.exists()
    assert set(torch.serialization.get_safe_globals()) == allowed_before


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kind", ["float32", "float64", "tensor"])
def test_embeddings_of_all_honest_kinds_are_read(tmp_path, old_format, kind):
    value = torch.from_numpy(EMBEDDING) if kind == "tensor" else EMBEDDING.astype(kind)
    torch.save(value, tmp_path / "e.pt", _use_new_zipfile_serialization=not old_format)
    np.testing.assert_array_equal(read_embedding(tmp_path / "e.pt"), EMBEDDING)


def test_embeddings_pickled_by_old_numpy_are_read(tmp_path):
    torch.save(EMBEDDING, tmp_path / "e.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "e.pt").read_bytes()
    assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
    (tmp_path / "e.pt").write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    np.testing.assert_array_equal(read_embedding(tmp_path / "e.pt"), EMBEDDING)


def test_features_become_half_precision_rows(tmp_path):
    values = torch.randn(5, 12, 768)
    torch.save(values, tmp_path / "f.pt")
    read = read_features(tmp_path / "f.pt")
    assert (read.shape, read.dtype) == ((5, 12, 768), np.float16)
    np.testing.assert_array_equal(read, values.half().numpy())
