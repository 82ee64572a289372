"""What computes a network on a CPU: PyTorch, or OpenVINO where that is installed, chosen by measurement.

To remove OpenVINO, delete this folder and `tests/engine/inference/backends`, and pass no computation to `Forward`.
"""
