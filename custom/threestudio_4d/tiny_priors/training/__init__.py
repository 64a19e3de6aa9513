"""The training of all built-in priors: ``loop``, settings of those from text (``text``), and where a training starts
(``initial_weights``).
"""
