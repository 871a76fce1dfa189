"""Findings of other papers about the same landscapes."""
