"""Store deliveries and attempts: claims, outcomes, recovery, order, replay."""
