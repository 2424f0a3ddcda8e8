"""Security event tokens: what the hub tells applications by itself when somebody's access changes.

Owns the back-channel logout channel and its planner. Does not own sessions (`idhub.credentials`) nor the queue that
carries its deliveries (`idhub.delivery`). Entry points: `backchannel` (the channel), `planner` (its deliveries).
"""
