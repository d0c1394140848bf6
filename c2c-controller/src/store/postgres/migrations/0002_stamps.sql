-- There may be records of routers' tags and of when policies changed, which an earlier controller does not know.
UPDATE c2c.about SET schema = 2;
