"""Tests of the demo's parts: the sample application, its logout tokens, the browser without JavaScript."""
