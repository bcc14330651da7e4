"""Loads a raster with its style in QGIS and draws it; test_styles runs it with a Python that has PyQGIS.

Arguments: raster, style, picture to write. Prints one JSON object.
"""

import json
import sys

from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
)
from qgis.PyQt.QtCore import QSize


def draw(raster, style, picture):
    layer = QgsRasterLayer(raster, "raster")
    message, loaded = layer.loadNamedStyle(style)
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setExtent(layer.extent())
    settings.setDestinationCrs(layer.crs())
    settings.setOutputSize(QSize(300, 200))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    image.save(picture)
    provider = layer.dataProvider()
    print(
        json.dumps(
            {
                "valid": layer.isValid(),
                "loaded": loaded,
                "message": message,
                "renderer": layer.renderer().type(),
                "legend": [label for label, _ in layer.renderer().legendSymbologyItems()],
                "data_type": int(provider.dataType(1)),
                "corner": image.pixelColor(5, 100).getRgb(),
                "middle": image.pixelColor(150, 100).getRgb(),
                "end": image.pixelColor(294, 100).getRgb(),
            }
        )
    )


application = QgsApplication([], False)
application.initQgis()
# In a function, so that the layer is gone before QGIS is: the other order crashes.
draw(*sys.argv[1:])
sys.stdout.flush()
application.exitQgis()
