"""Nothing: text-only training never asks it for anything."""
