"""Arrays in, numbers out: the geometry of a cloud of points; ID, density and peaks are DADApy's."""
