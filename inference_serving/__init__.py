"""The serving layer: requests in, batches, execution traces and latencies out.

Reading guide: ``simulation.py`` (the event loop), ``scheduler.py`` (which tokens run next),
``trace_generator.py`` (what a batch costs), then whatever interests you.
"""
