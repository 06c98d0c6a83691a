"""What a stage is given: bases, subjects, runs, workspaces and devices, found or refused in one voice."""
