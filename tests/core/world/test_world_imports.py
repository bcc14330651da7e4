import subprocess
import sys

HEAVY = ("torch", "rasterio", "pyproj", "geopandas", "PIL", "pandas", "zarr")


def test_world_needs_numpy_alone():
    """The core of the world runs on machines without GDAL, PROJ and PyTorch."""
    code = f"import sys, gair_core.world; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
