"""The artifact store: content-addressed folders on disk.

    objects/<digest>/…              files 0444, folders 0555; hard-linked to one another where they are equal
    views/<digest>/…                links to files that stay where the user has them
    manifests/<fingerprint>.json    what a fingerprint made: survives the loss of any database
    work/<fingerprint>/             out/, scratch/, report.jsonl of a job; sealed.json while it is taken in
    published/                      what was put at host paths (`out:`), so that only that is ever replaced
    quarantine/                     what `verify` found damaged
    staging/                        on its way in or out; emptied when the store is opened
    cache.db                        digests of the user's own files by device, inode, size and times; may be lost

`ArtifactStore` is the door; the modules behind it are blocking and run in threads.
"""

from qwend.adapters.store.store import ArtifactStore

__all__ = ["ArtifactStore"]
