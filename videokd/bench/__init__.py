"""The benchmark room: complexity, latency, and the report that puts accuracy beside them."""
