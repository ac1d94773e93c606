"""Where latencies come from: model shapes, measured tables and calibrated hardware descriptions.

Start with :mod:`llm_profile.latency` (the Protocol and :func:`~llm_profile.latency.open_latency_model`), then
:mod:`llm_profile.layers` (what a layer reads, writes and computes) and :mod:`llm_profile.model_config`.
"""
