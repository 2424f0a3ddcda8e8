"""User stories end to end: processes of their own, real pages, independent counterparts."""
