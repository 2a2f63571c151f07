"""The backends that are compared."""

import sys

# OpenVINO reports each conversion to Google Analytics, from a forked process. Without this package it does not.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
