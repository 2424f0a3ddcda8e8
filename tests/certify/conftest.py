"""What of this folder is for a make target of its own."""

import os

# It builds a program of another language from its registry (`make receiver-proof`): no Debian package has its compiler.
collect_ignore = [] if os.environ.get("RECEIVER_PROOF") == "1" else ["test_event_receiver.py"]
