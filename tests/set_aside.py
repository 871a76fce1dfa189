"""Imported last by the server whose copies the tests run: they do not collect what it imported.

Those are so many objects that each collection took half a second, and pytest makes two as it ends.
"""

import gc

gc.collect()
gc.freeze()
