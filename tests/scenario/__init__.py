"""What demo, scenario tests and benchmarks share: a world with the chart installed and the operator at work in it."""
