"""The planner worker: the only process in which plugin code runs.

`__main__` is that process, `verbs` what it can be asked, `catalog` finds plugins and leaves broken ones out, `guarded`
stands around every call into one. On the daemon's side are `client` and `process`; `wire` is what both say to one
another, `breadcrumb` how the daemon knows which plugin hangs, `stamps` how it knows that something changed.
"""
