// Code and wide tables that scroll can be scrolled by keys, too. The theme wraps the tables, and is waited for.
// Its search is a dialog without a name.
document$.subscribe(() => {
  document.querySelector(".md-search").ariaLabel = "Search";
  setTimeout(() => {
    for (const box of document.querySelectorAll(".md-typeset__scrollwrap, pre > code")) box.tabIndex = 0;
  }, 500);
});
