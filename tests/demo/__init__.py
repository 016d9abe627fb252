"""`make demo`: the product's main job, from apply to nothing left."""
