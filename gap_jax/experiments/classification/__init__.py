"""The parts that all classification experiments share: settings, the task, and building blocks of worlds."""
