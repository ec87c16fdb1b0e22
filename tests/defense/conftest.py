"""What tests of the defense share."""

from __future__ import annotations

import pytest

from awm_defense.data import Dataset, load_dataset


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")
