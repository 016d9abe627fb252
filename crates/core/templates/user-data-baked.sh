[ -x "$binary" ] || { say "step=binary the image has no $binary and the plan names no gateway artifact"; exit 1; }
