// Code and wide tables that scroll can be scrolled by keys, too. The theme wraps the tables, and is waited for.
document$.subscribe(() =>
  setTimeout(() => {
    for (const box of document.querySelectorAll(".md-typeset__scrollwrap, pre > code")) box.tabIndex = 0;
  }, 500)
);
