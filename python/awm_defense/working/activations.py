"""ELU, and ELU or ReLU in front of max-pooling, as one op each."""

from collections import Counter

from torch import Tensor, fx, nn

from awm_kernels import pooled_elu


class PooledELU(nn.Module):
    """`awm_kernels.pooled_elu`; without pooling if the window is 1, ReLU if alpha is 0."""

    def __init__(self, window: int, alpha: float) -> None:
        super().__init__()
        self.window, self.alpha = window, alpha

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, h // window, w // window)."""
        return pooled_elu(x, self.window, alpha=self.alpha)


def fuse_activations(traced: fx.GraphModule) -> None:
    """Put `PooledELU` for each ELU, and for what can be joined with the pooling behind it.

    In place, for modules that are called once and follow a 2d convolution. The network stays the
    same function of images: max-pooling and an activation that never decreases may change places.
    """
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or calls[node.target] != 1:
            continue
        activation = modules[str(node.target)]
        before = node.args[0] if node.args else None
        if type(activation) not in (nn.ELU, nn.ReLU) or not _is_conv(before, modules):
            continue
        alpha = activation.alpha if isinstance(activation, nn.ELU) else 0.0
        pooling = _pooling_behind(node, modules, calls)
        if pooling is not None:
            pooling.replace_all_uses_with(node)
            traced.graph.erase_node(pooling)
        elif isinstance(activation, nn.ReLU):
            continue
        traced.set_submodule(str(node.target), PooledELU(1 if pooling is None else 2, alpha))
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()


def _is_conv(node: object, modules: dict[str, nn.Module]) -> bool:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return False
    return isinstance(modules[str(node.target)], nn.Conv2d)


def _pooling_behind(
    node: fx.Node, modules: dict[str, nn.Module], calls: Counter[object]
) -> fx.Node | None:
    """The call of a 2x2 pooling that alone takes this node's result."""
    (user, *others) = node.users or (None,)
    if user is None or others or user.op != "call_module" or calls[user.target] != 1:
        return None
    pool = modules[str(user.target)]
    plain = isinstance(pool, nn.MaxPool2d) and (
        pool.kernel_size in (2, (2, 2))
        and pool.stride in (2, (2, 2))
        and pool.padding in (0, (0, 0))
        and pool.dilation in (1, (1, 1))
        and not pool.ceil_mode
        and not pool.return_indices
    )
    return user if plain else None
