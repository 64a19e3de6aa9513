"""Networks of priors, one folder each. ``lgm`` turns four views into Gaussians."""
