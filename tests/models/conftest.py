"""What tests of a generator of several modalities start from."""

import pytest
from multimodal_models import batch_of, make


@pytest.fixture(scope="module")
def generator():
    return make().generator(num_steps=4)


@pytest.fixture
def given():
    return {"word": batch_of(5)["word"]}
