"""Other forms of upstream's models with the same parameters: the same numbers, faster.

A form owns nothing: it reads the parameters of the model that upstream built, makes products of
them that do not depend on the structure, and evaluates energies with those. Training differentiates
through the products; the deploy step freezes them.
"""
