"""Checks the built site without a network: every link and picture leads to a file, and every anchor exists.

Run it as `python docs/check_links.py site`. It also refuses pages that load anything from another host.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "srcset"}


class Page(HTMLParser):
    """The links, the loaded addresses and the anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag refers to."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if LOADED.get(tag, "") in given and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.add(given[LOADED[tag]])


def problems(site: Path) -> list[str]:
    """Return what is wrong with the links of all pages below `site`, a line each."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        place = path.relative_to(site.resolve())
        for link in sorted(page.links | page.loaded):
            address = urlsplit(link)
            if address.scheme in ("data", "mailto"):
                continue
            if address.scheme or address.netloc:
                if link in page.loaded:
                    found.append(f"{place} loads {link} from another host")
                continue
            # 404.html counts from the site's root
            start = site if address.path.startswith("/") else path.parent
            target = (start / unquote(address.path).lstrip("/")).resolve() if address.path else path
            if not target.is_file():
                found.append(f"{place} links to {link}, which does not exist")
            elif target in pages and unquote(address.fragment) not in pages[target].anchors:
                found.append(f"{place} links to {link}, but that page has no such anchor")
    return found if pages else [f"{site} has no pages"]


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    sys.exit("\n".join(lines) or None)
