"""`make bench`: figures of the release binaries, as a table and as JSON under target/bench/."""
