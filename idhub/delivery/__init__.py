"""Durable effects towards other systems.

Owns delivery rows, their lanes, leases, attempts and evidence, and the protocol that a channel speaks. Knows neither
what a channel sends nor why. Entry points: `channel` (the protocol), `queue` (lease, settle), `http` (guarded client).
"""
