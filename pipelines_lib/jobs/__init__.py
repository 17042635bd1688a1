"""The stages: one module each, run as `python -m pipelines_lib.jobs.<stage> --spec <path>`.

Every module is a `main()` that reads like a table of contents, and hands its work to `run_stage`.
"""
