"""Tests of the ground itself: machines, network, metadata service, control plane, life and death of worlds."""
