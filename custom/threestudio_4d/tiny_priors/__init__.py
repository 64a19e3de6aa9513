"""How the small built-in priors are made: from folders of assets to captioned pictures and clips, and the trainings.

``assets/`` reads and makes moving models, ``rendering/`` draws them, ``sampling/`` draws training batches on the
device, ``training/`` is the loop of all priors; then one folder a prior: ``networks``, ``train``, ``evaluation`` and
``sheet``. Nothing here registers with threestudio, so the extension does not import it.
"""
