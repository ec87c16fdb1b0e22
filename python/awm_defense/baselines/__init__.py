"""The defenses that Adversarial Weight Masking is compared with, and what they need."""

from awm_defense.baselines.anp import Anp
from awm_defense.baselines.baseline import Baseline, Erased, Task
from awm_defense.baselines.clp import Clp
from awm_defense.baselines.finetune import FineTune
from awm_defense.baselines.ibau import Ibau

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Anp(name="anp"),
        # The AWM paper's Eq. 4.1: soft masks on weights, learned as AWM learns them. Normalising by
        # the batch would hide that masks make what BatchNorm gets smaller.
        Anp(
            name="anp-swm",
            units="weights",
            mask_optimizer="adam",
            mask_lr=0.01,
            batch_statistics=False,
            prune=False,
        ),
        Ibau(name="ibau"),
        FineTune(name="finetune"),
        FineTune(name="fine-pruning", prune=True),
        Clp(name="clp"),
    )
}

__all__ = ["BASELINES", "Anp", "Baseline", "Clp", "Erased", "FineTune", "Ibau", "Task"]
