"""Adversarial Weight Masking: the recipe, the two phases of an epoch, and what they work on."""
