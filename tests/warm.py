"""What every run does once: read the fields of the configuration, compile the template of the page, import the formats of images.

The fork server of `tests.support` imports this module, and so no rank does it again. It took a rank 0.1 s of 0.6 s.
"""

from PIL import Image

from distrib.config.fields import all_fields
from distrib.page import template
from distrib.training.recipe import RunConfig

all_fields(RunConfig)
template.templates().environment.get_template("page.html.jinja")
Image.preinit()
