"""Image folders, one per image; `load_image("qwend_images:NAME", FLAVOUR)` reads one."""
