"""Arrays in, numbers out: the geometry of a cloud of points, through DADApy."""
