"""Masked convolution over two spatial dimensions as an implicit matrix product.

W = s · (m ⊙ θ) exists only tile by tile, rounded once to x's dtype as it is loaded. Every tensor
comes with its strides, so any layout works; channels_last is the fast one. Offsets are a row part
in 64 bits and a column part in 32: one image, and one weight, has fewer than 2³¹ elements; a batch
may have more.
"""

from .forward import masked_conv_forward
from .input_grad import masked_conv_input_grad
from .mask_grad import masked_conv_mask_grad

__all__ = ["masked_conv_forward", "masked_conv_input_grad", "masked_conv_mask_grad"]
