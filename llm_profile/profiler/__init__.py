"""Measure the layers and the attention of a model on one device with PyTorch, as tables that a simulation reads.

``python -m llm_profile.profiler --help``. Start reading with :mod:`~llm_profile.profiler.plan` (what is
measured), :mod:`~llm_profile.profiler.model` (the model of one rank) and
:mod:`~llm_profile.profiler.run` (measuring and resuming); ``tables.py`` and ``bundle.py`` write the two layouts.
Only ``device.py``, ``model.py``, ``attention.py``, ``moe.py`` and ``measure.py`` import torch.
"""
