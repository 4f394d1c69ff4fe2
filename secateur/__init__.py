"""Secateur cuts trained convolutional networks to a budget, and proves that the cut is exact."""
