"""Banks as their clients see them: what their answers and events mean, their credentials, calls over HTTP."""
