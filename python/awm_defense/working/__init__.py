"""The working copy of a network: folded, with flat masks, in the precision that suits it."""
