"""Fetch results whose webhook never arrived, and hand them to `dispatch`. The clock and `runhook reconcile` call it."""
