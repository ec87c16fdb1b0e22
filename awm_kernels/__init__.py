"""Fused kernels for networks with elementwise weight masks and universal triggers."""

from awm_kernels._backend import BACKENDS, OPS, backends, choose
from awm_kernels._choice import Choice, conv_choices
from awm_kernels.l1_project import l1_project_
from awm_kernels.l1_rescale import l1_rescale_
from awm_kernels.mask_step import mask_step_
from awm_kernels.masked_conv import (
    MaskedConv1d,
    MaskedConv2d,
    MaskedConv3d,
    masked_conv1d,
    masked_conv2d,
    masked_conv3d,
)
from awm_kernels.masked_linear import MaskedLinear, masked_linear
from awm_kernels.masked_weight import masked_weight
from awm_kernels.perturb import perturb
from awm_kernels.pooled_elu import pooled_elu
from awm_kernels.trigger_step import trigger_step_

__version__ = "0.1.0"

__all__ = [
    "BACKENDS",
    "OPS",
    "Choice",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedConv3d",
    "MaskedLinear",
    "backends",
    "choose",
    "conv_choices",
    "l1_project_",
    "l1_rescale_",
    "mask_step_",
    "masked_conv1d",
    "masked_conv2d",
    "masked_conv3d",
    "masked_linear",
    "masked_weight",
    "perturb",
    "pooled_elu",
    "trigger_step_",
]
