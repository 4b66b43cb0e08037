"""Read by each Python process that the tests start: imports are most of their time, and its collector a fifth of that.

It looks at all objects again and again while thousands of modules are loaded, and finds nothing to collect.
"""

import gc

gc.set_threshold(50_000, 20, 100)
