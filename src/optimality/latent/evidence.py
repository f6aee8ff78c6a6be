"""Evidence without sampling, for one and two latents, and the exact importance-weighted bound.

skeleton: quadrature_evidence, exact_importance_weighted_bound.
"""
