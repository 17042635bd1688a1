"""Pods, as both worlds know them: the template they are made from, and how they end."""
