"""Fused C++ operators and their plain torch twins."""
