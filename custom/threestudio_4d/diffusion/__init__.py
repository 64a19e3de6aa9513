"""Models that priors are made of, published and built in: networks, checkpoints and samplers, one folder a model.

``model`` holds what diffusion models share (noise schedules, classifier-free guidance, sampling), ``codec`` the pixel
codec of small priors, ``text`` sentences as embeddings, ``weights/`` the one place that finds and reads the weights of
any model. ``lgm/`` turns four views into Gaussians. Nothing here registers with threestudio: ``guidance/`` distils from
these models, ``tiny_priors/`` trains small ones.
"""
