"""The parts of the GPU kit: each module holds one `PART`."""
