"""Steps as processes of this machine, under supervisord with our own RPC interface.

`supervisor` is the daemon's side; `rpcinterface` runs inside supervisord. The two share the modules that
import only the standard library: `identity`, `processes`, `journal`, `places`.
"""
