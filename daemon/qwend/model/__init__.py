"""Frozen data, and nothing else: what the rooms hand to one another.

Every type here but the recipe is a `msgspec.Struct`: it serialises to JSON as it is, costs the daemon
little memory, and is checked when it is decoded. The recipe (`model.recipe`) is made of pydantic models,
since it is what a person wrote; only the planner worker imports it.
"""
