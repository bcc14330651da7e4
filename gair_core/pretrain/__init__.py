"""Pretraining: the data store, its sampler and augmentation, and the contrastive training engine.

What training imports needs neither rasterio, GDAL, pyproj, zarr nor geopandas: GPU machines may lack them.
"""
