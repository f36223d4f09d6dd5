"""The host lane: CUDA kernels compiled by g++ and driven by the code that launches them on a device."""
