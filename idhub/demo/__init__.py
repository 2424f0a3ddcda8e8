"""The story of `make demo`: sample group, sample applications, and the narrator that drives them.

Owns: everything that exists only to show idhub at work. Does not own: anything the hub needs to run.

Entry points: `idhub.demo.sample` (the group and its HR file).
"""
