"""Runhook beside what people would use instead."""
