// Wide tables, which the theme wraps in boxes that scroll, can be scrolled by keys, too.
document$.subscribe(() =>
  requestAnimationFrame(() => document.querySelectorAll(".md-typeset__scrollwrap").forEach((box) => (box.tabIndex = 0)))
);
