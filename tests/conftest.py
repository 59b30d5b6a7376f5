"""Test processes run side by side: one thread each, for themselves and for what they start (set before torch is imported)."""
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")
