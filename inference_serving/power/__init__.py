"""Power and energy: what each part of a node draws (docs/power.md).

``schema`` is the ``power`` block of a cluster config, ``component`` what a part has to say of itself,
``components`` the parts there are, ``ledger`` the books of one node.
"""
