"""What the daemon does when it is asked: the meeting point of planner, reconciler, store and images.

It stands between the API, which knows only `api.control.Control`, and the rooms below it.
"""
