"""Tests of the audit spoke."""
