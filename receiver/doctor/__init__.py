"""What `runhook doctor` finds out: each thing that Runhook needs, tried from here, and what to do where it fails.

`receiver/status` says what is wrong now with what runs. This asks servers, names and sinks questions that cost too much
to be asked each time, and changes nothing.
"""
