"""Fine-tuning: tasks, data sets and heads that are trained from polygons."""
