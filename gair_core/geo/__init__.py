"""Where a scene lies on the ground: footprints, pixel grids and windows."""
