"""The device's peak, the work of an image, and the engine beside both.

The engine is measured in this process, so its environment is set before any module here imports torch.
"""

from deployments.replica.process_env import prepare_for_torch

prepare_for_torch()
