"""What models are for: energies (:mod:`.potential`) or tensors (:mod:`.tensor`).

All that differs between the two stands behind :class:`kan_md.tasks.task.Task`; training, deploying
and evaluating ask it and know nothing else of the difference.
"""
