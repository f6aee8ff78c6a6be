"""A posterior for each observation by itself, and what an encoder loses against it.

skeleton: refine, infer_per_datum, amortization_gap.
"""
