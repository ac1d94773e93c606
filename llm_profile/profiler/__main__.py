"""``python -m llm_profile.profiler``."""

from llm_profile.profiler.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
