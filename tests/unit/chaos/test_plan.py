"""The plan of a chaos run, and what is left of it on a slow machine."""

from __future__ import annotations

from tests.chaos.plan import make


def test_a_window_moves_with_the_steps_before_it() -> None:
    """Else it would be compared with a time in which the consumer was still well."""
    # Given a plan, of which the step that makes a consumer ill comes 3 s late, and what follows as much later
    plan = make(1, short=True)
    (ill,) = (step.at for step in plan.steps if (step.what, step.value) == ("door", "refuse"))
    delays = [(step.at, 3.0 if step.at >= ill else 0.5) for step in plan.steps]
    # Then the windows of illness are as much later, and that before them hardly
    done = plan.windows_as_done(delays)
    moved = {name: (done[name][0] - start, done[name][1] - end) for name, (start, end) in plan.windows.items()}
    assert {name: (round(first, 6), round(last, 6)) for name, (first, last) in moved.items()} == {
        "calm": (0.5, 0.5),
        "door refuses": (3.0, 3.0),
        "tar hangs": (3.0, 3.0),
    }
