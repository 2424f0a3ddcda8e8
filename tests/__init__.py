"""Tests of idhub. Each folder mirrors a package; `flows` tells user stories end to end."""
