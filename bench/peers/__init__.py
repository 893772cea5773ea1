"""Apps on task queues that do the same work as Runhook, each set up as its documentation recommends for throughput."""
