"""Tests of `idhub.login`."""
