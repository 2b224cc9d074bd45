"""A step may round the factors of products; what runs beside or after it may not."""

from __future__ import annotations

import pytest
import torch

from crossproof.training.products import rounded_products


@pytest.mark.parametrize(("asked", "inside"), [(True, "high"), (False, "highest")])
def test_precision_of_products_is_lowered_inside_alone(asked: bool, inside: str) -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with rounded_products(asked):
        assert torch.get_float32_matmul_precision() == inside
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_step_that_fails_leaves_the_precision_as_it_was() -> None:
    def step() -> None:
        with rounded_products(True):
            raise RuntimeError("of the step")

    with pytest.raises(RuntimeError, match="of the step"):
        step()
    assert torch.get_float32_matmul_precision() == "highest"
