"""Import this before torchvision, or what imports it.

A torchvision that was built for another torch, like the one for CUDA beside a torch for the CPU,
can't load its compiled operators, and refuses to be imported without them. Networks that classify
use none: it is enough that those it asks for are known by name.
"""

import torch

try:
    import torchvision
except RuntimeError:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
