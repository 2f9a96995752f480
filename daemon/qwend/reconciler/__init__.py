"""The only owner of change: one mailbox per step, each deciding by the lifecycle and ordering effects.

`mailbox` holds a step's row and its queue, `enact` performs what the lifecycle asks for, `watch` probes what runs,
`outcome` takes what was made into the store, `desk` gives out leases, `runs` walks a recipe's graph, `reconciler`
routes exits and recovers after a crash, `world` is what they are given: the effects,
and nothing of who implements them.
"""
