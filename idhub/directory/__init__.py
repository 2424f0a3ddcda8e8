"""Who exists: principals, people, organizations, departments, employments, and what each source said of them.

Owns those tables and the reading of them. Does not decide standing: `idhub.lifecycle.transition` alone writes it.
Entry points: `tables`, `people` (find and show), `organizations` (tree), `search`.
"""
